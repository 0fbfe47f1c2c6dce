"""Put a Run's numbers on a model's page on ModelScope: shown as a diff, and made so by one commit when told.

Read, in this order: the Runs, the account, the repository, its branch, its files, its card. Written: nothing here, and one
commit there. Just before it the card is read again; after it, everything that was sent. The hub knows no "only if nothing
has changed": another's commit within that last second is overwritten unseen. Two publishes of one machine exclude each other.
"""

from __future__ import annotations

import contextlib
import difflib
import getpass
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from harness.checkpoints import locate
from harness.hub import Branch, Change, RemoteFile, Uncertain, base
from harness.util import environments, files
from harness.util.errors import CellFailed, Fault, Refused
from harness.util.progress import Reporter
from reports.card import block, edit, public, results
from reports.card.subject import NAME, Subject, blocked, read_subject, stopped

README = "README.md"
VARIABLE = Branch.variable
LARGEST = 50 * 10**9
"""Bytes of one file that ModelScope takes, as its documentation says."""
HEAD = 1024
"""Bytes of a large file that are read back: that they come at all shows that it was stored."""


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    runs: Sequence[Path]
    repo: str
    """OWNER/NAME."""
    branch: str = "master"
    variant: str | None = None
    """None takes the only one that was measured beside the baseline."""
    base_model: str | None = None
    """OWNER/NAME; None takes the suite's model where that is a hub's."""
    language: str = "en"
    model_index: bool = False
    """Hugging Face's form of the results as well."""
    weights: bool = False
    """The checkpoint's files as well."""
    apply: bool = False
    anyway: bool = False
    """Publish although Cells or a gate failed; the card says so."""
    partial: bool = False
    """Publish scores of Runs that stopped before the last question; the card says so."""


def publish(request: Request, report: Reporter, show: Callable[[str], None]) -> str | None:
    """Show what would change and, with `apply`, make it so. Returns the commit's id; None when none was made.

    Raises Refused, before anything is written, for what cannot be published or written to; CellFailed for a hub that
    fails, for a card that was changed meanwhile, and for a commit that is not there when it is read back.
    """
    _check(request)
    subject = read_subject(request.runs, request.variant, request.base_model)
    if not request.partial:
        Refused.if_any(stopped(subject))
    faults = blocked(subject)
    if request.apply and not request.anyway:
        Refused.if_any(faults)
    for fault in faults:
        report.line(f"{'published anyway' if request.apply else '--apply would refuse'}: {fault}")
    for line in _remarks(subject):
        report.line(line)
    branch = _connect(request, report)
    given = [Change.of(results.results_path(run), results.results(run)) for run in subject.runs]
    given += _weights(subject, report) if request.weights else []
    with _alone(branch) if request.apply else contextlib.nullcontext():
        seen = _Seen.of(branch)
        text = _text(branch, seen)
        new, warnings = new_card(text, subject, request)
        for warning in warnings:
            report.line(f"WARNING: {warning}")
        changes = [c for c in [Change.of(README, new.encode()), *given] if not seen.holds(branch, c)]
        _no_secrets(changes, branch)
        if text != new:
            show(diff(text or "", new))
        if not changes:
            report.line(f"nothing changed: {branch.where} holds all of it already")
            return None
        report.line(f"{_said(changes, seen)}; {_size(sum(c.size for c in changes))} in all")
        if not request.apply:
            report.line("nothing was written; --apply makes one commit of it")
            return None
        return _apply(branch, seen, changes, _message(subject), report)


def create(repo: str, visibility: str, report: Reporter) -> None:
    """Create the repository and nothing else. Raises Refused when it is there already, and as `Branch` does."""
    _check(Request([], repo, apply=True))
    branch = _connect(Request([], repo, apply=True), report, look=False)
    branch.create(visibility)
    report.line(
        f"{branch.where} was created, {visibility}, with the licence that the client names, Apache-2.0; nothing is in it"
    )


def new_card(text: str | None, subject: Subject, request: Request) -> tuple[str, list[str]]:
    """The card as it becomes, and warnings. text: the card as it is; None makes one."""
    name = request.repo.partition("/")[2]
    keys = results.keys(subject, name if request.model_index else None)
    made_block = block.block(subject, request.language)
    if edit.MARKER.search(made_block):
        raise Refused(Fault(README, "the block would hold a marker of its own", "rename the variant or task that holds it"))
    made = edit.with_block(f"# {name}\n" if text is None else text, made_block)
    made, warnings = edit.with_keys(made, keys)
    return made, warnings


def diff(old: str, new: str) -> str:
    """A unified diff, in which nothing can move a terminal's cursor."""
    lines = difflib.unified_diff(old.split("\n"), new.split("\n"), README, README, "now", "then", lineterm="")
    return "\n".join("".join(c if c.isprintable() or c == "\t" else "" for c in line) for line in lines)


def token(needed: bool) -> str:
    """From the environment, or typed at a prompt when it is needed. Raises Refused when there is none."""
    found = os.environ.get(VARIABLE, "").strip()
    if not found and needed and sys.stdin is not None and sys.stdin.isatty():
        found = getpass.getpass("ModelScope token (it is not shown): ", stream=sys.stderr).strip()
    if needed and not found:
        raise Refused(Fault(VARIABLE, "is not set", "set it to a token that may write (modelscope.cn/my/myaccesstoken)"))
    return found


def _check(request: Request) -> None:
    faults = []
    if not NAME.fullmatch(request.repo):
        faults.append(Fault(f"--repo {request.repo}", "is no repository's name", "write OWNER/NAME"))
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", request.branch):
        faults.append(Fault(f"--revision {request.branch}", "is no branch's name", "for example master"))
    Refused.if_any(faults)


def _connect(request: Request, report: Reporter, look: bool = True) -> Branch:
    """The branch, after account, repository and branch were looked at."""
    with report.paused():
        held = token(request.apply)
    branch = Branch(request.repo, request.branch, held)
    report.stage(f"ask ModelScope ({branch.host}) for {branch.repo}, branch {request.branch}")
    if held:
        report.line(f"the token is {branch.account()}'s")
    if look:
        visible = branch.visibility()
        branch.check_branch()
        report.line(f"{branch.where} is there{f', {visible}' if visible else ''}")
    return branch


@contextlib.contextmanager
def _alone(branch: Branch) -> Iterator[None]:
    """Hold the repository against other publishes of this machine. Raises Refused when one is at it."""
    name = files.digest([branch.host, branch.repo.name])
    try:
        with files.lock(environments.cache_folder() / "publish" / f"{name}.lock"):
            yield
    except files.Locked as held:
        raise Refused(Fault(str(branch.repo), f"is being published by process {held.holder}", "wait for it")) from None


@dataclass(frozen=True)
class _Seen:
    """What a branch holds at one moment."""

    files: dict[str, RemoteFile]
    card: bytes | None

    @classmethod
    def of(cls, branch: Branch) -> _Seen:
        """Read now. CellFailed when listing and card do not agree: a listing that fails can come as an empty one."""
        for pause in (*base.PAUSES, None):
            files, card = branch.listing(), branch.read(README)
            listed = files.get(README)
            if listed is None and card is None:
                return cls(files, card)
            if listed is not None and card is not None and _is(listed, Change.of(README, card)) is not False:
                return cls(files, card)
            if pause is not None:
                time.sleep(pause)
        raise CellFailed(f"{branch.where}: what it lists and what it sends of {README} differ; try again later")

    def holds(self, branch: Branch, change: Change) -> bool:
        """Whether the branch has this file as it is; read where the listing tells no hash."""
        listed = self.files.get(change.path)
        if listed is None:
            return False
        same = _is(listed, change)
        if same is None:
            return not branch.is_large(change) and branch.read(change.path) == change.data()
        return same


def _is(listed: RemoteFile, change: Change) -> bool | None:
    """Whether a listed file is this one; None when size alone could tell."""
    if listed.digest:
        return listed.digest == f"sha256:{change.sha256}"
    return None if listed.size in (0, change.size) else False


def _text(branch: Branch, seen: _Seen) -> str | None:
    try:
        return None if seen.card is None else seen.card.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.start})"
        raise Refused(Fault(f"{README} of {branch.where}", what, "save it as UTF-8 first")) from None


def _apply(branch: Branch, seen: _Seen, changes: list[Change], message: str, report: Reporter) -> str:
    """Send what is large, look once more, commit, read back."""
    large = [c for c in changes if branch.is_large(c)]
    for number, change in enumerate(large, 1):
        what = f"send {change.path} ({number} of {len(large)}), MiB"
        place = branch.place_for(change)
        if place is None:
            report.line(f"{change.path} is on the hub already, it is not sent again")
            continue
        total = -(-change.size >> 20)
        report.stage(what)
        branch.store(change, place, lambda sent, t=total, w=what: report.update(sent >> 20, t, w))  # type: ignore[misc]
    if branch.read(README) != seen.card:
        raise CellFailed(f"{README} of {branch.where} was changed since it was read; nothing was written, run it again")
    report.stage(f"commit {len(changes)} files")
    try:
        commit = branch.commit(changes, message)
    except Uncertain as error:
        wrong = _not_there(branch, changes)
        if wrong and branch.read(README) == seen.card:
            raise CellFailed(f"{error}; nothing has changed so far") from None
        if wrong:
            raise CellFailed(f"{error}; {wrong} is not what was sent: look at the page") from None
        report.line(f"{error}; but the commit was made")
        return "unknown"
    wrong = _not_there(branch, changes)
    if wrong:
        raise CellFailed(f"{branch.where} took commit {commit}, but {wrong} is not what was sent; look at its page")
    report.line(f"{branch.where}: commit {commit}, read back and found right")
    return commit


def _not_there(branch: Branch, changes: list[Change]) -> str | None:
    """The first file that the branch does not hold as it was sent; asked again for as long as a hub may take to show it."""
    wrong = None
    for pause in (*base.PAUSES, None):
        listed = branch.listing()
        wrong = next((c.path for c in changes if not _arrived(branch, listed, c)), None)
        if wrong is None or pause is None:
            break
        time.sleep(pause)
    return wrong


def _arrived(branch: Branch, listed: dict[str, RemoteFile], change: Change) -> bool:
    found = listed.get(change.path)
    if found is None or _is(found, change) is False:
        return False
    if change.size <= base.LARGEST_READ:
        return branch.read(change.path) == change.data()
    assert isinstance(change.content, Path)
    with change.content.open("rb") as file:
        return (branch.read(change.path, HEAD) or b"")[:HEAD] == file.read(HEAD)


def _weights(subject: Subject, report: Reporter) -> list[Change]:
    """The checkpoint's files but its card and manifest. Raises Refused when it is not the checkpoint that was measured."""
    facts = subject.facts
    folder = Path(facts.checkpoint or "")
    if not facts.checkpoint or not folder.is_dir():
        raise Refused(Fault(str(folder), "the checkpoint is not there", "run it from the folder it was built in"))
    if locate.content_hash(folder) != facts.content:
        raise Refused(Fault(str(folder), "is not the checkpoint that was measured: its content differs", "measure it again"))
    paths = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name not in locate.NOT_WEIGHTS and p.name[0] != "."]
    over = [p for p in paths if p.stat().st_size > LARGEST]
    Refused.if_any(Fault(str(p), f"has {_size(p.stat().st_size)}, the hub takes 50 GB a file", "shard it") for p in over)
    total, free = sum(p.stat().st_size for p in paths), shutil.disk_usage(folder).free
    report.line(
        f"{len(paths)} files of {folder}, {_size(total)}; sending needs no room on this disk ({_size(free)} free), and what "
        "is free on the hub it does not tell"
    )
    report.stage("hash the checkpoint's files")
    return [Change.of(p.name, p) for p in paths]


def _remarks(subject: Subject) -> Iterator[str]:
    if subject.base_model is None:
        yield "WARNING: base_model is not known and stays as the card has it; name it with --base-model OWNER/NAME"
    for suite in (results.suite_name(run) for run in subject.runs):
        if suite not in subject.outcomes:
            yield f"suite {suite} has no gate section, so the card tells no verdict; `gate` judges by default figures"


def _no_secrets(changes: Sequence[Change], branch: Branch) -> None:
    """Refuse to send a text in which the token, or another secret of the environment, stands."""
    known = {held: name for held, name in public.secrets().items()} | {held: VARIABLE for held in [branch.secret] if held}
    for change in changes:
        if change.size <= base.LARGEST_READ:
            text = change.data()
            found = next((name for held, name in known.items() if held.encode() in text), None)
            if found:
                raise Refused(Fault(change.path, f"holds the value of {found}", "take it out: the page is for everybody"))


def _said(changes: Sequence[Change], seen: _Seen) -> str:
    new = [c.path for c in changes if c.path not in seen.files]
    old = [c.path for c in changes if c.path in seen.files]
    return "; ".join(f"{what}: {', '.join(paths)}" for what, paths in (("new", new), ("changed", old)) if paths)


def _message(subject: Subject) -> str:
    suites = ", ".join(results.suite_name(run) for run in subject.runs)
    return f"Measured results of {subject.variant} ({suites}), vl-harness {__version__}"


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.2f} MiB" if size >= 2**20 else f"{size:,} bytes"
