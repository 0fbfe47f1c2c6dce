"""One line a variant: what it cost in accuracy and what it won in size, memory, speed and energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.compare.answers import Comparison
from harness.compare.stats import Interval
from harness.record.records import Record
from harness.workloads import WORKLOADS, kind_of, kinds
from harness.workloads.memory import Memory
from reports.run_data import RunData
from reports.table import NOT_MEASURED, Figure, Table, frame, gib, interval, number, percent
from reports.tables import speed

GIB = 2**30
FEW = 6


@dataclass
class Line:
    """What is known of one variant. None is not measured; `reasons` says why, by field."""

    name: str
    score: float | None = None
    """Mean over all its questions, a share."""
    tasks: int = 0
    comparison: Comparison | None = None
    """Against its baseline, over all tasks that can be compared; None for the baseline itself."""
    compared: int = 0
    """How many tasks that is."""
    disk_bytes: int | None = None
    """The safetensors files."""
    weights_gib: float | None = None
    """In the engine's memory."""
    kv_tokens: float | None = None
    single: Interval | None = None
    """Output tokens/s with one request at a time."""
    saturated: Interval | None = None
    """Output tokens/s at the point of the load that gives most."""
    saturated_at: str = ""
    joules: float | None = None
    """Energy per output token at that point."""
    leads: dict[str, Interval] = field(default_factory=dict)
    """What leads the workloads without tables of their own: the mean over all their Cells, by the column's title."""
    labels: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def recovery(self) -> Interval | None:
        """The share of the baseline's score that is left; None without a comparison, or where the baseline has none."""
        found = self.comparison.recovery if self.comparison else None
        return found if found and found.value == found.value else None

    @property
    def size_gib(self) -> float | None:
        """The weights in memory where that was measured, else on disk."""
        return self.weights_gib if self.weights_gib is not None else self.disk_bytes / GIB if self.disk_bytes else None


def tasks_of(source: RunData) -> list[str]:
    """The tasks of the Run: those planned, and those measured."""
    planned = (label.split("/", 2) for label in source.labels.values())
    tasks = [task for _, workload, task in planned if _answers(workload)]
    return list(dict.fromkeys([*tasks, *(r.cell.point["task"] for r in source.records if _answers(r.cell.workload))]))


def _answers(workload: str) -> bool:
    return kind_of(workload).compared_by == "answers"


def load_of(source: RunData) -> str | None:
    """The load whose speed stands in the summary: the first that was measured with one request at a time, else the first."""
    loads = [r.cell.point for r in source.of_workload(name for name, kind in kinds().items() if kind.under_load)]
    single = [p["load"] for p in loads if p.get("concurrency") == 1]
    return next(iter([*single, *(p["load"] for p in loads)]), None)


def lines(source: RunData) -> list[Line]:
    """A line for every variant, the baseline first."""
    load = load_of(source)
    found = [_line(source, name, load) for name in source.variants]
    return found


def _line(source: RunData, name: str, load: str | None) -> Line:
    compared = sum(c.candidate == name and not c.total for c in source.accuracy)
    line = Line(name, comparison=source.overall(name), compared=compared)
    records = [r for r in source.records if r.cell.variant == name]
    for r in source.unfinished(name):
        line.reasons.setdefault(r.cell.workload, f"{r.status}: {r.reason}")
    scored = [r.metrics["score"] for r in records if r.status == "done" and "score" in r.metrics and _answers(r.cell.workload)]
    known = [m for m in scored if m.value is not None and m.n]
    if known and not any(r.random_weights for r in records):
        line.score = sum((m.value or 0.0) * (m.n or 0) for m in known) / sum(m.n or 0 for m in known)
        line.tasks = len(known)
    line.disk_bytes = source.facts.variant(name).disk_bytes
    memory = [r for r in records if r.cell.workload == Memory.name and r.status == "done"]
    line.weights_gib = _said(line, "weights_gib", memory, records)
    line.kv_tokens = _said(line, "kv_cache_tokens", memory, records)
    loaded = [r for r in records if kind_of(r.cell.workload).under_load and r.status == "done"]
    _speed(line, [r for r in loaded if r.cell.point["load"] == load])
    for kind in (kind for kind in WORKLOADS if not kind.own_tables):
        mine = [r for r in records if r.cell.workload == kind.name and r.status == "done"]
        line.leads |= {title: found for name, title in kind.leads.items() if (found := speed.mean(mine, name)[0])}
    return line


def _said(line: Line, name: str, memory: Sequence[Record], records: Sequence[Record]) -> float | None:
    """A figure of memory: as the memory Cell has it, else as an engine said it when it started."""
    for record in memory:
        metric = record.metrics.get(name)
        if metric is not None and metric.value is not None:
            return metric.value
    for record in records:
        engine: dict[str, Any] = record.provenance.engine
        if record.status == "done" and engine.get(name) is not None:
            return float(engine[name])
        why = (engine.get("reasons") or {}).get(name)
        if why:
            line.reasons.setdefault(name, str(why))
    return None


def _speed(line: Line, records: Sequence[Record]) -> None:
    best = None
    for (_, place), trials in speed.points(records).items():
        mean, _why = speed.mean(trials, "output_throughput")
        if mean is None:
            continue
        if trials[0].cell.point.get("concurrency") == 1:
            line.single = line.single or mean
        if best is None or mean.value > best[0].value:
            best = (mean, place, trials)
    if best is not None and len({place for _, place in speed.points(records)}) > 1:
        line.saturated, line.saturated_at, trials = best
        joules, why = speed.mean(trials, "energy_per_output_token_j")
        line.joules = joules.value if joules else None
        if joules is None:
            line.reasons["energy"] = why
        line.labels = list(dict.fromkeys(label for r in trials for label in r.labels))


TITLES = {
    "accuracy": "accuracy %",
    "recovery": "recovery %",
    "disk": "weights on disk",
    **Memory.leads,
    "single": "tokens/s at 1",
    "saturated": "tokens/s at saturation",
    "energy": "J/token",
}
"""The columns beside variant and verdict."""


def summary(source: RunData) -> Table:
    """The table; a column that nothing is known of is left out and named in a note."""
    found = lines(source)
    base = found[0] if found else Line("")
    rows = [_row(line, base, len(tasks_of(source)), source.random_weights) for line in found]
    for title in dict.fromkeys(title for line in found for title in line.leads):
        for row, line in zip(rows, found, strict=True):
            row[title] = _rate(line.leads.get(title))
    made, notes = frame(rows), []
    empty = [title for title in TITLES.values() if rows and all(row[title] == NOT_MEASURED for row in rows)]
    made = made.drop(columns=empty + (["verdict"] if TITLES["recovery"] in empty else []))
    if empty:
        notes.append(f"Not measured in this Run: {', '.join(empty)}.")
    if base.comparison is None and any(line.recovery for line in found):
        compared = [line.comparison for line in found if line.comparison is not None]
        level = f"{100 * compared[0].recovery.level:g}" if compared else "95"
        notes.append(f"Recovery: the share of {base.name}'s score that is left, with its {level} % interval, over all tasks.")
        notes += [
            f"{c.candidate}: asking stopped when it was decided, after {c.n:,} of {c.of:,} questions."
            for c in compared
            if c.stopped
        ]
    if any(line.saturated for line in found):
        notes.append(f"Speed: output tokens/s under the load {load_of(source)}, ± half a 95 % t interval.")
        for place in dict.fromkeys(line.saturated_at for line in found if line.saturated):
            names = [line.name for line in found if line.saturated_at == place]
            notes.append(f"Saturation is the point that gives most: {place} for {_listed(names)}.")
    reasons: dict[tuple[str, str], list[str]] = {}
    for line in found:
        for kind, why in line.reasons.items():
            reasons.setdefault((TITLES.get(kind, kind), why), []).append(line.name)
    notes += [f"N/A for {_listed(names)}: {kind}, {why}." for (kind, why), names in reasons.items()]
    notes += [f"{line.name}: {', '.join(line.labels)}." for line in found if line.labels]
    if source.absent:
        names = [source.labels[key] for key in source.absent if key in source.labels]
        some = f"{len(source.absent)} of {len(source.facts.cells)} Cells are not here"
        more = f": {_listed(names)}" if names else ""
        notes.append(f"{some} (not measured, or their files are damaged){more}.")
        notes += [f"Does not count: {_listed(labels)}: {why}." for why, labels in source.damage.items()]
    return Table("Summary", made, list(dict.fromkeys(notes)))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _row(line: Line, base: Line, tasks: int, random: bool) -> dict[str, str]:
    c = line.comparison
    part = f" ({line.tasks} of {tasks} tasks)" if line.score is not None and line.tasks < tasks else ""
    recovery = percent(1.0) if line is base and line.score is not None else NOT_MEASURED
    if line.recovery and c is not None:
        recovery = interval(line.recovery)
    disk = gib(line.disk_bytes, None if line is base else base.disk_bytes)
    return {
        "variant": line.name,
        TITLES["accuracy"]: _score(line.score, part) if not random else NOT_MEASURED,
        TITLES["recovery"]: recovery if not random else NOT_MEASURED,
        "verdict": _verdict(line, base, tasks) if not random else NOT_MEASURED,
        TITLES["disk"]: disk,
        TITLES["weights_gib"]: NOT_MEASURED if line.weights_gib is None else number(line.weights_gib, ".2f", "GiB"),
        TITLES["kv_cache_tokens"]: NOT_MEASURED if line.kv_tokens is None else number(line.kv_tokens, ",.0f"),
        TITLES["single"]: _rate(line.single),
        TITLES["saturated"]: _rate(line.saturated),
        TITLES["energy"]: NOT_MEASURED if line.joules is None else speed.within(line.joules, math.nan),
    }


def _verdict(line: Line, base: Line, tasks: int) -> str:
    if line is base:
        return "baseline"
    if line.comparison is None:
        return NOT_MEASURED
    verdict = "noise floor" if line.comparison.noise else line.comparison.verdict
    return verdict + (f" ({line.compared} of {tasks} tasks)" if line.compared < tasks else "")


def _rate(value: Interval | None) -> str:
    if value is None:
        return NOT_MEASURED
    return speed.within(value.value, (value.high - value.low) / 2)


def _score(score: float | None, part: str) -> str:
    """part: how many of the tasks it is over, where it is not all."""
    return Figure(f"{percent(score)}{part}", {"": None if score is None else 100 * score}) if part else percent(score)
