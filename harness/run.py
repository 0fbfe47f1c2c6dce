"""Executes a plan: builds missing variants, starts one engine a variant, measures missing Cells, writes Records."""

from __future__ import annotations

import contextlib
import datetime
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import elsewhere, engine, environments, files, room, workloads
from harness.errors import CellFailed, Fault, Refused
from harness.plan import Plan, PlannedCell, PlannedVariant, make_plan
from harness.progress import Reporter
from harness.record import Provenance, Record
from harness.store import RunFolder
from harness.suite import Suite
from harness.workloads import Measurement, workload
from quantize import verify
from quantize.recipe import Cell, Event, Job


def run_suite(
    suite: Suite, folder: RunFolder, checkpoints: Path, report: Reporter, only: str | None = None, fresh: bool = False
) -> tuple[Plan, list[str]]:
    """Do what is missing of the suite; returns the plan as carried out and a line for each thing that failed.

    Raises Refused before anything is loaded or written. What is measured is on disk after each Cell, so a run that was
    interrupted or killed goes on where it stopped.
    """
    plan = make_plan(suite, checkpoints, only)
    Refused.if_any([*folder.faults(), *plan.faults])
    report.stage("checking the documents")
    Refused.if_any(preflight(plan, folder, fresh, report.line))
    try:
        place = folder.path.resolve()
        with files.lock(place.with_name(f".{place.name}.lock")):
            if fresh and (aside := folder.set_aside()):
                report.line(f"the earlier run is kept at {aside}")
            return _carry_out(plan, folder, checkpoints, report, only)
    except files.Locked as error:
        raise Refused(
            Fault(
                str(folder.path),
                f"is being written by process {error.holder}",
                "wait for it, or name another folder with --output",
            )
        ) from None


def _carry_out(plan: Plan, folder: RunFolder, checkpoints: Path, report: Reporter, only: str | None) -> tuple[Plan, list[str]]:
    failures = build(plan, plan.to_build(), folder.logs, report)
    if plan.to_build():
        plan = make_plan(plan.suite, checkpoints, only)
        failures += [str(fault) for fault in plan.faults]
    folder.write(run_facts(plan, folder.read()))
    for variant in plan.variants:
        elsewhere.take_over(variant.path, variant.taken, folder) if variant.taken else None
    missing = [c for c in plan.cells if c.identity is not None and not c.taken and not _done(folder, c)]
    try:
        report.stage("measuring what the device can do")
        workloads.prepare({c.workload for c in missing})
        for number, (variant, cells) in enumerate(plan.turns(missing)):
            failures += _measure(plan, variant, cells, folder, report, number)
    finally:
        workloads.close()
    return plan, failures


def _done(folder: RunFolder, cell: PlannedCell) -> bool:
    record = folder.record(cell.id.key)
    return record is not None and record.status == "done"


def preflight(plan: Plan, folder: RunFolder, fresh: bool = False, tell: Callable[[str], None] = print) -> list[Fault]:
    """Faults of the documents that are still to be asked; loads none when every Cell is done.

    tell: gets a line for each document that will not be asked and counts as wrong.
    """
    missing = [c for c in plan.cells if not c.taken and (fresh or c.identity is None or not _done(folder, c))]
    found: list[Fault] = []
    for name, spec in plan.suite.workloads.named():
        points = list({json.dumps(c.point): c.point for c in missing if c.workload == name}.values())
        if points:
            kind = workload(name)
            found += kind.preflight(spec, points, plan.suite.engine, str(plan.source))
            for warning in getattr(kind, "warnings", []):
                tell(str(warning))
    return found


def run_facts(plan: Plan, earlier: dict[str, Any]) -> dict[str, Any]:
    """run.json: all that the reports need beside the Records, so that they can be made where no checkpoint is."""
    variants = {}
    for variant in plan.variants:
        facts = {
            "origin": variant.origin,
            "checkpoint": files.shown(variant.path),
            "content": variant.content,
            "compared_with": plan.suite.compared_with(variant.name),
            "recipe": variant.recipe.model_dump(mode="json") if variant.recipe else None,
        }
        kept = earlier.get("variants", {}).get(variant.name)
        if variant.origin == "run":
            facts = facts | elsewhere.facts_of(variant.path, variant.name) | {"run": files.shown(variant.path)}
        elif kept and variant.built and kept.get("content") == variant.content:
            facts = kept | facts
        elif variant.built:
            facts |= {
                "storage": verify.storage(variant.path).model_dump(mode="json"),
                "structure": verify.structure(variant.path).model_dump(mode="json"),
                "manifest": _manifest(variant.path),
            }
        variants[variant.name] = facts
    return {
        "suite": plan.suite.model_dump(mode="json"),
        "baseline": plan.suite.baseline,
        "variants": variants,
        "cells": [c.id.key for c in plan.every if c.identity is not None],
    }


def _manifest(checkpoint: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8")))
    return None


def build(plan: Plan, variants: list[PlannedVariant], logs: Path, report: Reporter, force: bool = False) -> list[str]:
    """Build variants in the quantize environment, in one process; returns a line for each that failed."""
    if not variants:
        return []
    report.stage(f"quantizing {', '.join(v.name for v in variants)}")
    logs.mkdir(parents=True, exist_ok=True)
    job = Job(
        source=Path(files.shown(plan.source)),
        calibration=plan.suite.calibration,
        force=force,
        cells=[Cell(name=v.name, recipe=v.recipe, output=v.path) for v in variants if v.recipe],
    )
    job_file = logs / "quantize.json"
    files.write_text(job_file, job.model_dump_json(indent=1))
    log = logs / "quantize.log"
    failures: dict[str, str] = {}
    done: set[str] = set()
    with log.open("wb") as output:
        process = environments.quantize().start(["-m", "quantize", str(job_file)], stdout=subprocess.PIPE, stderr=output)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(ValueError):
                    _build_event(Event.model_validate_json(line), done, failures, report)
            process.wait()
        finally:
            engine.stop(process)
    for variant in variants:
        if variant.name not in done and variant.name not in failures:
            said = engine.last_error(log.read_text(errors="replace"))
            failures[variant.name] = f"the quantize process ended with status {process.returncode}: {said}"
    for name, reason in failures.items():
        report.line(f"FAILED {name}: {reason}")
    return [f"{name} was not built: {reason} (log: {log})" for name, reason in failures.items()]


def _build_event(event: Event, done: set[str], failures: dict[str, str], report: Reporter) -> None:
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


def _measure(
    plan: Plan, variant: PlannedVariant, cells: list[PlannedCell], folder: RunFolder, report: Reporter, number: int
) -> list[str]:
    """Start one engine for the variant, the run's `number`th, and measure its Cells; returns a line for each that failed."""
    log = folder.logs / f"{number + 1}-{variant.name}.log"
    failures = []
    settings = plan.suite.engine_of(variant.name)
    held = room.free_faults(settings)
    if held:
        report.line(f"FAILED {variant.name}: {held[0]}")
        return [f"{cell.label} failed: the engine was not started: {held[0]}" for cell in cells]
    report.stage(f"starting vLLM on {variant.name}")
    try:
        with engine.serving(
            variant.path,
            settings,
            log,
            f"{variant.name}-{(variant.content or '')[:8]}",
            lambda stage: report.stage(f"starting vLLM on {variant.name}: {stage}"),
        ) as running:
            report.line(f"vLLM serves {variant.name} after {running.facts.start_s:.1f} s")
            for cell in cells:
                try:
                    record = _measure_cell(plan, variant, cell, running, folder, report)
                except CellFailed as error:
                    record = folder.add(_record(plan, variant, cell, running.facts, "failed", str(error)))
                if record.status != "done":
                    failures.append(f"{cell.label} {record.status}: {record.reason}")
                    report.line(f"FAILED {failures[-1]}")
                if not running.alive():
                    failures.append(f"{variant.name}: the engine died; its other Cells were not measured (log: {log})")
                    break
    except CellFailed as error:
        failures += [f"{cell.label} failed: {error}" for cell in cells]
        report.line(f"FAILED {variant.name}: {error}")
    return failures


def _measure_cell(
    plan: Plan, variant: PlannedVariant, cell: PlannedCell, running: engine.Engine, folder: RunFolder, report: Reporter
) -> Record:
    started, began = _now(), time.monotonic()
    report.stage(f"measuring {cell.label}")
    spec = dict(plan.suite.workloads.named())[cell.workload]
    kind = workload(cell.workload)
    if isinstance(kind, workloads.Relative):
        kind.reference = {
            c.point["task"]: list(folder.samples(c.id.key))
            for c in plan.every
            if (c.variant, c.workload) == (plan.suite.baseline, "accuracy") and c.identity is not None and _done(folder, c)
        }
    measured = kind.measure(
        running, spec, cell.point, lambda done, total, what: report.update(done, total, f"{variant.name}: {what}")
    )
    record = _record(
        plan,
        variant,
        cell,
        running.facts,
        measured.status,
        measured.reason,
        measured,
        started,
        time.monotonic() - began,
    )
    return folder.add(record, measured.samples)


def _record(
    plan: Plan,
    variant: PlannedVariant,
    cell: PlannedCell,
    facts: engine.EngineFacts,
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
        random_weights=plan.random_weights(variant.name),
        provenance=Provenance(
            identity=cell.identity,
            checkpoint=files.shown(variant.path),
            git=git_state(),
            engine=facts.model_dump(mode="json"),
            started=started or _now(),
            seconds=round(seconds, 2),
        ),
    )


def _now() -> str:
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
