"""Speed and memory of two arms, trial by trial: a ratio above 1 is always better, with a t interval on its logarithm.

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

from harness.compare import stats
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
    """Ratio of the geometric means; above 1 the candidate is better. The bounds are nan with fewer than 2 trials."""
    method: str
    """`paired`, `Welch`, or why there is no interval: `N/A (one trial)`."""
    p: float = float("nan")
    """Two-sided p value of a ratio of 1, from the same t distribution as the interval; nan without one."""
    labels: tuple[str, ...] = ()
    """Labels of the Records behind it, for example `input-bound`: such a row is no headline."""

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
    paired = _alternate(before, after)
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
        speedup, method, p = _speedup(old, new, way, paired and len(old) == len(new) == len(before))
        yield SpeedComparison(
            workload=first.cell.workload,
            point=point,
            metric=name,
            unit=metric.unit,
            baseline=arms.baseline,
            candidate=arms.candidate,
            baseline_mean=sum(old) / len(old),
            candidate_mean=sum(new) / len(new),
            baseline_cv=stats.variation(old),
            candidate_cv=stats.variation(new),
            baseline_n=len(old),
            candidate_n=len(new),
            speedup=speedup,
            method=method,
            p=p,
            labels=labels,
        )


def _values(trials: Trials, name: str) -> list[float]:
    """A metric's values in the order of the trials; those that were not measured are left out."""
    metrics = (trials[trial].metrics.get(name) for trial in sorted(trials, key=lambda t: (t is not None, t)))
    return [m.value for m in metrics if m is not None and m.value is not None and math.isfinite(m.value)]


def _alternate(before: Trials, after: Trials) -> bool:
    """Whether both arms have the same trials and the arms took turns: both of trial 1, then both of trial 2, ...

    Only then does what disturbed one arm's trial (heat, a neighbour) disturb the other's of the same number as well.
    """
    if before.keys() != after.keys() or len(before) < 2:
        return False
    times = [sorted(arm[t].provenance.started for arm in (before, after)) for t in sorted(before)]
    return all(one[1] < two[0] for one, two in itertools.pairwise(times))


def _speedup(old: list[float], new: list[float], way: int, paired: bool) -> tuple[stats.Interval, str, float]:
    """The ratio, above 1 better, how its interval was made, and the p value of no difference."""
    nan = float("nan")
    if min(*old, *new) <= 0:
        return stats.Interval(nan, nan, nan), "N/A (a trial gave 0)", nan
    top, bottom = (new, old) if way > 0 else (old, new)
    if min(len(old), len(new)) < 2:
        only = stats.geometric_mean(top) / stats.geometric_mean(bottom)
        return stats.Interval(only, nan, nan), "N/A (one trial)", nan
    return stats.ratio(top, bottom, paired=paired), "paired" if paired else "Welch", stats.ratio_p(top, bottom, paired)


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
