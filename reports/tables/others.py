"""The table of workloads that have none of their own: each point with the mean of every metric over its trials."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from harness.record.records import Record
from harness.workloads import kind_of
from reports.table import Table, frame
from reports.tables import speed


def others(records: Iterable[Record]) -> Table:
    """A row a variant and point, a column a metric; what failed or is invalid is told below."""
    points: dict[tuple[str, str], list[Record]] = defaultdict(list)
    notes = []
    for record in records:
        kind = kind_of(record.cell.workload)
        if kind.own_tables or kind.compared_by != "trials":
            continue
        if record.status == "done":
            points[record.cell.variant, speed.place(record)].append(record)
        else:
            notes.append(f"{record.cell.label} is {record.status}: {record.reason}")
    rows = []
    for (variant, place), trials in points.items():
        row: dict[str, Any] = {"variant": variant, "point": place, "trials": len(trials)}
        for name, metric in trials[0].metrics.items():
            row[f"{name} ({metric.unit})"] = speed.figure(trials, name)
        rows.append(row)
    return Table("Other workloads", frame(rows), notes)
