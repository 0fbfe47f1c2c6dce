"""Speed and memory of two arms, start by start: a ratio above 1 is always better, with a t interval on its logarithm.

The core, `compare_trials`, takes two sequences of Records, so that two variants of a Run, a Run and its baseline Run, and
two engine settings of one checkpoint are compared by the same rules; each caller says which fields may differ.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.compare import ratios, stats
from harness.compare.arms import ARM_FIELDS, Arms, arms_of, unlike
from harness.record.folder import RunFolder
from harness.record.records import Record, cell_label
from harness.util.errors import Fault, NotDone, Unlike
from harness.workloads import WORKLOADS, kind_of, workload_names

LEVELS = ("concurrency", "request_rate")
"""The keys of a point that say how much is asked at once."""
SAME_IN_BOTH = ("total_input_tokens", "total_output_tokens", "completed")
"""What must be equal in two trials, or they did not do the same work."""


def direction(metric: str, unit: str) -> int:
    """1 when more is better (rates), -1 when less is (times, energies), 0 when neither can be said."""
    for kind in WORKLOADS:
        if metric in kind.better:
            return kind.better[metric]
    if metric.startswith("std_"):
        return 0
    if re.search(r"throughput$|goodput$|_per_second$", metric):
        return 1
    timed = re.search(r"_(ttft|tpot|itl|e2el|latency)(_ms|_s)?$", metric)
    return -1 if timed or metric.startswith("energy_") or unit.startswith("J") else 0


@dataclass(frozen=True)
class SpeedComparison:
    """One metric at one point, candidate against baseline."""

    workload: str
    point: dict[str, Any]
    """The Cell's point without its trial."""
    metric: str
    unit: str
    baseline: str
    candidate: str
    baseline_mean: float
    """Mean over trials, in `unit`."""
    candidate_mean: float
    baseline_cv: float | None
    """Coefficient of variation over trials, a share; None with fewer than 2."""
    candidate_cv: float | None
    baseline_n: int
    """Trials."""
    candidate_n: int
    speedup: stats.Interval
    """Ratio of the geometric means; above 1 the candidate is better. The bounds are nan where nothing can be said of them."""
    method: str
    """`Welch over starts`, `paired starts`, `one start`, `Welch` (sizes), or why there is no interval: `N/A (one trial)`."""
    log_ratio: ratios.LogRatio | None = None
    """What the interval is made of; None without one."""
    baseline_starts: int = 1
    """Engine starts."""
    candidate_starts: int = 1
    spread: tuple[float, float] | None = None
    """See `ratios.spread_of`; None for a size, and without an interval."""
    labels: tuple[str, ...] = ()
    """Labels of the Records behind it, for example `input-bound`: such a row is no headline."""

    @property
    def p(self) -> float:
        """Two-sided p value of a ratio of 1, from the same t distribution as the interval; nan without one."""
        return self.log_ratio.p if self.log_ratio else float("nan")

    @property
    def one_start(self) -> bool:
        """Whether an arm was measured on one start of its engine, so that what varies between starts is assumed."""
        return self.spread is not None and min(self.baseline_starts, self.candidate_starts) < 2

    def starts_needed(self, margin: float) -> int | None:
        """Starts of each arm that tell the ratio from a limit `margin` away (logarithm); None for a size."""
        return ratios.starts_needed(*self.spread, margin) if self.spread else None

    @property
    def verdict(self) -> str:
        """`faster` or `slower` when the interval leaves out 1, else `none shown`; better or worse where it is no time."""
        better, worse = ("faster", "slower") if kind_of(self.workload).timed else ("better", "worse")
        if self.speedup.low > 1:
            return better
        return worse if self.speedup.high < 1 else "none shown"

    @property
    def place(self) -> str:
        """`throughput/image512-concurrency8`."""
        return cell_label("", self.workload, self.point).lstrip("/")

    @property
    def level(self) -> tuple[str, float] | None:
        """How much was asked at once: ("concurrency", 8); None for a point without one."""
        return next(((key, float(self.point[key])) for key in LEVELS if key in self.point), None)


def compare_speed(run: RunFolder, baseline: str) -> tuple[list[SpeedComparison], list[Fault]]:
    """Every candidate of a Run against `baseline` (or the variant that run.json's `compared_with` names for it).

    A fault for each thing that is left out: arms that differ in more than the checkpoint, Cells that are invalid.
    """
    records = list(run.records())
    found: list[SpeedComparison] = []
    faults: list[Fault] = []
    for arms in arms_of(run.read(), records, baseline):
        of = {name: [r for r in records if r.cell.variant == name] for name in (arms.baseline, arms.candidate)}
        some, wrong = compare_trials(of[arms.baseline], of[arms.candidate], arms)
        found += some
        faults += wrong
    return found, list(dict.fromkeys(faults))


def compare_trials(
    baseline: Iterable[Record],
    candidate: Iterable[Record],
    arms: Arms,
    may_differ: Sequence[str] = ARM_FIELDS,
    workloads: Sequence[str] | None = None,
) -> tuple[list[SpeedComparison], list[Fault]]:
    """The comparisons of all points that both arms have measured.

    may_differ: fields of the identity, dotted (`engine.max_num_seqs`), in which the arms may differ; every other
    difference is a fault, and its point is left out. workloads: all that are compared by trials, unless told. Records that
    are not `done` are faults and count for nothing.
    """
    faults: list[Fault] = []
    asked = workload_names("trials") if workloads is None else workloads
    before, after = (_by_point(records, asked, faults) for records in (baseline, candidate))
    found: list[SpeedComparison] = []
    for place in dict.fromkeys([*before, *after]):
        if place not in before or place not in after:
            side: Literal["baseline", "candidate"] = "baseline" if place in before else "candidate"
            faults += [arms.alone(_place(r), side) for r in (before if place in before else after)[place].values()]
            continue
        if before[place] and after[place]:
            wrong = list(_not_alike(before[place], after[place], arms, may_differ))
            faults += wrong
            found += [] if wrong else _metrics(before[place], after[place], arms, faults)
    return found, list(dict.fromkeys(faults))


Trials = dict[Any, Record]
"""The Records of one point by trial."""


def _place(record: Record) -> str:
    """`throughput/image512-concurrency8`: a Record's point without variant and trial."""
    point = {key: value for key, value in record.cell.point.items() if key != "trial"}
    return cell_label("", record.cell.workload, point).lstrip("/")


def _frozen(point: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, repr(value)) for key, value in point.items() if key != "trial"))


def _by_point(
    records: Iterable[Record], workloads: Sequence[str], faults: list[Fault]
) -> dict[tuple[str, tuple[tuple[str, str], ...]], Trials]:
    points: dict[tuple[str, tuple[tuple[str, str], ...]], Trials] = defaultdict(dict)
    for record in records:
        if record.cell.workload not in workloads:
            continue
        trials = points[record.cell.workload, _frozen(record.cell.point)]
        if record.status == "done":
            trials[record.cell.point.get("trial")] = record
        else:
            faults.append(
                NotDone(record.cell.label, f"is {record.status}, so no speed-up is computed from it: {record.reason}")
            )
    return dict(points)


def _not_alike(before: Trials, after: Trials, arms: Arms, may_differ: Sequence[str]) -> Iterator[Fault]:
    """Why two arms' trials of one point cannot be compared, each difference once."""
    shared = [trial for trial in before if trial in after]
    pairs = [(before[t], after[t]) for t in shared] or [(next(iter(before.values())), next(iter(after.values())))]
    may_differ = [*may_differ, *([] if shared else ["measured.trial", "measured.seed"])]
    where = f"{arms} on {_place(pairs[0][0])}"
    differing = list(dict.fromkeys(line for one, two in pairs for line in unlike(one, two, may_differ)))
    if differing:
        yield Unlike(where, "were not measured alike: " + "; ".join(differing))
    for one, two in pairs if shared else []:
        for name in SAME_IN_BOTH:
            values = [r.metrics[name].value for r in (one, two) if name in r.metrics]
            if len(values) == 2 and values[0] != values[1]:
                yield Unlike(where, f"did not do the same work: {name} {values[0]:g} and {values[1]:g}")


def _metrics(before: Trials, after: Trials, arms: Arms, faults: list[Fault]) -> Iterator[SpeedComparison]:
    """A comparison for each metric that both arms have and that has a better direction."""
    first, second = next(iter(before.values())), next(iter(after.values()))
    point = {key: value for key, value in first.cell.point.items() if key != "trial"}
    labels = tuple(dict.fromkeys(label for r in (*before.values(), *after.values()) for label in r.labels))
    timed = kind_of(first.cell.workload).timed
    in_turns = _alternate(before, after)
    for name, metric in first.metrics.items():
        other = second.metrics.get(name)
        way = direction(name, metric.unit)
        if not way or other is None:
            continue
        if (metric.unit, metric.source) != (other.unit, other.source):
            what = f"{name} is {metric.unit} by {metric.source} in one arm and {other.unit} by {other.source} in the other"
            faults.append(Unlike(f"{arms} on {first.cell.label}", what))
            continue
        old, new = _values(before, name), _values(after, name)
        if not old or not new:
            continue
        flat = [[value for start in arm for value in start] for arm in (old, new)]
        log_ratio, method = _log_ratio(*((new, old) if way > 0 else (old, new)), timed, in_turns)
        yield SpeedComparison(
            workload=first.cell.workload,
            point=point,
            metric=name,
            unit=metric.unit,
            baseline=arms.baseline,
            candidate=arms.candidate,
            baseline_mean=sum(flat[0]) / len(flat[0]),
            candidate_mean=sum(flat[1]) / len(flat[1]),
            baseline_cv=ratios.variation(flat[0]),
            candidate_cv=ratios.variation(flat[1]),
            baseline_n=len(flat[0]),
            candidate_n=len(flat[1]),
            speedup=log_ratio.interval() if log_ratio else _bare(flat[0], flat[1], way),
            method=method,
            log_ratio=log_ratio,
            baseline_starts=len(old),
            candidate_starts=len(new),
            spread=ratios.spread_of(old, new) if log_ratio and timed else None,
            labels=labels,
        )


def _values(trials: Trials, name: str) -> list[list[float]]:
    """A metric's values by the engine start they were measured on, in the order of the trials; what is N/A is left out."""
    starts: dict[Any, list[float]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: (t is not None, t)):
        metric = trials[trial].metrics.get(name)
        if metric is not None and metric.value is not None and math.isfinite(metric.value):
            starts[_start(trials[trial])].append(metric.value)
    return list(starts.values())


def _start(record: Record) -> Any:
    """Which engine start a Record was measured on: no two took equally long. Records of another tool do not say."""
    return record.provenance.engine.get("start_s")


def _alternate(before: Trials, after: Trials) -> bool:
    """Whether the arms' starts took turns, one of each: both of pass 1, then both of pass 2, ...

    Only then does what disturbed one arm's start (heat, a neighbour) disturb the other's of the same pass as well.
    """
    arms = []
    for trials in (before, after):
        times: dict[Any, list[str]] = defaultdict(list)
        for record in trials.values():
            times[_start(record)].append(record.provenance.started)
        arms.append(sorted((min(t), max(t)) for t in times.values()))
    if len(arms[0]) != len(arms[1]):
        return False
    pairs = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(*arms, strict=True)]
    return all(one[1] < two[0] for one, two in itertools.pairwise(pairs))


def _log_ratio(top: ratios.Starts, bottom: ratios.Starts, timed: bool, in_turns: bool) -> tuple[ratios.LogRatio | None, str]:
    """The ratio, above 1 better, and how it was made; None and why where it has no interval."""
    trials = [[value for start in arm for value in start] for arm in (top, bottom)]
    if min(map(min, trials)) <= 0:
        return None, "N/A (a trial gave 0)"
    if any(len(arm) == 1 and len(arm[0]) == 1 for arm in (top, bottom)):
        return None, "N/A (one trial)"
    if not timed:
        # A size does not change with the clock: its readings are all there is.
        return ratios.of_values(trials[0], trials[1]), "Welch"
    return ratios.of_starts(top, bottom, in_turns)


def _bare(old: list[float], new: list[float], way: int) -> stats.Interval:
    """The ratio without bounds, and no ratio where a trial gave 0."""
    nan = float("nan")
    if min(*old, *new) <= 0:
        return stats.Interval(nan, nan, nan)
    value = ratios.geometric_mean(new) / ratios.geometric_mean(old)
    return stats.Interval(value if way > 0 else 1 / value, nan, nan)


def crossovers(comparisons: Iterable[SpeedComparison]) -> list[str]:
    """Where a candidate stops winning as more is asked at once, a sentence for each load and metric that crosses."""
    curves: dict[tuple[Any, ...], list[tuple[float, SpeedComparison]]] = defaultdict(list)
    for c in comparisons:
        if c.level is not None and c.verdict != "none shown":
            rest = tuple(value for key, value in c.point.items() if key not in LEVELS)
            curves[c.workload, rest, c.level[0], c.metric, c.baseline, c.candidate].append((c.level[1], c))
    found = []
    for (workload, rest, key, metric, baseline, candidate), curve in curves.items():
        curve.sort(key=lambda pair: pair[0])
        for (low, one), (high, two) in itertools.pairwise(curve):
            if one.verdict != two.verdict:
                where = "/".join([workload, *map(str, rest)])
                found.append(
                    f"{where}, {metric}: {candidate} is {one.verdict} than {baseline} up to {key} {low:g} "
                    f"({one.speedup.value:.2f}x) and {two.verdict} from {high:g} ({two.speedup.value:.2f}x)."
                )
    return found
