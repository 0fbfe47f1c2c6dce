"""The tables of speed and memory: each point with its trials, the limit beside the figure, and candidate against baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from harness.compare import ratios, stats
from harness.compare.trials import SpeedComparison, crossovers
from harness.compare.tune import Winner
from harness.record.records import Metric, Record, cell_label
from harness.util.errors import Fault
from harness.workloads import WORKLOADS, kind_of
from harness.workloads.memory import Memory
from reports.table import NOT_MEASURED, Figure, Table, frame
from reports.table import number as digits

HEADLINE = ("output_throughput", "request_goodput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "energy_per_output_token_j")
"""What candidate and baseline are compared in; the other metrics stay in the Records."""
GLANCED = {"output_throughput": "output tokens/s", "energy_per_output_token_j": "J/token"}
"""What the short table of speed-ups shows, and how it calls it."""
MEANS = (
    "Means over trials ± half a 95 % t interval of these trials, what differs between engine starts left out; percentiles "
    "are means over trials of a trial's percentile. by: whose clock, the client's where it agrees with the server's, else "
    "the server's."
)
ONE_START = (
    f"Where an engine was started once, nothing measured says how much its level differs from start to start: "
    f"{100 * ratios.START_CV:.0f} % is assumed, and in the interval. `passes: 3` or more in the suite measures it."
)
NEAR = 0.7
"""From this share of a limit on, the limit is named as what holds the engine back."""
MEMORY = (
    ("weights", "weights_gib"),
    ("KV cache", "kv_cache_gib"),
    ("KV cache, tokens", "kv_cache_tokens"),
    ("graphs", "graphs_gib"),
    ("activations", "activations_gib"),
    ("rest", "other_gib"),
    ("device peak", "device_peak_gib"),
    ("processes (PSS)", "pss_peak_gib"),
)


def points(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """The finished trials of each (variant, point); a point is `latency/image512-concurrency1`."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if kind_of(record.cell.workload).under_load and record.status == "done":
            found[record.cell.variant, place(record)].append(record)
    return found


def place(record: Record) -> str:
    """A Cell's point without variant and trial."""
    rest = {key: value for key, value in record.cell.point.items() if key != "trial"}
    return cell_label("", record.cell.workload, rest).lstrip("/")


def mean(trials: Sequence[Record], name: str) -> tuple[stats.Interval | None, str]:
    """Mean over trials with its t interval (bounds nan with fewer than 2), or None and why there is none."""
    values = [m.value for r in trials if (m := r.metrics.get(name)) is not None and m.value is not None]
    if not values:
        reasons = [m.reason for r in trials if (m := r.metrics.get(name)) is not None and m.reason]
        return None, reasons[0] if reasons else "not measured"
    return stats.mean_interval(values), ""


def number(value: float) -> str:
    """Three significant digits below 1000, whole numbers above."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figure(trials: Sequence[Record], name: str) -> str:
    """A metric's mean over trials ± half its 95 % t interval, as text."""
    found, _ = mean(trials, name)
    if found is None:
        return NOT_MEASURED
    half = (found.high - found.low) / 2
    # Equal trials leave the noise of floating point behind.
    half = 0.0 if abs(half) < 1e-9 * abs(found.value) else half
    return within(found.value, half)


def within(value: float, half: float) -> Figure:
    """`95.2 ± 1.3`; half: half the interval, NaN where there is none."""
    if half != half:
        return Figure(number(value), {"": value})
    return Figure(f"{number(value)} ± {number(half)}", {"": value, " ±": half})


def _sources(trials: Sequence[Record], name: str) -> str:
    return "/".join(sorted({m.source or "" for r in trials if (m := r.metrics.get(name)) is not None and m.value is not None}))


def _requests(record: Record) -> int:
    """How many requests a trial is of: files made by hand may lack a metric or two."""
    known = (record.metrics.get(name) for name in ("mean_e2el_ms", "request_throughput", "mean_ttft_ms", "output_throughput"))
    return next((metric.n for metric in known if metric is not None and metric.n), 0)


def speed(records: Sequence[Record]) -> list[Table]:
    """Latency and throughput by point; where a request's time goes; the limits of a decode step."""
    rows, times, limits, notes = [], [], [], []
    for (variant, where), trials in points(records).items():
        head = {"variant": variant, "point": where}
        labels = ", ".join(dict.fromkeys(label for r in trials for label in r.labels))
        requests = sum(_requests(r) for r in trials)
        rows.append(
            head
            | {
                "trials": len(trials),
                "requests": requests,
                "output tokens/s": figure(trials, "output_throughput"),
                "requests/s": figure(trials, "request_throughput"),
            }
            | ({"goodput, requests/s": figure(trials, "request_goodput")} if "request_goodput" in trials[0].metrics else {})
            | {
                "TTFT ms": figure(trials, "mean_ttft_ms"),
                "TPOT ms": figure(trials, "mean_tpot_ms"),
                "by": _sources(trials, "mean_tpot_ms"),
                "end to end ms": figure(trials, "mean_e2el_ms"),
            }
            | {f"p{p} end to end ms": figure(trials, f"p{p}_e2el_ms") for p in (50, 90, 99)}
            | {"J/token": figure(trials, "energy_per_output_token_j"), "label": labels}
        )
        times.append(
            head
            | {
                "outside the engine ms": figure(trials, "input_ms"),
                "one picture alone ms": figure(trials, "image_preprocess_ms"),
                "queue ms": figure(trials, "queue_ms"),
                "prefill ms": figure(trials, "prefill_ms"),
                "decode ms": figure(trials, "decode_ms"),
                "power W": figure(trials, "mean_power_w"),
                "SM clock MHz": figure(trials, "mean_sm_clock_mhz"),
                "max temperature": figure(trials, "max_temperature_c"),
            }
        )
        if "share_of_bandwidth_limit" in trials[0].metrics and mean(trials, "share_of_bandwidth_limit")[0]:
            limits.append(head | _limits(trials))
    mine = {kind.name for kind in WORKLOADS if kind.own_tables and kind.compared_by == "trials"}
    broken = [r for r in records if r.cell.workload in mine and r.status != "done"]
    notes += [f"{r.cell.label} is {r.status}: {r.reason}" for r in broken]
    if rows:
        notes.insert(0, MEANS)
    return [
        Table("Latency and throughput", frame(rows), notes),
        Table("Where a request's time goes", frame(times), []),
        Table("Limits of a decode step", frame(limits), _rates(records) if limits else []),
    ]


def _limits(trials: Sequence[Record]) -> dict[str, Any]:
    bandwidth, compute = (mean(trials, f"share_of_{kind}_limit")[0] for kind in ("bandwidth", "compute"))
    assert bandwidth is not None and compute is not None
    held = "not shown by these figures"
    if any("input-bound" in r.labels for r in trials):
        held = "input (HTTP, pictures)"
    elif bandwidth.value >= NEAR:
        held = "memory bandwidth"
    elif compute.value >= NEAR:
        held = "compute"
    return {
        "TPOT ms (server)": figure(trials, "server_tpot_ms"),
        "bandwidth limit ms": figure(trials, "bandwidth_limit_ms"),
        "of the bandwidth limit": digits(100 * bandwidth.value, ".0f", "%"),
        "compute limit ms": figure(trials, "compute_limit_ms"),
        "of the compute limit": digits(100 * compute.value, ".0f", "%"),
        "held back by": held,
    }


def _rates(records: Sequence[Record]) -> list[str]:
    """Which bandwidth and rate the limits are made of."""
    found = next((r.facts["rates"] for r in records if "bytes_per_s" in (r.facts.get("rates") or {})), None)
    if found is None:
        return []
    return [
        f"The device copies {found['bytes_per_s'] / 1e9:,.0f} GB/s and multiplies BF16 matrices at "
        f"{found['flops_per_s'] / 1e12:,.1f} TFLOP/s, both measured before the engines started. A decode step reads the packed "
        "language layers, the lm_head and the KV cache once."
    ]


def against(
    comparisons: Sequence[SpeedComparison], faults: Iterable[Fault], title: str = "Speed against the baseline"
) -> Table:
    """Candidate against baseline in the headline metrics; input-bound points are shown, but say nothing of the model."""
    rows = [
        {
            "variant": c.candidate,
            "against": c.baseline,
            "point": c.place,
            "metric": f"{c.metric} ({c.unit})",
            "baseline": _with_cv(c.baseline_mean, c.baseline_cv),
            "candidate": _with_cv(c.candidate_mean, c.candidate_cv),
            "trials": f"{c.baseline_n}/{c.candidate_n}",
            "starts": f"{c.baseline_starts}/{c.candidate_starts}",
            "speed-up": ratio(c),
            "verdict": _verdict(c),
        }
        for c in comparisons
        if _listed(c)
    ]
    notes = (
        [
            "Speed-up: above 1 the candidate is better, whatever the metric; 95 % t interval of the log ratio over engine "
            "starts. Each row is judged on its own: of 20 rows in which nothing changed, one is told as better or worse."
        ]
        if rows
        else []
    )
    if any(c.one_start for c in comparisons if _listed(c)):
        notes.append(ONE_START)
    counted = [c for c in comparisons if _listed(c) and "input-bound" not in c.labels]
    notes += [*crossovers(counted), *(f"Not compared: {fault}" for fault in faults)]
    return Table(title, frame(rows), notes)


def _listed(c: SpeedComparison) -> bool:
    """Whether a comparison is a row: the headline metrics under load, else what leads a workload without tables of its own."""
    kind = kind_of(c.workload)
    return c.metric in HEADLINE if kind.own_tables else c.metric in kind.leads


def glance(comparisons: Iterable[SpeedComparison]) -> Table:
    """One row a load and metric, one column a level of concurrency: where a candidate wins, and where it stops."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    levels: set[tuple[str, float]] = set()
    for c in comparisons:
        if c.metric in GLANCED and c.level is not None:
            key = (c.candidate, c.baseline, str(c.point["load"]), GLANCED[c.metric])
            level = c.level
            levels.add(level)
            rows.setdefault(key, {})[_level(level)] = ratio(c) + (" input-bound" if "input-bound" in c.labels else "")
    head = ("variant", "against", "load", "speed-up in")
    columns = [_level(level) for level in sorted(levels)]
    made = [dict(zip(head, key, strict=True)) | {name: row.get(name, "") for name in columns} for key, row in rows.items()]
    return Table("Speed-up at a glance", pd.DataFrame(made), [])


def _level(level: tuple[str, float]) -> str:
    return f"{level[1]:g} at once" if level[0] == "concurrency" else f"{level[1]:g} a second"


def _with_cv(value: float, cv: float | None) -> str:
    if cv is None:
        return Figure(number(value), {"": value})
    return Figure(f"{number(value)} (cv {100 * cv:.1f} %)", {"": value, " cv %": 100 * cv})


def ratio(comparison: SpeedComparison) -> str:
    """`1.31 [1.28, 1.34]`, or without bounds and with the reason."""
    s = comparison.speedup
    if s.low != s.low:
        return Figure(f"{s.value:.3f} ({comparison.method})", {"": s.value}) if s.value == s.value else comparison.method
    return bounded(s)


def bounded(ratio: stats.Interval) -> Figure:
    """`1.31 [1.28, 1.34]`."""
    return Figure(f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
                  {"": ratio.value, " low": ratio.low, " high": ratio.high})  # fmt: skip


def _verdict(comparison: SpeedComparison) -> str:
    if "input-bound" in comparison.labels:
        return "input-bound: no headline"
    return comparison.verdict


def memory(records: Iterable[Record]) -> Table:
    """What the engine took, split; the device's peak never stands alone."""
    rows, reasons, split = [], [], False
    for record in records:
        if record.cell.workload != Memory.name or record.status != "done":
            continue
        split |= record.provenance.identity.get("engine", {}).get("tensor_parallel_size", 1) > 1
        row = {"variant": record.cell.variant, "load": record.cell.point["load"]}
        for title, name in MEMORY:
            metric = record.metrics.get(name, Metric.missing("GiB", "not measured"))
            row[title] = NOT_MEASURED if metric.value is None else _size(metric.value, metric.unit)
            if metric.value is None and metric.reason:
                reasons.append(f"{title}: N/A, {metric.reason}.")
        rows.append(row)
    notes = list(dict.fromkeys(reasons))
    if rows:
        notes.append("vLLM fills the KV cache with what it is given, so the device's peak alone says nothing. "
                     "`rest` is the device's peak less weights, KV cache and graphs.")  # fmt: skip
    if split:
        notes.append("Over several cards the sizes are those of one card, its peak that of the fullest; tokens and PSS are "
                     "the whole engine's.")  # fmt: skip
    return Table("Memory", frame(rows), notes)


def _size(value: float, unit: str) -> Figure:
    return digits(value, ",.0f") if unit == "tokens" else digits(value, ".2f", unit)


def tuned(winners: Sequence[Winner]) -> Table:
    """The settings that won, by how much."""
    rows = [
        {
            "checkpoint": w.variant,
            "point": w.place,
            "setting": w.setting,
            "over the first": bounded(w.speedup) if w.speedup else "none is shown to be faster",
            "chosen among": w.looks + 1,
            "output tokens/s": Figure(number(w.over.candidate_mean), {"": w.over.candidate_mean}) if w.over else "",
        }
        for w in winners
    ]
    notes = ["The largest gain in output tokens/s that is shown at 5 % over all points and settings together (Holm); "
             "input-bound points are left out. The interval allows for the choosing among the settings of a "
             "point."]  # fmt: skip
    return Table("Settings that won", frame(rows), notes if rows else [])
