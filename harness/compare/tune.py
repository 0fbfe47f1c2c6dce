"""Which engine settings won: the same checkpoint under the settings of a suite's `settings` axis, the first as the baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.compare import stats
from harness.compare.arms import ARM_FIELDS, Arms
from harness.compare.trials import SpeedComparison, compare_trials
from harness.record.records import Record
from harness.suite.schema import Suite
from harness.util.errors import Fault, Refused

HEADLINE = "output_throughput"
"""What settings are ranked by at each point."""
Axis = Mapping[str, tuple[str, str]]
"""See RunFacts.settings."""
LEVEL = 0.05
"""How often a setting that changes nothing may be told as faster, among all that are compared."""


@dataclass(frozen=True)
class Winner:
    """The settings that gave most at one point."""

    variant: str
    """The checkpoint, without its setting."""
    place: str
    setting: str
    """The setting that won, or the first one where none is shown to be faster."""
    over: SpeedComparison | None
    """The winner against the first setting; None when that is the winner."""
    speedup: stats.Interval | None = None
    """Its ratio to the first, with an interval that allows for the choosing among `looks`: the largest of several ratios is
    too large by chance, so each has an interval of level 1 - 0.05 / looks (Bonferroni), and all hold at once in 95 %."""
    looks: int = 1
    """How many settings were compared with the first at this point."""


def settings_of(suite: Suite) -> list[str]:
    """The names of the axis, the first is what the others are measured against; raises Refused when there are not two."""
    names = list(dict.fromkeys(v.settings for v in suite.variants.values() if v.settings is not None))
    if len(names) < 2:
        what = "has no settings axis of two or more, so there is nothing to choose from"
        raise Refused(
            Fault(f"suite {suite.name}", what, "for example settings: {default: {}, wide: {max_num_batched_tokens: 8192}}")
        )
    return names


def compare_settings(records: Sequence[Record], axis: Axis) -> tuple[list[SpeedComparison], list[Fault]]:
    """Every setting against the first, for each checkpoint; the engine's settings are what may differ."""
    found: list[SpeedComparison] = []
    faults: list[Fault] = []
    served: dict[str, list[str]] = defaultdict(list)
    for name, (checkpoint, _) in axis.items():
        served[checkpoint].append(name)
    for first, *others in served.values():
        for other in others:
            of = [[r for r in records if r.cell.variant == name] for name in (first, other)]
            some, wrong = compare_trials(of[0], of[1], Arms(first, other), [*ARM_FIELDS, "engine"])
            found += some
            faults += wrong
    return found, faults


def winners(comparisons: Iterable[SpeedComparison], axis: Axis) -> list[Winner]:
    """For each checkpoint and point the setting with the largest speed-up that is shown, else the first.

    Shown at 5 % over all that were looked at: of twenty settings that change nothing, one has an interval above 1.
    """
    looked_at = [
        comparison for comparison in comparisons if comparison.metric == HEADLINE and "input-bound" not in comparison.labels
    ]
    judged = [one for one in looked_at if one.p == one.p]
    adjusted = stats.holm([one.p for one in judged])
    faster = [one for one, p in zip(judged, adjusted, strict=True) if p < LEVEL and one.speedup.value > 1]
    points: dict[tuple[str, str], list[SpeedComparison]] = defaultdict(list)
    for one in looked_at:
        points[axis[one.candidate][0], one.place].append(one)
    found = []
    for (variant, place), rivals in points.items():
        best = max((rival for rival in rivals if rival in faster), key=lambda one: one.speedup.value, default=None)
        _, setting = axis[best.candidate if best else rivals[0].baseline]
        chosen = best.log_ratio.interval(1 - LEVEL / len(rivals)) if best and best.log_ratio else None
        found.append(Winner(variant, place, setting, best, chosen, len(rivals)))
    return found
