"""Executes a plan: preflight, builds of missing variants, groups of missing Cells to the executor, what failed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.checkpoints import chat_template, verify
from harness.checkpoints.locate import served_faults
from harness.engine.session import Session
from harness.plan import other_runs
from harness.plan.plan import Plan, PlannedVariant, make_plan
from harness.plan.schedule import ANSWERS, Chain, chains, store_of
from harness.record.folder import RunFolder
from harness.record.run_facts import RunFacts, VariantFacts
from harness.run import build, measure, remote, until_decided
from harness.run.executors import Executor, Work, executor
from harness.run.measure import is_done
from harness.suite.schema import Suite
from harness.util import files
from harness.util.errors import Fault, Refused
from harness.util.progress import Reporter
from harness.workloads import kind_of

WAIT_S = 5.0
"""Seconds between two looks at what another run has in hand."""


def run_suite(
    suite: Suite, folder: RunFolder, checkpoints: Path, report: Reporter, only: str | None = None, fresh: bool = False
) -> tuple[Plan, list[str]]:
    """Do what is missing of the suite; returns the plan as carried out and a line for each thing that failed.

    Raises Refused before anything is loaded or written. What is measured is on disk after each Cell, so a run that was
    interrupted or killed goes on where it stopped.
    """
    with executor(suite) as where, Session() as session:
        plan = make_plan(suite, checkpoints, only)
        if found := refusals(plan, folder, checkpoints, where, fresh):
            raise Refused(*found, *documents(plan, folder, found, fresh, report.line))
        folder = remote.of_run(folder, store_of(suite))
        _make_ready(plan, folder, where, session, fresh)
        report.stage("checking the documents")
        Refused.if_any(preflight(plan, folder, fresh, report.line))
        with _writing(folder, where.shares, fresh, report):
            return _carry_out(plan, folder, checkpoints, where, session, report, only)


def _make_ready(plan: Plan, folder: RunFolder, where: Executor, session: Session, fresh: bool) -> None:
    """What is measured in this very process, without a build before, gets its first engine's imports done meanwhile."""
    # A run that is about to be refused must not disturb the one that measures.
    if where.here and not plan.to_build() and not files.held(_lock_of(folder)):
        for task in measuring(plan, folder, where, fresh)[:1]:
            measure.make_ready(task.argument, session)


@contextlib.contextmanager
def _writing(folder: RunFolder, shared: bool, fresh: bool, report: Reporter) -> Iterator[None]:
    """Hold the folder's lock: alone, or beside other runs whose Cells are told apart by claims."""
    lock = _lock_of(folder)
    try:
        if fresh:
            with files.lock(lock):
                if aside := folder.set_aside():
                    report.line(f"the earlier run is kept at {aside}")
        with files.lock(lock, shared):
            yield
    except files.Locked as error:
        raise Refused(
            Fault(
                str(folder.path),
                f"is being written by process {error.holder}",
                "wait for it, or name another folder with --output",
            )
        ) from None


def _lock_of(folder: RunFolder) -> Path:
    place = folder.path.resolve()
    return place.with_name(f".{place.name}.lock")


def _carry_out(
    plan: Plan,
    folder: RunFolder,
    checkpoints: Path,
    where: Executor,
    session: Session,
    report: Reporter,
    only: str | None,
) -> tuple[Plan, list[str]]:
    failures = build_variants(plan, plan.to_build(), folder.logs, where, report)
    if plan.to_build():
        plan = make_plan(plan.suite, checkpoints, only)
        failures += [str(fault) for fault in plan.faults]
    folder.write(run_facts(plan, folder.find()))
    for variant in plan.variants:
        other_runs.take_over(variant.path, variant.taken, folder) if variant.taken else None
    tasks = measuring(plan, folder, where)
    if isinstance(folder, remote.Mirrored):
        report.stage(f"sending checkpoints to {store_of(plan.suite)}")
        remote.send([task.argument for task in tasks], folder)
    if where.here:
        # In this very process the chain goes on with what was made ready in it.
        tasks = [replace(task, work=partial(task.work, session=session)) for task in tasks]
    failures += finish(tasks, where, report)
    for cell in plan.cells:
        if cell.identity is not None:
            folder.record(cell.id.key)  # from a store they come when they are asked for
    return plan, failures


def build_variants(
    plan: Plan, variants: list[PlannedVariant], logs: Path, where: Executor, report: Reporter, force: bool = False
) -> list[str]:
    """Build variants where the executor says; returns a line for each that failed."""
    return finish(build.tasks(plan, variants, logs, where, force), where, report)


def measuring(plan: Plan, folder: RunFolder, where: Executor, fresh: bool = False) -> list[Work]:
    """The missing Cells as tasks: on one device one task, on several as groups.chains tells. fresh: all are missing."""
    mine = [c for c in plan.cells if c.identity is not None and not c.taken]
    missing = [c for c in mine if fresh or not is_done(folder, c.id.key, plan.suite)]
    return [_task(chain) for chain in chains(plan, missing, folder.path, where.slots > 1)]


def _task(chain: Chain) -> Work:
    alone = chain.timed and not chain.suite.cluster.beside
    work = until_decided.measure_answers if chain.name == ANSWERS else measure.measure_chain
    return Work(chain.name, work, chain, gpus=chain.gpus, alone=alone, after=chain.after)


def finish(tasks: list[Work], where: Executor, report: Reporter) -> list[str]:
    """Give tasks to the executor, and once more as long as another run has some of theirs in hand; returns what failed."""
    failures: list[str] = []
    while tasks:
        left = []
        for task, outcome in where.run(tasks, report):
            failures += outcome.failures
            if outcome.busy:
                left.append(replace(task, argument=task.argument.only(set(outcome.busy))))
                report.stage(f"waiting for {outcome.holder}, which has {task.name} in hand")
        if left:
            time.sleep(WAIT_S)
        tasks = left
    return failures


def refusals(plan: Plan, folder: RunFolder, checkpoints: Path, where: Executor, fresh: bool = False) -> list[Fault]:
    """All that stands against carrying out a plan but its documents, which `preflight` looks at when this finds nothing."""
    return [*folder_faults(plan, folder, checkpoints), *plan.faults] or _placing_faults(plan, folder, checkpoints, where, fresh)


def documents(
    plan: Plan, folder: RunFolder, found: Sequence[Fault], fresh: bool = False, tell: Callable[[str], None] = print
) -> list[Fault]:
    """What is wrong with the documents beside what was found already, so that all is told at once; nothing where the tasks or
    the model are what is wrong, for then nothing true can be said of documents. See `preflight`."""
    if any(fault.where.startswith(("accuracy", "lm-eval", "workloads")) for fault in found) or served_faults(plan.source):
        return []
    return preflight(plan, folder, fresh, tell)


def folder_faults(plan: Plan, folder: RunFolder, checkpoints: Path) -> list[Fault]:
    """Why the Run's folder, or the one where variants are to be built, cannot be written."""
    found = folder.faults()
    if plan.to_build() and (why := files.unwritable(checkpoints)):
        found.append(Fault(str(checkpoints), f"cannot be written: {why}", "name another folder with --checkpoints"))
    return found


def _placing_faults(plan: Plan, folder: RunFolder, checkpoints: Path, where: Executor, fresh: bool) -> list[Fault]:
    """Why the executor cannot do it: tasks larger than any machine, folders that its machines do not see."""
    unbuilt = build.tasks(plan, plan.to_build(), folder.logs, where)
    cells = [cell for cell in plan.cells if not cell.taken]
    measured = [_task(chain) for chain in chains(plan, cells, folder.path, where.slots > 1)]
    found = [
        Fault("engine.port", "is one port for engines that run side by side", "leave it out for free ones")
        for name in plan.suite.variants
        if where.slots > 1 and plan.suite.engine_of(name).port
    ]
    if plan.suite.in_one_order and not where.here:
        what = "needs one device on this machine: all arms are asked by one process in turn"
        found.append(Fault("accuracy.order", what, "leave out order and stop, or make one card visible (CUDA_VISIBLE_DEVICES)"))
    if store_of(plan.suite):
        if unbuilt:
            right = "build them where you are first: python -m harness quantize SUITE --executor local"
            found.append(Fault("cluster.store", f"{len(plan.to_build())} variants are not built", right))
        if fresh:
            found.append(Fault("--fresh", "keeps no Run of a store aside", "name another folder with --output"))
        return [*found, *where.faults(measured), *where.unseen([], [])]
    read = [plan.source / "config.json", *(v.path / "config.json" for v in plan.variants if v.built and v.origin != "run")]
    return [*found, *where.faults([*unbuilt, *measured]), *where.unseen([folder.path, checkpoints], read)]


def preflight(plan: Plan, folder: RunFolder, fresh: bool = False, tell: Callable[[str], None] = print) -> list[Fault]:
    """Faults of the documents that are still to be asked; loads none when every Cell is done.

    tell: gets a line for each document that will not be asked and counts as wrong.
    """
    for variant in (v for v in plan.variants if v.built and v.origin != "run"):
        for note in chat_template.notes(variant.path):
            tell(f"variants.{variant.name}: {note}")
    missing = [
        c for c in plan.cells if not c.taken and (fresh or c.identity is None or not is_done(folder, c.id.key, plan.suite))
    ]
    found: list[Fault] = []
    for name, spec in plan.suite.workloads.asked():
        points = list({json.dumps(c.point): c.point for c in missing if c.workload == name}.values())
        if points:
            kind = kind_of(name)()
            found += kind.preflight(spec, points, plan.suite.engine, str(plan.source))
            for warning in kind.warnings:
                tell(str(warning))
    return found


def run_facts(plan: Plan, earlier: RunFacts | None) -> RunFacts:
    """What run.json says of a plan. earlier: what it said before, so that a checkpoint that is the same is not read again."""
    planned = [cell for cell in plan.every if cell.identity is not None]
    return RunFacts(
        suite=plan.suite.model_dump(mode="json"),
        baseline=plan.suite.baseline,
        variants={v.name: _variant_facts(plan, v, earlier.variants.get(v.name) if earlier else None) for v in plan.variants},
        cells=[cell.id.key for cell in planned],
        labels={cell.id.key: cell.label for cell in planned},
    )


def _variant_facts(plan: Plan, variant: PlannedVariant, earlier: VariantFacts | None) -> VariantFacts:
    facts: dict[str, Any] = {
        "origin": variant.origin,
        "checkpoint": files.shown(variant.path),
        "content": variant.content,
        "compared_with": plan.suite.compared_with(variant.name),
        "recipe": variant.recipe.model_dump(mode="json") if variant.recipe else None,
    }
    if variant.origin == "run":
        there = other_runs.facts_of(variant.path, variant.name)
        return VariantFacts(**facts | there | {"run": files.shown(variant.path)})
    if earlier and variant.built and earlier.content == variant.content:
        return earlier.model_copy(update=facts)
    if variant.built:
        facts |= {
            "storage": verify.storage(variant.path),
            "structure": verify.structure(variant.path),
            "manifest": _manifest(variant.path),
        }
    return VariantFacts(**facts)


def _manifest(checkpoint: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8")))
    return None
