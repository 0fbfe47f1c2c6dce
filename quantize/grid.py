"""One job: the source is loaded once, calibration data is prepared once, searches are shared, cells fail alone.

What is shared and why that is right. llm-compressor's AWQ always searches with a min-max range, whatever observer
the recipe names, and rounds nothing before a layer's outputs go on to the next; so cells that differ only in the
observer have the same search, to the bit, and do it once. The layers' inputs differ between other cells by no more
than BF16 rounding of the smoothed weights, but the forward pass that makes them is a sixtieth of a search: it is
repeated, so that a cell of a grid and the same cell built alone are equal to the byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.errors import CellFailed, Fault, Refused
from harness.files import Locked, digest, file_sha256, folder_sha256, lock, new_folder, write_json
from quantize import calibration, upstream
from quantize.fit import linears, plan_recipe, resolve_ignore
from quantize.recipe import Calibration, Cell, Event, Job
from quantize.verify import verify

log = logging.getLogger("quantize")

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


def build(job: Job, report: Callable[[Event], None]) -> int:
    """Build every cell; return how many failed. Raises Refused before anything is written."""
    return _Builder(job, report).run()


class _Builder:
    def __init__(self, job: Job, report: Callable[[Event], None]):
        self.job = job
        self.report = report
        self.started = time.monotonic()
        self.failed = 0
        self.searches: dict[str, Any] = {}
        self.contents: dict[str, str] = {}
        self.source: Any = None
        self.prepared: Any = None
        self.source_sha256 = ""
        self.timings: dict[str, float] = {}

    def run(self) -> int:
        self.refuse_what_cannot_work()
        with contextlib.ExitStack() as stack:
            for cell in self.job.cells:
                stack.enter_context(_held(cell.output))
            self.load()
            order = self.in_order()
            for index, cell in enumerate(order):
                self.one(cell, index, len(order))
                self.drop_searches(order[index + 1 :])
        return self.failed

    def say(self, message: str, kind: Any = "progress", **more: Any) -> None:
        self.report(Event(kind=kind, message=message, seconds=round(time.monotonic() - self.started, 2), **more))

    # -- before any work -----------------------------------------------------------------------------------------------

    def refuse_what_cannot_work(self) -> None:
        faults = [
            Fault(f"cell {c.name}: output {c.output}", "exists already", "another folder, or force: true")
            for c in self.job.cells
            if c.output.exists() and not self.job.force
        ]
        for cell in self.job.cells:
            found, _ = plan_recipe(self.job.source, cell.recipe, None, interpreter=Path(sys.executable))
            # A fault of the source is every cell's: said once.
            faults += [
                f if f.where.startswith("source") else Fault(f"cell {cell.name}: {f.where}", f.what, f.right) for f in found
            ]
        Refused.if_any(faults)

    def in_order(self) -> list[Cell]:
        """The job's order, with cells that share a search moved up to the first of them."""
        keys = [digest(c.recipe.search_key()) if c.recipe.method == "awq" else c.name for c in self.job.cells]
        return [cell for _, cell in sorted(zip(keys, self.job.cells, strict=True), key=lambda p: keys.index(p[0]))]

    def drop_searches(self, still: list[Cell]) -> None:
        needed = {digest(c.recipe.search_key()) for c in still}
        self.searches = {key: value for key, value in self.searches.items() if key in needed}

    # -- once for the grid ---------------------------------------------------------------------------------------------

    def load(self) -> None:
        cells = self.job.cells
        with self.timed("hash_source"):
            self.source_sha256 = folder_sha256(self.job.source, skip=(MANIFEST,))
        if all(c.recipe.method == "noise" for c in cells):
            return
        calibrates = any(c.recipe.calibrates for c in cells)
        ahead = None
        if calibrates and self.job.calibration.dataset == "demo":
            ahead = calibration.Ahead(self.job.calibration)
        self.say("importing torch and llm-compressor")
        with self.timed("import"):
            upstream.trim()
            from quantize import build as make

            upstream.patch()
        self.say(f"loading {self.job.source}")
        with self.timed("load"):
            try:
                self.source = make.load(self.job.source, self.packed())
            except Exception as error:  # transformers fails in many ways; before any cell each is a refusal, in one line
                log.debug("loading %s", self.job.source, exc_info=True)
                line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise Refused(
                    Fault(
                        f"source {self.job.source}",
                        f"cannot be loaded: {line}",
                        f"a model that transformers {metadata.version('transformers')} knows",
                    )
                ) from None
        if calibrates:
            self.calibrate(self.job.calibration, ahead)

    def packed(self) -> list[str]:
        found = linears(self.job.source)
        recipe = next(c.recipe for c in self.job.cells if c.recipe.method != "noise")
        kept = resolve_ignore(recipe.ignore, found)
        return [one.name for one in found if one.name not in kept]

    def calibrate(self, wanted: Calibration, ahead: calibration.Ahead | None) -> None:
        self.say(f"preparing {wanted.samples} calibration samples from {wanted.dataset}")
        with self.timed("calibration_data"):
            samples = ahead.samples() if ahead else calibration.read(wanted)
            self.prepared = calibration.prepare(wanted, self.source.processor, samples)
        for text in calibration.warnings(self.prepared.facts, self.job.source):
            self.say(text, "warning")

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.timings[what] = round(time.monotonic() - start, 3)

    # -- one cell ------------------------------------------------------------------------------------------------------

    def one(self, cell: Cell, index: int, count: int) -> None:
        start = time.monotonic()
        self.say(f"building {cell.name} ({index + 1} of {count})", cell=cell.name)
        try:
            with _replaced(cell.output, self.job.force) as folder:
                search = self.make(cell, folder)
                self.check(cell, folder)
                self.write_manifest(cell, folder, search, time.monotonic() - start)
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # a cell may fail in any way llm-compressor can; the others go on
            if not isinstance(error, CellFailed):
                log.exception("cell %s", cell.name)
            self.failed += 1
            line = (str(error).strip().splitlines() or [""])[0]
            text = line if isinstance(error, CellFailed) else f"{type(error).__name__}: {line}"
            self.say(f"{cell.name} failed: {text}", "cell_failed", cell=cell.name)
        else:
            self.say(f"{cell.name} built in {time.monotonic() - start:.1f} s", "cell_done", cell=cell.name, output=cell.output)

    def make(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """Write the checkpoint's files into `folder`; return what the search gave."""
        if cell.recipe.method == "noise":
            from quantize import noise

            noise.write(self.job.source, cell.recipe, folder)
            return {}
        from quantize import build as make

        sick = make.unhealthy(self.source.model)
        if sick:
            raise CellFailed(f"the source cannot be quantized: {sick}")
        batches = self.prepared.batches if self.prepared else []
        smoothed = self.search(cell) if cell.recipe.method == "awq" else None
        quantized = make.round_weights(self.source, cell.recipe, smoothed, batches)
        make.write(self.source, cell.recipe, quantized, folder)
        saved = make.observer_in(folder)
        if saved != cell.recipe.observer:
            raise CellFailed(f"observer {cell.recipe.observer} was asked, the saved config says {saved}")
        return quantized.search

    def search(self, cell: Cell) -> Any:
        from quantize import build as make

        key = digest(cell.recipe.search_key())
        if key not in self.searches:

            def progress(done: int, of: int) -> None:
                self.say(f"{cell.name}: searched {done} of {of} layers", cell=cell.name, step=done, steps=of)

            try:
                self.searches[key] = make.search(self.source, cell.recipe, self.prepared.batches, self.job.offload, progress)
            except Exception as error:
                self.searches[key] = error
                raise
        if isinstance(self.searches[key], Exception):
            raise CellFailed(f"the search it shares with another cell failed: {self.searches[key]}")
        return self.searches[key]

    def check(self, cell: Cell, folder: Path) -> None:
        faults = verify(folder, self.job.source).faults
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise CellFailed(f"the finished checkpoint has a fault: {faults[0]}{more}")

    def write_manifest(self, cell: Cell, folder: Path, search: dict[str, Any], seconds: float) -> None:
        content = quantized_sha256(folder)
        notes = []
        if content and content in self.contents:
            notes.append(f"no effect: its quantized tensors equal those of cell {self.contents[content]}")
            self.say(f"{cell.name}: {notes[0]}", "warning", cell=cell.name)
        self.contents.setdefault(content, cell.name)
        files = {p.name: {"sha256": file_sha256(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir()) if p.is_file()}
        write_json(
            folder / MANIFEST,
            {
                "manifest_version": MANIFEST_VERSION,
                "name": cell.name,
                "recipe": cell.recipe.model_dump(mode="json"),
                "source": {"path": str(self.job.source), "sha256": self.source_sha256},
                "calibration": self.prepared.facts if self.prepared and cell.recipe.calibrates else None,
                "compute_dtype": str(self.source.compute_dtype).removeprefix("torch.") if self.source else "bfloat16",
                "search": search,
                "notes": notes,
                "versions": versions(),
                "seconds": {"cell": round(seconds, 3), **self.timings},
                "files": files,
                "quantized_sha256": content,
                "content_sha256": folder_sha256(folder, skip=(MANIFEST,)),
            },
        )


def versions() -> dict[str, str | None]:
    """Releases that can change what is built; None for one that is absent."""
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in ("llmcompressor", "transformers", "torch", "compressed-tensors", "safetensors", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def quantized_sha256(folder: Path) -> str:
    """SHA-256 over the packed weights, scales and zero points of a checkpoint; "" when it has none."""
    from safetensors import safe_open

    total, any_packed = hashlib.sha256(), False
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            header = file.keys()
        wanted = sorted(k for k in header if re.search(r"\.weight_(packed|scale|zero_point)$", k))
        any_packed = any_packed or bool(wanted)
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            table = json.loads(raw.read(size))
            for key in wanted:
                begin, end = table[key]["data_offsets"]
                raw.seek(8 + size + begin)
                total.update(key.encode() + raw.read(end - begin))
    return total.hexdigest() if any_packed else ""


# -- folders that are whole or absent ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _held(output: Path) -> Iterator[None]:
    """Hold the output's lock and clear what builds that were killed left beside it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(output.parent / f".{output.name}.lock"))
        except OSError as error:
            raise Refused(Fault(f"output {output}", f"its parent folder cannot be written ({error.strerror})")) from None
        except Locked as error:
            raise Refused(
                Fault(f"output {output}", f"is being built by process {error.holder}", "wait for it, or give another folder")
            ) from None
        stale = re.compile(rf"\.{re.escape(output.name)}\.[a-z0-9_]{{8}}")
        for path in output.parent.iterdir():
            if path.is_dir() and stale.fullmatch(path.name):
                log.info("removing %s, left by a build that was killed", path)
                shutil.rmtree(path, ignore_errors=True)
        yield


@contextlib.contextmanager
def _replaced(output: Path, force: bool) -> Iterator[Path]:
    """A new folder that becomes `output` when the block ends well; with `force` an old one goes at that moment."""
    old: Path | None = None
    try:
        with new_folder(output) as folder:
            yield folder
            if force and output.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent)) / "old"
                output.rename(old)
    except BaseException:
        if old is not None and old.exists() and not output.exists():
            old.rename(output)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)
