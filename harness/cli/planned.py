"""A plan on the terminal: what is there, what would be built, how many engines would start, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from harness.plan.schedule import chains
from harness.plan.stopping import looks
from harness.record.folder import RunFolder
from harness.run.measure import is_done
from harness.run.until_decided import beside
from harness.util import files
from reports.table import Table, gib

if TYPE_CHECKING:
    from harness.plan.plan import Plan, PlannedVariant
    from harness.run.executors import Executor
    from quantize.fit import FitFacts


def show(plan: Plan, folder: RunFolder, console: Console, where: Executor) -> None:
    """Print the plan's tables."""
    for table in tables(plan, folder, where):
        console.print(table.rich())


def tables(plan: Plan, folder: RunFolder, where: Executor) -> list[Table]:
    """Variants, and the Cells by variant with an estimate from what the same Cells of other variants took."""
    seconds = {
        record.cell.label.partition("/")[2]: record.provenance.seconds for record in folder.records() if record.status == "done"
    }
    variants, every, estimate, unknown = [], [], 0.0, 0
    for variant in plan.variants:
        cells = list(plan.of(variant.name))
        missing = [c for c in cells if not c.taken and (c.identity is None or not is_done(folder, c.id.key, plan.suite))]
        known = [seconds[rest] for c in missing if (rest := c.label.partition("/")[2]) in seconds]
        estimate, unknown = estimate + sum(known), unknown + len(missing) - len(known)
        every += missing
        variants.append(
            {
                "variant": variant.name,
                "checkpoint": files.shown(variant.path),
                "weights": _weights(variant),
                "scheme": variant.served.scheme,
                "kernel expected": ", ".join(variant.served.kernels),
                "computed as": _computed(variant),
                "Cells": len(cells),
                "done": len(cells) - len(missing),
                "to measure": len(missing),
            }
        )
    notes = [note for variant in plan.variants if variant.fit for note in _notes(variant.name, variant.fit)]
    work = chains(plan, every, folder.path, where.slots > 1)
    notes.append(f"Measured on: {where.told()}.")
    if where.slots > 1 and work:
        names = ", ".join(f"{chain.name} ({len(chain.groups)})" for chain in work)
        notes.append(f"Side by side, with the engine starts of each: {names}.")
    notes.append(
        f"Engine starts: {sum(len(chain.groups) for chain in work)}. "
        + (f"Measuring: about {estimate:.0f} s" if estimate else "Measuring: no estimate yet")
        + (f", and {unknown} Cells of which none was measured before." if unknown else ".")
    )
    if plan.suite.in_one_order:
        notes.append(_turns(plan))
    return [Table(f"Plan of {plan.suite.name}", pd.DataFrame(variants), notes)]


def _turns(plan: Plan) -> str:
    """How arms that are asked in one shuffled order share the device."""
    paths = {v.name: v.path for v in plan.variants}
    how = "their engines stay up side by side" if beside(plan.suite, paths) else "their engines take turns, a start each a look"
    ends = "until each candidate is decided" if looks(plan.suite) else "to the last question"
    return f"accuracy: all arms are asked in one shuffled order, block by block, {ends}; {how}."


def _weights(variant: PlannedVariant) -> str:
    if variant.origin == "run":
        return "measured in another Run"
    if variant.built:
        return gib(sum(path.stat().st_size for path in variant.path.glob("*.safetensors")))
    return f"about {gib(variant.fit.expected_bytes)}, to be built" if variant.fit else "to be built"


def _computed(variant: PlannedVariant) -> str:
    asked, computed = variant.served.asked, variant.served.computed_as
    return f"{computed}, not {asked}" if computed and computed != asked else computed


def _notes(name: str, fit: FitFacts) -> list[str]:
    """What a recipe packs, keeps and maps."""
    kept = "".join(f", {one.pattern} keeps {one.linears}" for one in fit.ignore if one.linears)
    lines = [f"{name}: packs {fit.packed} of {sum(fit.linears.values())} Linears{kept}."]
    for mapping in fit.mappings:
        skipped = f", {mapping.skipped} skipped: {mapping.reason}" if mapping.skipped else ""
        lines.append(f"{name}: mapping {mapping.smooth}: {mapping.resolved} layers{skipped}.")
    return lines
