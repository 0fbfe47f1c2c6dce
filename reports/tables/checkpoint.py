"""What `verify` found in a checkpoint: its structure, its size, and every fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from harness.util import files
from reports.table import PARTS, Table, frame, gib

if TYPE_CHECKING:
    from harness.checkpoints.verify import Report


def show(report: Report, console: Console) -> None:
    """Print the tables and a last line that says how many faults there are."""
    for table in tables(report):
        console.print(table.rich())
    for note in report.notes:
        console.print(f"Note: {note}.", markup=False, soft_wrap=True)
    found = f"{len(report.faults) or 'no'} fault{'' if len(report.faults) == 1 else 's'}"
    console.print(f"{files.shown(report.checkpoint)}: {found}", markup=False, soft_wrap=True)


def tables(report: Report) -> list[Table]:
    """Structure (which Linears are packed), storage, faults."""
    made = []
    if report.structure:
        packed, plain = report.structure.packed, report.structure.plain
        rows = [
            {"part": part, "packed Linears": packed.get(part, 0), "plain Linears": plain.get(part, 0)}
            for part in PARTS
            if part in packed or part in plain
        ]
        made.append(Table("Structure", frame(rows)))
    if report.storage:
        size = report.storage
        made.append(
            Table(
                "Storage",
                pd.DataFrame(
                    [
                        {
                            "weights": gib(size.safetensors_bytes),
                            "safetensors files": size.safetensors_files,
                            "whole folder": gib(size.total_bytes),
                        }
                    ]
                ),
            )
        )
    if report.faults:
        made.append(Table("Faults", frame([{"where": f.where, "what": f.what, "right": f.right} for f in report.faults])))
    return made
