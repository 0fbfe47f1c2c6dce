"""Measures a chain of groups from plain data, in whatever process: one engine a group, one Record a Cell."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.checkpoints.locate import content_hash
from harness.engine import server
from harness.engine.session import Session
from harness.plan import card_memory, stopping
from harness.plan.plan import PlannedCell, cell_identity
from harness.plan.schedule import Chain, Group
from harness.record.folder import RunFolder
from harness.record.records import Provenance, Record
from harness.run import remote
from harness.run.claims import Claims
from harness.run.executors import WorkResult
from harness.suite.schema import Suite
from harness.util import environments
from harness.util.errors import CellFailed
from harness.util.progress import Reporter
from harness.workloads import Context, Measurement, Workload, kind_of

Each = Callable[[Chain, Group, RunFolder, Session, Reporter], WorkResult]
"""Measures one group."""

DYING_S = 5.0
"""How long after a failed Cell an engine may still end before it is taken for alive, in seconds."""


def measure_chain(chain: Chain, report: Reporter, session: Session | None = None, each: Each | None = None) -> WorkResult:
    """Measure what is missing of a chain and nobody else has in hand.

    session: one in which something was made ready; without it the chain has its own. each: in the place of `measure_group`.
    """
    failures: list[str] = []
    later: list[str] = []
    with (
        contextlib.nullcontext(session) if session else Session() as session,
        remote.here(chain) as (chain, folder),
        Claims(chain.folder) as claims,
    ):
        missing = [c.id.key for c in chain.cells if not is_done(folder, c.id.key)]
        awaited = claims.elsewhere(_awaited(chain, folder))
        # Without the baseline's answers an engine would be started twice: the whole chain waits for them.
        mine = set() if awaited else set(claims.take(missing))
        busy = [key for key in missing if key not in mine]
        holder = claims.holder((awaited or busy)[0]) if busy else ""
        # Another run may have finished some between our looking and our taking them.
        left = chain.only({c.id.key for c in chain.cells if c.id.key in mine and not is_done(folder, c.id.key)})
        if left.groups:
            make_ready(left, session)
            report.stage("waiting for vLLM's imports")
            session.settle(left.suite.engine.start_timeout_s)
            report.stage("measuring what the device can do")
            for kind in _kinds(left):
                kind.before_engines(session)
        for group in left.groups:
            outcome = (each or measure_group)(left, group, folder, session, report)
            failures, later, holder = failures + outcome.failures, later + outcome.busy, outcome.holder or holder
    return WorkResult(failures, [*busy, *later], holder)


def make_ready(chain: Chain, session: Session) -> None:
    """Start the processes that import what the chain's first group needs; they go on by themselves."""
    _ahead_for(chain, chain.groups[0], session)
    for kind in _kinds(chain):
        kind.start(session)


def _kinds(chain: Chain) -> list[type[Workload]]:
    return [kind_of(name) for name in dict.fromkeys(c.workload for c in chain.cells)]


def _ahead_for(chain: Chain, group: Group, session: Session) -> None:
    """Start the process that will be a group's engine."""
    session.make_ahead(group.variant.path, chain.suite.engine_of(group.variant.name))


def _awaited(chain: Chain, folder: RunFolder) -> list[str]:
    """The baseline's Cells that a chain starts from, does not measure itself, and that are not done."""
    if not any(map(_relative, chain.cells)):
        return []
    own = {c.id.key for c in chain.cells}
    return [key for key in chain.reference.values() if key not in own and not is_done(folder, key)]


def _relative(cell: PlannedCell) -> bool:
    return kind_of(cell.workload).relative_to is not None


def is_done(folder: RunFolder, key: str, suite: Suite | None = None) -> bool:
    """Whether there is a Record that counts under a key. suite: whether it asks no more of it than is there; without one, any
    Record of which questions were left unasked is enough."""
    record = folder.record(key)
    if record is None or record.status != "done":
        return False
    return suite is None or stopping.enough(record, suite)


def strange(suite: Suite, group: Group) -> str | None:
    """Why this process would measure other Cells than those that were planned, or None: the keys are made once more."""
    if not group.variant.path.is_dir() or content_hash(group.variant.path) != group.variant.content:
        return f"{group.variant.path} is another checkpoint here than where the run was planned, or is not there"
    specs = dict(suite.workloads.asked())
    for cell in group.cells:
        assert cell.identity is not None
        measured = kind_of(cell.workload)().identity(specs[cell.workload], cell.point)
        mine = cell_identity(suite, group.variant, cell.workload, cell.identity["measured"] | measured)
        differ = [key for key in mine if mine[key] != cell.identity.get(key)]
        if differ:
            key = differ[0]
            return (
                f"this machine would measure something else: {key} is {mine[key]} here and {cell.identity.get(key)} in the plan"
            )
    return None


def unfit(suite: Suite, group: Group) -> str | None:
    """Why no engine can be started here for a group as it was planned, or None."""
    held = card_memory.free_faults(suite.engine_of(group.variant.name))
    return strange(suite, group) or (str(held[0]) if held else None)


def log_of(folder: RunFolder, group: Group) -> Path:
    """Where a group's engine logs."""
    return folder.logs / f"{group.number}-{group.variant.name}.log"


@contextlib.contextmanager
def serving(suite: Suite, group: Group, folder: RunFolder, session: Session, report: Reporter) -> Iterator[server.Engine]:
    """A group's engine, its start told to people."""
    variant = group.variant
    report.stage(f"starting vLLM on {variant.name}")
    with session.serving(
        variant.path,
        suite.engine_of(variant.name),
        log_of(folder, group),
        f"{variant.name}-{(variant.content or '')[:8]}",
        lambda stage: report.stage(f"starting vLLM on {variant.name}: {stage}"),
    ) as running:
        report.line(f"vLLM serves {variant.name} after {running.facts.start_s:.1f} s, imports included")
        yield running


def measure_group(chain: Chain, group: Group, folder: RunFolder, session: Session, report: Reporter) -> WorkResult:
    """Start one engine and measure a group's Cells with it."""
    suite, variant = chain.suite, group.variant
    log = log_of(folder, group)
    settings = suite.engine_of(variant.name)
    if (reason := unfit(suite, group)) is not None:
        report.line(f"FAILED {variant.name}: {reason}")
        return WorkResult([f"{cell.label}: the engine was not started: {reason}" for cell in group.cells])
    failures, later = [], []
    try:
        with serving(suite, group, folder, session, report) as running:
            after = next((g for g in chain.groups if g.number > group.number), None)
            for cell in group.cells:
                if not kind_of(cell.workload).lets_others_work:
                    session.settle(settings.start_timeout_s)
                elif after:
                    _ahead_for(chain, after, session)
                if _relative(cell) and not _answered(chain, group, folder, running.facts.start_s, report):
                    later.append(cell.id.key)
                    continue
                alive = True
                try:
                    record = _measure(chain, group, cell, running, folder, session, report)
                except CellFailed as error:
                    # A server whose processes were just killed refuses requests a moment before it has ended.
                    alive = running.alive(DYING_S)
                    reason = str(error) if alive else f"the engine died (log: {log}): {error}"
                    record = folder.add(record_of(group, cell, running.facts, "failed", reason))
                if record.status != "done":
                    what = "is invalid: " if record.status == "invalid" else ""
                    failures.append(f"{cell.label}: {what}{record.reason}")
                    report.line(f"FAILED {failures[-1]}")
                if not (alive and running.alive()):
                    failures.append(f"{variant.name}: the engine died; its other Cells were not measured (log: {log})")
                    break
    except CellFailed as error:
        failures += [f"{cell.label}: {error}" for cell in group.cells]
        report.line(f"FAILED {variant.name}: {error}")
    return WorkResult(failures, later, f"the chain of {suite.baseline}" if later else "")


def _answered(chain: Chain, group: Group, folder: RunFolder, patience_s: float, report: Reporter) -> bool:
    """Whether a Cell that is measured against the baseline's answers may begin.

    The baseline may be measured beside us, about as fast. Waiting with a running engine costs at most what starting it
    once more would, so it is waited for that long. A group of such Cells alone comes last and waits for nothing.
    """
    awaited = _awaited(chain, folder)
    if not awaited or all(map(_relative, group.cells)):
        return True
    report.stage(f"{group.variant.name}: waiting for the answers of {chain.suite.baseline}")
    deadline = time.monotonic() + patience_s
    while awaited and time.monotonic() < deadline:
        time.sleep(0.5)
        awaited = _awaited(chain, folder)
    return not awaited


def _measure(
    chain: Chain,
    group: Group,
    cell: PlannedCell,
    running: server.Engine,
    folder: RunFolder,
    session: Session,
    report: Reporter,
) -> Record:
    started, began = now(), time.monotonic()
    report.stage(f"measuring {cell.label}")
    spec = dict(chain.suite.workloads.asked())[cell.workload]
    after = next(iter(group.cells[group.cells.index(cell) + 1 :]), None)
    answered = chain.reference if _relative(cell) else {}
    measured = kind_of(cell.workload)().measure(
        Context(
            engine=running,
            session=session,
            spec=spec,
            point=cell.point,
            progress=lambda done, total, what: report.update(done, total, f"{group.variant.name}: {what}"),
            following=after.point if after and after.workload == cell.workload else None,
            reference={task: list(folder.samples(key)) for task, key in answered.items() if is_done(folder, key)},
        )
    )
    record = record_of(
        group,
        cell,
        running.facts,
        measured.status,
        measured.reason,
        measured,
        started,
        time.monotonic() - began,
    )
    return folder.add(record, measured.samples)


def record_of(
    group: Group,
    cell: PlannedCell,
    facts: server.EngineFacts,
    status: Any,
    reason: str | None,
    measured: Measurement | None = None,
    started: str | None = None,
    seconds: float = 0.0,
) -> Record:
    assert cell.identity is not None
    return Record(
        cell=cell.id,
        status=status,
        reason=reason,
        metrics=dict(measured.metrics) if measured else {},
        labels=measured.labels if measured else [],
        facts=measured.facts if measured else {},
        random_weights=group.random_weights,
        provenance=Provenance(
            identity=cell.identity,
            checkpoint=group.checkpoint,
            git=git_state(),
            engine=facts.model_dump(mode="json"),
            started=started or now(),
            seconds=round(seconds, 2),
        ),
    )


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def git_state() -> dict[str, Any] | None:
    """Commit of the harness's checkout and whether its files were changed; None outside one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(environments.PACKAGE_ROOT), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    return None
