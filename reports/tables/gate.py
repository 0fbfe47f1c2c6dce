"""The gate's table: what was judged against what, what came out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.compare.gate import Verdict, outcome
from reports.table import NOT_MEASURED, Figure, Table, frame, interval


def shown(verdict: Verdict) -> str:
    """What was measured, with its interval, in the unit of its kind."""
    if verdict.value is None or verdict.value.value != verdict.value.value:
        return NOT_MEASURED
    value = verdict.value
    bounded = value.low == value.low
    numbers = {"": value.value} | ({" low": value.low, " high": value.high} if bounded else {})
    if verdict.kind == "accuracy":
        shares = {ending: 100 * number for ending, number in numbers.items()}
        return Figure(f"{interval(value)} %", shares) if bounded else NOT_MEASURED
    if verdict.kind == "divergence":
        bounds = f" [{max(value.low, 0):.2g}, {value.high:.2g}]" if bounded else ""
        return Figure(f"{value.value:.2g}{bounds} nats", numbers)
    return Figure(f"{value.value:.3f}x" + (f" [{value.low:.3f}, {value.high:.3f}]" if bounded else ""), numbers)


def limit(verdict: Verdict) -> str:
    """What it was held against."""
    if verdict.limit is None:
        return ""
    if verdict.kind == "accuracy":
        return f"above {100 * verdict.limit:g} %"
    return f"at most {verdict.limit:g} nats" if verdict.kind == "divergence" else f"above {verdict.limit:g}x"


def table(verdicts: Sequence[Verdict], crossings: Iterable[str] = ()) -> Table:
    """A row a line of the gate. crossings: where a candidate stops winning, as notes."""
    rows = [
        {
            "variant": v.candidate,
            "against": v.against,
            "what": " ".join(filter(None, (f"{v.kind}/{v.place}", v.metric))),
            "measured": shown(v),
            "required": limit(v),
            "verdict": v.outcome + ("" if v.required or v.outcome == "fail" else " (not required)"),
            "why": v.reason,
        }
        for v in verdicts
    ]
    notes = ["Intervals: 95 %. Ratios of speed and memory: above 1 is better, whatever the metric.", *crossings]
    return Table(f"Gate: {outcome(verdicts)}", frame(rows), notes)
