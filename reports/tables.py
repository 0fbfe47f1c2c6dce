"""The tables of a Run, as pandas frames with a title and notes, and their forms: terminal, Markdown, CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from harness.compare import Comparison, compare_run
from harness.compare_speed import compare_speed
from harness.compare_tokens import Divergence, compare_divergence
from harness.errors import Fault
from harness.record import Record
from harness.stats import Interval
from harness.store import RunFolder

NOT_MEASURED = "N/A"
RANDOM = "Random weights: size, memory, speed and energy only."
RARE = {"guessed": "guessed %", "set_aside": "not asked %", "looped": "repeating %"}
"""Shares that get a column where one is above 0."""
PARTS = ("language", "visual", "lm_head", "embeddings")


@dataclass
class Table:
    """One table: every cell is text already, so all forms show the same."""

    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """A GitHub table; bars, backticks, markup and line breaks in cells stay harmless."""
        rows = [list(self.frame.columns), ["---"] * len(self.frame.columns), *self.frame.astype(str).values.tolist()]
        lines = ["| " + " | ".join(_escaped(str(cell)) for cell in row) + " |" for row in rows]
        return "\n".join([f"### {self.title}", "", *lines, *(f"\n{_escaped(note)}" for note in self.notes)]) + "\n"

    def rich(self) -> RichTable:
        """For the terminal; numbers to the right."""
        table = RichTable(
            title=Text(self.title),
            title_justify="left",
            caption=Text("\n".join(self.notes)) if self.notes else None,
            caption_justify="left",
        )
        for index, column in enumerate(self.frame.columns):
            table.add_column(Text(str(column)), justify="left" if index < 2 else "right", overflow="fold")
        for row in self.frame.astype(str).values.tolist():
            table.add_row(*(Text(cell) for cell in row))
        return table


def _escaped(text: str) -> str:
    if set(text) <= {"-"} and text:
        return text
    for mark in "\\`|*<>":
        text = text.replace(mark, f"\\{mark}")
    # An underscore inside a word and a bracket without a link mean nothing to Markdown: names and intervals stay readable.
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text).replace("](", "]\\(")
    return text.replace("\n", " ")


def percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage without the sign."""
    return NOT_MEASURED if value is None or value != value else f"{100 * value:.{digits}f}"


def interval(value: Interval, digits: int = 2) -> str:
    """`-0.30 [-0.77, +0.17]`, shares as percentages; a sign only where differences are meant."""
    return f"{100 * value.value:+.{digits}f} [{100 * value.low:+.{digits}f}, {100 * value.high:+.{digits}f}]"


def gib(size: float | None) -> str:
    """Bytes in GiB, or in MiB below a hundredth of one."""
    if size is None:
        return NOT_MEASURED
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:.2f} MiB"


def tables(run: RunFolder) -> list[Table]:
    """All tables of a Run, those with rows only."""
    facts, records = run.read(), list(run.records())
    from reports import speed  # it uses Table

    made = [
        accuracy(*compare_run(run, facts["baseline"]), facts["baseline"]),
        divergence(*compare_divergence(run, facts["baseline"])),
        scores(records),
        speed.against(*compare_speed(run, facts["baseline"])),
        *speed.speed(records),
        speed.memory(records),
        storage(facts),
        structure(facts),
        engines(records),
    ]
    shown = [table for table in made if len(table.frame) or table.notes]
    for table in shown if any(r.random_weights for r in records) else []:
        table.notes.insert(0, RANDOM)
    return shown


def accuracy(comparisons: Iterable[Comparison], faults: Iterable[Fault], baseline: str) -> Table:
    """What each candidate lost and gained against the baseline."""
    rows, notes, comparisons = [], [], list(comparisons)
    floor = {(c.baseline, c.task): c for c in comparisons if c.noise}
    for c in comparisons:
        recovery = f"{percent(c.recovery.value)} [{percent(c.recovery.low)}, {percent(c.recovery.high)}]"
        if c.recovery.value != c.recovery.value:
            recovery = f"{NOT_MEASURED} (the baseline has none right)"
        again = floor.get((c.baseline, c.task))
        rows.append(
            {
                "variant": c.candidate,
                "task": c.task,
                "n": c.n,
                f"{baseline} %": percent(c.baseline_score),
                "variant %": percent(c.candidate_score),
                "difference, points": interval(c.difference),
                "recovery %": recovery,
                "lost": c.lost,
                "gained": c.gained,
                "answers changed": f"{c.flips} ({percent(c.flips / c.n, 1)} %)",
            }
            | (
                {"noise floor: changed": f"{again.flips} ({percent(again.flips / again.n, 1)} %)" if again else NOT_MEASURED}
                if floor
                else {}
            )
            | {"p": f"{c.p_value:.2g}", "verdict": c.verdict}
        )
        notes += _accuracy_notes(c)
    if rows:
        notes.append(
            "Intervals: 95 %, paired bootstrap by question, and no narrower than the adjusted Wald interval, which holds where "
            "few answers changed. p: McNemar's exact test of lost against gained."
        )
    if floor:
        notes.append("Noise floor: the baseline asked once more, against itself.")
    notes += [f"Not compared: {fault}" for fault in faults]
    return Table("Accuracy against the baseline", pd.DataFrame(rows), notes)


def _accuracy_notes(c: Comparison) -> list[str]:
    """What must be known with a row: how much it could have shown, which questions hang together, what are no answers."""
    notes = []
    whole = c.task == "all"
    if c.verdict == "none shown" and whole and c.detectable == c.detectable:
        notes.append(
            f"{c.candidate}: no difference shown; {c.n} questions with this many changed answers show "
            f"{percent(c.detectable)} points or more with 80 % power."
        )
    if whole and c.clusters is not None:
        notes.append(f"{c.candidate}: {c.n} questions on {c.clusters} sets of pictures; those on one set are drawn together.")
    for name, health in ((c.baseline, c.baseline_health), (c.candidate, c.candidate_health)):
        if health.degenerate:
            notes.append(f"{name} on {c.task} is degenerate: {health.degenerate}; its score means nothing.")
    return notes


def divergence(found: Iterable[Divergence], faults: Iterable[Fault]) -> Table:
    """How far each candidate's token probabilities are from the baseline's, on the baseline's answers."""
    rows = [
        {
            "variant": d.candidate,
            "against": d.baseline,
            "questions": d.questions,
            "tokens": d.tokens,
            "mean KL, nats/token": f"{d.mean:.2g}",
            "99th percentile": f"{d.p99:.2g}",
            "same likeliest token %": percent(d.top1_agree),
            "": "noise floor" if d.noise else "",
        }
        for d in found
    ]
    notes = [f"Not compared: {fault}" for fault in faults]
    if rows:
        notes.insert(
            0,
            "Over the tokens of the baseline's answers (each answer's first 64), which both arms were asked to judge. The 5 "
            "likeliest tokens are compared one by one, all others as one: a lower bound.",
        )
    return Table("Divergence from the baseline", pd.DataFrame(rows), notes)


def scores(records: Iterable[Record]) -> Table:
    """Every accuracy Record with what must stand beside a score."""
    rows, records = [], list(records)
    rare = {name for r in records for name in RARE if (m := r.metrics.get(name)) is not None and m.value}
    for r in records:
        if r.cell.workload != "accuracy":
            continue
        score = r.metrics.get("score")
        known = score is not None and score.value is not None
        rows.append(
            {
                "variant": r.cell.variant,
                "task": r.cell.point["task"],
                "status": r.status if not r.reason else f"{r.status}: {r.reason}",
                "n": score.n if score else 0,
                "score %": f"{percent(score.value)} ± {percent(score.stderr)}" if known and score else NOT_MEASURED,
                "chance %": _share(r, "chance"),
                "unparsed %": _share(r, "unparsed"),
                "cut by length %": _share(r, "cut_by_length"),
            }
            | {title: _share(r, name) for name, title in RARE.items() if name in rare}
            | {
                "tokens out": _plain(r, "output_tokens"),
                "seconds": f"{r.provenance.seconds:.1f}",
            }
        )
    notes = ["± is one standard error. Unparsed answers count as wrong."] if rows else []
    if "guessed" in rare:
        notes.append("Guessed: replies for which the task's scorer draws an answer at random; they count as wrong here.")
    if "set_aside" in rare:
        notes.append("Not asked: documents that could not be, in any arm; they count as wrong.")
    return Table("Scores", pd.DataFrame(rows), notes)


def _share(record: Record, name: str) -> str:
    return percent(record.metrics[name].value, 1) if name in record.metrics else NOT_MEASURED


def _plain(record: Record, name: str) -> str:
    metric = record.metrics.get(name)
    return NOT_MEASURED if metric is None or metric.value is None else f"{metric.value:.1f}"


def storage(facts: dict[str, Any]) -> Table:
    """Size on disk, as a model's author would print it."""
    base = facts["variants"].get(facts["baseline"], {}).get("storage")
    rows = []
    for name, variant in facts["variants"].items():
        size = variant.get("storage")
        if not size:
            rows.append(
                {
                    "variant": name,
                    "weights": f"{NOT_MEASURED} ({'imported' if variant.get('origin') == 'imported' else 'not built'})",
                    "safetensors files": NOT_MEASURED,
                    "whole folder": NOT_MEASURED,
                    "of the baseline": NOT_MEASURED,
                }
            )
            continue
        ratio = size["safetensors_bytes"] / base["safetensors_bytes"] if base else None
        rows.append(
            {
                "variant": name,
                "weights": gib(size["safetensors_bytes"]),
                "safetensors files": size["safetensors_files"],
                "whole folder": gib(size["total_bytes"]),
                "of the baseline": f"{percent(ratio, 1)} %",
            }
        )
    return Table("Storage", pd.DataFrame(rows))


def structure(facts: dict[str, Any]) -> Table:
    """How many Linear layers of each part are packed, and how many are plain."""
    rows = []
    for name, variant in facts["variants"].items():
        found = variant.get("structure")
        if found:
            packed, plain = found["packed"], found["plain"]
            rows.append(
                {"variant": name, "scheme": _scheme(found)}
                | {
                    f"{part} packed / plain": f"{packed.get(part, 0)} / {plain.get(part, 0)}"
                    for part in PARTS
                    if part in packed or part in plain
                }
            )
    return Table("Structure (Linear layers)", pd.DataFrame(rows).fillna("0 / 0"))


def _scheme(found: dict[str, Any]) -> str:
    if not found["num_bits"]:
        return "none"
    group = "per channel" if found["group_size"] == -1 else f"group {found['group_size']}"
    return f"INT{found['num_bits']}, {group}, {'symmetric' if found['symmetric'] else 'asymmetric'}"


def engines(records: Iterable[Record]) -> Table:
    """Which kernel served which variant, on what, with which versions."""
    rows: dict[str, dict[str, Any]] = {}
    for r in records:
        engine, identity = r.provenance.engine, r.provenance.identity
        versions = {name: version for name, version in identity["versions"].items() if version}
        tokens, weights = engine.get("kv_cache_tokens"), engine.get("weights_gib")
        why = engine.get("reasons", {}).get("weights_gib", "")
        rows.setdefault(
            r.cell.variant,
            {
                "variant": r.cell.variant,
                "device": identity["device"]["name"],
                "INT4 kernel": engine.get("kernel") or "none (not packed)",
                "KV cache, tokens": f"{tokens:,}" if tokens else NOT_MEASURED,
                "weights in memory": f"{weights:.2f} GiB" if weights is not None else f"{NOT_MEASURED} ({why})",
                "versions": ", ".join(f"{n} {v}" for n, v in versions.items()),
            },
        )
    return Table("Engine", pd.DataFrame(list(rows.values())))


def markdown(run: RunFolder) -> str:
    """The Run's report.md."""
    facts = run.read()
    model = facts["suite"]["model"]
    head = f"## {facts['suite']['name']}: {model if isinstance(model, str) else 'shape ' + model['shape']}\n\n"
    return head + "\n".join(table.markdown() for table in tables(run))


def show(run: RunFolder, console: Console) -> None:
    """Print all tables."""
    for table in tables(run):
        console.print(table.rich())
