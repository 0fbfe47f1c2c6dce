"""Bring a model or a data set from a hub to a folder, whole or not at all; what is there already is not fetched again.

A new folder is filled under a hidden name beside its own (`models/OWNER/.NAME.fetch`) and renamed when everything is
there and readable, so `plan` and `run` never meet half a checkpoint. A folder that exists is completed: what is missing
or differs arrives under its hidden `.fetch` and is moved when all of it is there.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import Any

from harness.checkpoints import headers
from harness.hub import Hub, Kind, RemoteFile, Repo, Unreachable, hub
from harness.util import files
from harness.util.errors import CellFailed, Fault, Refused
from harness.util.places import DATA, MODELS
from harness.util.progress import Reporter

INDEX = "model.safetensors.index.json"
WORKERS = 4
"""Files fetched at a time."""
SPARE = 64 << 20
"""Bytes that must be free beyond what is fetched."""
STAYS = "what has arrived stays, the same command goes on from there"
LARGE = 64 << 20
"""A file of this many bytes gets a line of its own."""

TEXTS = r"(readme(\.[\w-]+)?\.md|([\w-]*licen[cs]e[\w-]*|notice|use_policy)(\.(txt|md|rst))?)"
MODEL_FILES = re.compile(rf"(?i)({TEXTS}|.*\.(safetensors|json|txt|jinja|model|tiktoken)|additional_chat_templates/.*\.jinja)")
"""Configuration, tokenizer, processor, templates, weights, licence. Nothing here is in a subfolder but templates."""
MODEL_REST = re.compile(r"consolidated.*|(configuration|params|trainer_state)\.json|.*\.(bin|h5|msgpack)\.index\.json")
"""The vendor's own copy of the weights, and what other programs read (configuration.json is ModelScope's)."""
DATA_FILES = re.compile(rf"(?i)(.*/)?({TEXTS}|.*\.(parquet|json|jsonl|jsonl\.gz))")


def fetch(kind: Kind, name: str, source: str, revision: str | None, output: Path | None, report: Reporter) -> Path:
    """Fetch what is missing of repository `name` (OWNER/NAME) and return its folder.

    `source` is `modelscope` or `huggingface`. Raises Refused when it cannot work (no such repository or revision, no
    permission, no room), CellFailed when it broke off; what has arrived then stays, and the same call goes on.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise Refused(Fault(f"{kind} {name}", "is no repository's name", "write OWNER/NAME, as Qwen/Qwen3-VL-8B-Instruct"))
    output = output or (MODELS if kind == "model" else DATA) / name
    if output.exists() and not output.is_dir():
        raise Refused(Fault(str(output), "is a file", "name a folder with --output"))
    place = hub(source)
    repo = Repo(kind, name, revision or place.default_revision)
    report.stage(f"ask {place.label} ({place.host}) for {repo}, revision {repo.revision}")
    target = _Target(output, {"source": source, "kind": kind, "repo": name, "revision": repo.revision})
    try:
        wanted = needed(repo, place.files(repo))
    except Unreachable as error:
        if not target.as_recorded():
            raise
        check(kind, output)
        report.line(f"{error}; {output} is complete as it was fetched, whether the hub has changed since is not known")
        return output
    try:
        _bring(place, repo, wanted, target, report)
    except files.Locked as held:
        raise Refused(Fault(str(output), f"is being fetched by process {held.holder}", "wait for it, or end it")) from None
    except Unreachable as error:
        raise Unreachable(f"{error}; {STAYS}") from None
    except OSError as error:
        raise CellFailed(f"cannot write {error.filename or output}: {error.strerror or error}; {STAYS}") from None
    return output


def needed(repo: Repo, listed: list[RemoteFile]) -> list[RemoteFile]:
    """The files of a listing that are of use here, in its order. Raises Refused when they make no model or data set."""
    for file in listed:
        if PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts:
            raise Refused(Fault(str(repo), f"lists a file outside itself, {file.path!r}"))
    visible = [f for f in listed if not any(part.startswith(".") for part in PurePosixPath(f.path).parts)]
    if repo.kind == "dataset":
        found = [f for f in visible if DATA_FILES.fullmatch(f.path)]
        if not any(PurePosixPath(f.path).suffix in (".parquet", ".json", ".jsonl", ".gz") for f in found):
            raise Refused(Fault(str(repo), "holds no .parquet, .jsonl or .json file"))
        return found
    found = [
        f
        for f in visible
        if MODEL_FILES.fullmatch(f.path)
        and not MODEL_REST.fullmatch(f.path)
        and ("/" not in f.path or f.path.startswith("additional_chat_templates/"))
    ]
    lacks = [
        what
        for what, pattern in (("config.json", r"config\.json"), (".safetensors file", r".*\.safetensors"))
        if not any(re.fullmatch(pattern, f.path) for f in found)
    ]
    Refused.if_any(Fault(str(repo), f"holds no {what}", "a checkpoint in safetensors format is needed") for what in lacks)
    return found


class _Target:
    """The folder that is filled, and what is in it."""

    def __init__(self, output: Path, origin: dict[str, str]):
        self.output, self.origin = output, origin
        self.base = output if output.is_dir() else output.with_name(f".{output.name}.fetch")
        """Where files go; renamed to `output` at the end when that is not there."""
        self.own = self.base / ".fetch"
        """What no reader of the folder looks into: a content hash takes the files beside it, not this one's."""
        self.arriving = self.own / "files"
        self.record = self.own / "record.json"
        try:
            self._known: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    @property
    def repo(self) -> str | None:
        """The repository that an earlier fetch brought here."""
        return self._known.get("origin", {}).get("repo")

    def holds(self, file: RemoteFile) -> bool:
        """Whether the file is in its place, whole. Files that were hashed before are not read again while unchanged."""
        place = self.base / file.path
        kept = self._known.get("files", {}).get(file.path)
        return (kept is not None and kept == _stamp(place, file)) or file.is_at(place)

    def as_recorded(self) -> bool:
        """Whether everything that an earlier fetch of the same repository brought is still there, unchanged."""
        kept: dict[str, dict[str, Any]] = self._known.get("files", {})
        return (
            bool(kept)
            and self._known.get("origin") == self.origin
            and self.base == self.output
            and all(
                stamp == _stamp(self.base / path, RemoteFile(path, stamp["size"], stamp["digest"]))
                for path, stamp in kept.items()
            )
        )

    def settle(self, wanted: list[RemoteFile]) -> None:
        """Move what has arrived to its place, and note what is there."""
        for file in wanted:
            if (self.arriving / file.path).is_file():
                (self.base / file.path).parent.mkdir(parents=True, exist_ok=True)
                (self.arriving / file.path).replace(self.base / file.path)
        known = {"origin": self.origin, "files": {f.path: _stamp(self.base / f.path, f) for f in wanted}}
        if known != self._known:
            files.write_json(self.record, known)

    def appear(self) -> None:
        """Throw away what downloading left, and give the folder its name."""
        for path in self.own.iterdir():
            if path != self.record:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.base != self.output:
            self.base.rename(self.output)


def _stamp(place: Path, file: RemoteFile) -> dict[str, Any] | None:
    """A file as it is listed and, to tell whether it was changed since, as it is on the disk; None when it is not there."""
    if not place.is_file():
        return None
    stat = place.stat()
    return {"size": file.size, "digest": file.digest, "bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}


def _bring(place: Hub, repo: Repo, wanted: list[RemoteFile], target: _Target, report: Reporter) -> None:
    size = sum(f.size for f in wanted)
    report.stage(f"look at what is in {target.output}")
    missing = [f for f in wanted if not target.holds(f)]
    if not missing and target.base == target.output:
        check(repo.kind, target.output)
        with contextlib.suppress(OSError):  # a folder that may only be read is as complete
            target.settle(wanted)
        report.line(
            f"{target.output} is complete: {_count(wanted)}, {_gib(size)}, as {place.host} lists them; nothing to fetch"
        )
        return
    Refused.if_any(_not_ours(repo, missing, target))
    _room(target, missing)
    with files.lock(target.own / "lock"):
        todo = [f for f in missing if not f.is_at(target.arriving / f.path)]
        report.line(
            f"{repo}: {_count(wanted)}, {_gib(size)}; {len(wanted) - len(todo)} here, "
            f"{len(todo)} to fetch ({_gib(sum(f.size for f in todo))})"
        )
        meter = _Meter(report, sum(f.size for f in todo))
        # Small files first: the index tells which weights there must be, before any of them is fetched.
        for part in (
            [f for f in todo if not f.path.endswith(".safetensors")],
            [f for f in todo if f.path.endswith(".safetensors")],
        ):
            if repo.kind == "model" and part:
                _index_is_listed(repo, place, wanted, target)
            _download(place, repo, part, target.arriving, meter, report)
        if repo.kind == "model":
            _index_is_listed(repo, place, wanted, target)
        target.settle(wanted)
        report.stage("check that everything can be read")
        check(repo.kind, target.base)
        target.appear()
    report.line(f"{target.output} is complete: {_count(wanted)}, {_gib(size)}")


def _download(place: Hub, repo: Repo, wanted: list[RemoteFile], folder: Path, meter: _Meter, report: Reporter) -> None:
    """Fetch files side by side; the first that fails ends all, and what has arrived of the others stays."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def one(file: RemoteFile) -> None:
        if stop.is_set():
            return
        try:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            place.download(repo, file, folder, lambda here: meter.at(file.path, here), stop)
        except BaseException as error:
            failed.append(error)  # before the others are stopped, so that theirs come after it
            stop.set()
            return
        meter.at(file.path, file.size)
        if file.size >= LARGE:
            report.line(f"{file.path} is here ({_gib(file.size)})")

    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            wait([pool.submit(one, file) for file in wanted])
        except BaseException:  # interrupted: end what is under way within a moment
            stop.set()
            raise
    if failed:
        raise failed[0]


class _Meter:
    """Bytes that are here, over all files, to the reporter in MiB."""

    def __init__(self, report: Reporter, total: int):
        self._report, self._total = report, total
        self._here: dict[str, int] = {}
        self._shown = -1
        self._lock = threading.Lock()

    def at(self, path: str, here: int) -> None:
        """`here` bytes of a file are here."""
        with self._lock:
            self._here[path] = here
            done = sum(self._here.values())
            if done >> 20 != self._shown and done < self._total:
                self._shown = done >> 20
                self._report.update(self._shown, -(-self._total >> 20), "fetch, MiB")


def _not_ours(repo: Repo, missing: list[RemoteFile], target: _Target) -> list[Fault]:
    """Files that would be written over although no fetch of this repository made them; weights cut short are replaced."""
    right = "name another folder with --output, or remove it"
    if target.base != target.output:
        return []
    if holds := target.repo:
        return [] if holds == repo.name else [Fault(str(target.output), f"holds {holds}", right)]
    return [
        Fault(str(target.base / f.path), "is there and is not the hub's", right)
        for f in missing
        if (target.base / f.path).exists() and not f.path.endswith((".safetensors", ".parquet"))
    ]


def _room(target: _Target, missing: list[RemoteFile]) -> None:
    """Refuse when the disk has no room for what is missing, less what an interrupted fetch has left."""
    left = sum(p.stat().st_size for p in target.arriving.rglob("*") if p.is_file()) if target.arriving.is_dir() else 0
    needs = max(0, sum(f.size for f in missing) - left) + SPARE
    disk = next(p for p in (target.base.absolute(), *target.base.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(disk).free
    if free < needs:
        raise Refused(
            Fault(
                str(target.output),
                f"{_gib(needs)} are needed and {_gib(free)} are free on its disk",
                "make room, or name another disk with --output",
            )
        )


def _index_is_listed(repo: Repo, place: Hub, wanted: list[RemoteFile], target: _Target) -> None:
    """Raise CellFailed when the index names weights that the repository does not hold."""
    index = next((p for p in (target.arriving / INDEX, target.base / INDEX) if p.is_file()), None)
    if index and any(f.path == INDEX for f in wanted):
        absent = sorted(set(_shards(index)) - {f.path for f in wanted})
        if absent:
            raise CellFailed(
                f"{repo} at {place.host} is not whole: {INDEX} names {', '.join(absent)}, which it does "
                "not hold; try another --revision or --from"
            )


def _shards(index: Path) -> dict[str, set[str]]:
    """The files an index names, and the tensors it places in each. Raises CellFailed when it is none."""
    try:
        found: dict[str, set[str]] = {}
        for tensor, shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            found.setdefault(str(shard), set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CellFailed(f"{index}: is no index of weights ({type(error).__name__}: {error})") from None
    return found


def check(kind: Kind, folder: Path) -> None:
    """Raise CellFailed when a file of a fetched folder is missing or cannot be read: headers alone, a second at most."""
    found: list[str] = []

    def look(what: Callable[[], object]) -> None:
        try:
            what()
        except (Refused, CellFailed) as error:
            found.append(str(error).splitlines()[0])

    if kind == "model":
        look(lambda: headers.read_config(folder))
        shards = _shards(folder / INDEX) if (folder / INDEX).is_file() else {}
        for name in shards.keys() | {p.name for p in headers.weight_files(folder)}:
            look(lambda name=name: _readable(folder / name, shards.get(name, set())))  # type: ignore[misc]
    else:
        for path in folder.rglob("*.parquet"):
            if not _is_parquet(path):
                found.append(f"{path}: is no whole parquet file")
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise CellFailed(f"{sorted(found)[0]}{more}; remove what is named and fetch again")


def _readable(shard: Path, tensors: set[str]) -> None:
    if not shard.is_file():
        raise CellFailed(f"{shard}: {INDEX} names it, and it is not there")
    absent = sorted(tensors - headers.header(shard).keys())
    if absent:
        raise CellFailed(f"{shard}: lacks {absent[0]}, which {INDEX} places there")


def _is_parquet(path: Path) -> bool:
    """A parquet file begins and ends with PAR1 (https://parquet.apache.org/docs/file-format)."""
    with path.open("rb") as file:
        begins = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        return begins == file.read(4) == b"PAR1"


def _count(wanted: list[RemoteFile]) -> str:
    return f"{len(wanted)} file{'' if len(wanted) == 1 else 's'}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
