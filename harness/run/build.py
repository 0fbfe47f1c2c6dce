"""Builds variants: jobs of the quantize environment, in whatever process, and what their events say."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from harness.engine import server
from harness.plan.plan import Plan, PlannedVariant
from harness.run.claims import Claims
from harness.run.executors import Executor, Work, WorkResult
from harness.util import environments, files
from harness.util.processes import ended
from harness.util.progress import Reporter
from quantize.recipe import Event, Job, Product

SOURCE_SIZES = 3
"""How many times the source's weights a build may hold in host memory."""


@dataclass(frozen=True)
class Build:
    """A job, and where its log goes. Plain data."""

    job: Job
    logs: Path
    name: str
    """Of the job's file and its log, without ending."""

    def only(self, names: set[str]) -> Build:
        """The same with those of its cells alone whose folders are named."""
        cells = [cell for cell in self.job.cells if cell.output.name in names]
        return Build(self.job.model_copy(update={"cells": cells}), self.logs, self.name)


def tasks(plan: Plan, variants: Sequence[PlannedVariant], logs: Path, where: Executor, force: bool = False) -> list[Work]:
    """The builds of variants. On one device one job, which loads the source once; on several, one for each search."""
    cells = [Product(name=v.name, recipe=v.recipe, output=v.path) for v in variants if v.recipe]
    if where.slots == 1:
        jobs = [cells] if cells else []
    else:
        by_search = sorted(cells, key=_search)
        jobs = [list(same) for _, same in groupby(by_search, _search)]
    asked = plan.suite.cluster.quantize_memory_gib
    size = sum(path.stat().st_size for path in plan.source.glob("*.safetensors"))
    made = []
    for job in jobs:
        whole = Job(source=Path(files.shown(plan.source)), calibration=plan.suite.calibration, force=force, cells=job)
        name = "quantize" if len(jobs) == 1 else f"quantize-{job[0].name}"
        made.append(
            Work(
                name=f"build of {', '.join(cell.name for cell in job)}",
                work=build,
                argument=Build(whole, logs, name),
                memory=int(asked * 2**30) if asked else SOURCE_SIZES * size,
            )
        )
    return made


def _search(cell: Product) -> str:
    return files.digest(cell.recipe.search_key() or cell.name)


def build(given: Build, report: Reporter) -> WorkResult:
    """Build a job's cells that are not there and that nobody else builds, in the quantize environment."""
    if not given.job.cells:
        return WorkResult()
    with Claims(given.job.cells[0].output.parent) as claims:
        names = [cell.output.name for cell in given.job.cells]
        mine = set(claims.take(names))
        busy = [name for name in names if name not in mine]
        # Another run may have finished some since they were planned.
        left = {c.output.name for c in given.job.cells if c.output.name in mine and (given.job.force or not c.output.exists())}
        failures = _build(given.only(left), report) if left else []
        return WorkResult(failures, busy, claims.holder(busy[0]) if busy else "")


def _build(given: Build, report: Reporter) -> list[str]:
    """Run one process of the quantize environment; returns a line for each cell that failed."""
    wanted = [cell.name for cell in given.job.cells]
    report.stage(f"quantizing {', '.join(wanted)}")
    given.logs.mkdir(parents=True, exist_ok=True)
    job_file, log = given.logs / f"{given.name}.json", given.logs / f"{given.name}.log"
    files.write_text(job_file, given.job.model_dump_json(indent=1))
    failures: dict[str, str] = {}
    done: set[str] = set()
    with log.open("wb") as output:
        process = environments.quantize().start(["-m", "quantize", str(job_file)], stdout=subprocess.PIPE, stderr=output)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(ValueError):
                    _event(Event.model_validate_json(line), done, failures, report)
            process.wait()
        finally:
            environments.stop(process)
    for name in wanted:
        if name not in done and name not in failures:
            said = server.last_error(log.read_text(errors="replace"))
            failures[name] = f"the quantize process {ended(process.returncode)}: {said}"
    for name, reason in failures.items():
        report.line(f"FAILED {name}: {reason}")
    return [f"{name} was not built: {reason} (log: {log})" for name, reason in failures.items()]


def _event(event: Event, done: set[str], failures: dict[str, str], report: Reporter) -> None:
    """What one line of a build's output means for the run."""
    if event.kind == "progress":
        report.stage(f"quantizing: {event.message}")
        if event.step is not None and event.steps:
            report.update(event.step, event.steps, f"quantizing: {event.message}")
    elif event.kind == "cell_done" and event.cell:
        done.add(event.cell)
        report.line(f"built {event.cell}: {event.message}")
    elif event.kind == "cell_failed" and event.cell:
        failures[event.cell] = event.message
    else:
        report.line(f"{event.kind}: {event.message}")
