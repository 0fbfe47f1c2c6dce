"""The tables of accuracy: candidate against baseline, divergence, and every score with what must stand beside it."""

from __future__ import annotations

from collections.abc import Iterable

from harness.compare.answers import Comparison, overall
from harness.compare.early import EarlyVerdict
from harness.compare.sequential import ALPHA
from harness.compare.stats import Interval
from harness.compare.tokens import Divergence
from harness.record.records import Metric, Record
from harness.util.errors import Fault
from harness.workloads import kind_of
from reports.table import NOT_MEASURED, Figure, Table, counted, frame, interval, number, percent

RARE = {"guessed": "guessed %", "set_aside": "not asked %", "looped": "repeating %"}
"""Shares that get a column where one is above 0."""


def accuracy(comparisons: Iterable[Comparison], faults: Iterable[Fault], baseline: str = "") -> Table:
    """What each candidate lost and gained against the baseline. baseline: its name, for the title of a column."""
    rows, notes, comparisons = [], [], list(comparisons)
    floor = {(c.baseline, c.task): c for c in comparisons if c.noise}
    for c, whole in zip(comparisons, overall(comparisons), strict=True):
        recovery: str = interval(c.recovery)
        if c.recovery.value != c.recovery.value:
            recovery = f"{NOT_MEASURED} (the baseline has none right)"
        again = floor.get((c.baseline, c.task))
        rows.append(
            {
                "variant": c.candidate,
                "task": c.task,
                "n": c.n,
                f"{baseline or 'baseline'} %": percent(c.baseline_score),
                "variant %": percent(c.candidate_score),
                "difference, points": interval(c.difference, signed=True),
                "recovery %": recovery,
                "lost": c.lost,
                "gained": c.gained,
                "answers changed": counted(c.flips, c.n),
            }
            | ({"noise floor: changed": counted(again.flips, again.n) if again else NOT_MEASURED} if floor else {})
            | {"p": number(c.p_value, ".2g"), "verdict": c.verdict}
        )
        notes += _accuracy_notes(c, whole)
    if looked := [c for c in comparisons if c.of is not None]:
        notes.append(
            "Asked in one random order of pictures and looked at between: intervals "
            f"({100 * looked[0].recovery.level:g} %) and p hold at every look, wherever asking stops (docs/accuracy.md)."
        )
        notes += [
            f"{c.candidate}: asking stopped when it was decided, after {c.n:,} of {c.of:,} questions."
            for c, whole in zip(comparisons, overall(comparisons), strict=True)
            if c.stopped and whole
        ]
    elif rows:
        notes.append(
            "Intervals: 95 %, paired bootstrap by question, and no narrower than the adjusted Wald interval, which holds where "
            "few answers changed. p: McNemar's exact test of lost against gained; where questions share pictures, signs "
            "flipped a picture."
        )
    wholes = [w for c, w in zip(comparisons, overall(comparisons), strict=True) if not c.noise]
    if sum(wholes) > 1 or len(wholes) - sum(wholes) > 1:
        notes.append(
            "Verdicts: p adjusted by Holm, over the variants' totals and over the tasks of all variants; each of the two says "
            "a loss or a gain falsely in at most 5 % of Runs."
        )
    if any(c.verdict == "none shown" and not c.difference.low <= 0 <= c.difference.high for c in comparisons):
        notes.append("An interval that leaves out 0 beside `none shown`: the verdict follows p, which asks for more.")
    if floor:
        notes.append("Noise floor: the baseline asked once more, against itself.")
    notes += [f"Not compared: {fault}" for fault in faults]
    return Table("Accuracy against the baseline", frame(rows), notes)


def _accuracy_notes(c: Comparison, whole: bool) -> list[str]:
    """What must be known with a row: how much it could have shown, which questions hang together, what are no answers."""
    notes = []
    if c.verdict == "none shown" and whole and c.of is None and c.detectable is not None:
        notes.append(
            f"{c.candidate}: no difference shown; {c.n} questions with this many changed answers show "
            f"{percent(c.detectable)} points or more with 80 % power."
        )
    if c.apart:
        notes.append(f"{c.candidate} and {c.baseline} were asked in different places: {c.apart}.")
    if whole and c.clusters is not None:
        notes.append(f"{c.candidate}: {c.n} questions on {c.clusters} sets of pictures; those on one set are drawn together.")
    for name, health in ((c.baseline, c.baseline_health), (c.candidate, c.candidate_health)):
        if health.degenerate:
            notes.append(f"{name} on {c.task} is degenerate: {health.degenerate}; its score means nothing.")
    return notes


def divergence(found: Iterable[Divergence], faults: Iterable[Fault]) -> Table:
    """How far each candidate's token probabilities are from the baseline's, on the baseline's answers."""
    found = list(found)
    remarked = any(d.noise for d in found)
    rows = [
        {
            "variant": d.candidate,
            "against": d.baseline,
            "questions": d.questions,
            "tokens": d.tokens,
            "mean KL, nats/token": _nats(d.mean),
            "99th percentile": number(d.p99, ".2g"),
            "same likeliest token %": percent(d.top1_agree),
        }
        | ({"remark": "noise floor" if d.noise else ""} if remarked else {})
        for d in found
    ]
    notes = [f"Not compared: {fault}" for fault in faults]
    if rows:
        notes.insert(
            0,
            "Over the tokens of the baseline's answers (each answer's first 64), which both arms were asked to judge. The 5 "
            "likeliest tokens are compared one by one, all others as one: a lower bound.",
        )
    return Table("Divergence from the baseline", frame(rows), notes)


def early(found: Iterable[EarlyVerdict]) -> Table:
    """How many questions would have been enough to decide whether a candidate keeps what must be kept."""
    rows, found = [], list(found)
    for one in found:
        decided = one.early.outcome is not None
        rows.append(
            {
                "variant": one.candidate,
                "recovery to keep %": percent(one.limit),
                "verdict": one.early.outcome or "not decided",
                "after questions": counted(one.early.questions, one.questions) if decided else NOT_MEASURED,
                "of": one.questions,
                "recovery % then": interval(one.early.recovery),
            }
        )
    notes = []
    if rows:
        notes.append(
            "Had both arms been asked in one random order of pictures over all tasks, stopping at the verdict: "
            f"{100 * ALPHA:g} % of Runs say `pass` falsely and as many `fail`, however often one looks, for all variants here "
            "together. The intervals are the sequence's own: they hold at every moment at once, all together. `not decided` is "
            "no verdict; the table above has all questions."
        )
    return Table("A verdict before the last question", frame(rows), notes)


def _nats(mean: Interval) -> Figure:
    text, numbers = f"{mean.value:.2g}", {"": mean.value}
    if mean.low == mean.low:
        return Figure(f"{text} [{max(mean.low, 0):.2g}, {mean.high:.2g}]", numbers | {" low": mean.low, " high": mean.high})
    return Figure(text, numbers)


def scores(records: Iterable[Record]) -> Table:
    """Every accuracy Record with what must stand beside a score."""
    rows, records = [], list(records)
    rare = {name for r in records for name in RARE if (m := r.metrics.get(name)) is not None and m.value}
    for r in records:
        if kind_of(r.cell.workload).compared_by != "answers":
            continue
        score = r.metrics.get("score")
        known = score is not None and score.value is not None
        rows.append(
            {
                "variant": r.cell.variant,
                "task": r.cell.point["task"],
                "status": r.status if not r.reason else f"{r.status}: {r.reason}",
                "n": score.n if score else 0,
                "score %": _score(score) if known and score else NOT_MEASURED,
                "chance %": _share(r, "chance"),
                "unparsed %": _share(r, "unparsed"),
                "cut by length %": _share(r, "cut_by_length"),
            }
            | {title: _share(r, name) for name, title in RARE.items() if name in rare}
            | {
                "tokens out": _plain(r, "output_tokens"),
                "seconds": number(r.provenance.seconds, ".1f"),
            }
        )
    notes = ["± is one standard error. Unparsed answers count as wrong."] if rows else []
    if "guessed" in rare:
        notes.append("Guessed: replies for which the task's scorer draws an answer at random; they count as wrong here.")
    if "set_aside" in rare:
        notes.append("Not asked: documents that could not be, in any arm; they count as wrong.")
    return Table("Scores", frame(rows), notes)


def _score(score: Metric) -> str:
    assert score.value is not None
    error = None if score.stderr is None else 100 * score.stderr
    return Figure(f"{percent(score.value)} ± {percent(score.stderr)}", {"": 100 * score.value, " ±": error})


def _share(record: Record, name: str) -> str:
    return percent(record.metrics[name].value, 1) if name in record.metrics else NOT_MEASURED


def _plain(record: Record, name: str) -> str:
    metric = record.metrics.get(name)
    return NOT_MEASURED if metric is None or metric.value is None else number(metric.value, ".1f")
