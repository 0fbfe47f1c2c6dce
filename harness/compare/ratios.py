"""The ratio of two arms' speed, from trials that were measured on one or more starts of each engine.

What varies between two starts of an engine (clocks, memory layout, graphs, neighbours) is not what varies between trials
on one start: a level that moves by 3 % from start to start while trials agree to 1 % makes any two starts look unlike. So
the starts are what is counted. All intervals are t intervals of logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.compare.stats import Interval

START_CV = 0.03
"""How much an engine's level is taken to vary from start to start, a share, where an arm has one start and cannot say.
The kept Run results/qwen3_vl_8b_h100 has two starts of BF16; over its 15 points they differ by 2.2 % (one standard
deviation, trials included), the largest difference being 6.6 %."""
PAIRED_FROM = 4
"""Starts from which arms that took turns are compared pair by pair: with fewer the pairing costs more degrees of freedom
than it wins."""
MOST = 1000
"""Starts from which on counting ends."""

Starts = Sequence[Sequence[float]]
"""The trials of one arm, start by start; each value above 0."""


@dataclass(frozen=True)
class LogRatio:
    """The logarithm of a ratio as an estimate with its t distribution."""

    middle: float
    error: float
    """Standard error."""
    freedom: float
    """Degrees of freedom; infinite for the normal distribution."""

    @property
    def p(self) -> float:
        """Two-sided p value of a ratio of 1."""
        if self.error == 0:
            return 1.0 if self.middle == 0 else 0.0
        return 2 * _cdf(self.freedom, -abs(self.middle) / self.error)

    def interval(self, level: float = 0.95) -> Interval:
        """The ratio with its interval; of no width where nothing varied."""
        reach = self.error * _quantile(self.freedom, (1 + level) / 2)
        return Interval(math.exp(self.middle), math.exp(self.middle - reach), math.exp(self.middle + reach), level)


def of_values(top: Sequence[float], bottom: Sequence[float], paired: bool = False) -> LogRatio:
    """The ratio of two geometric means.

    top, bottom: independent values of the two arms, each above 0, at least 2 of each. paired: the values belong together
    two by two (equal counts); else Welch's, which lets the arms vary unlike. Raises ValueError for other input.

    Source: Welch (1947), Biometrika 34, for the degrees of freedom; logarithms as in Fleming and Wallace (1986), CACM
    29, who show that ratios are averaged geometrically.
    """
    if min(len(top), len(bottom)) < 2 or min(*top, *bottom) <= 0:
        raise ValueError("an interval needs 2 values of each arm or more, all above 0")
    if paired and len(top) != len(bottom):
        raise ValueError(f"paired values need equal counts, got {len(top)} and {len(bottom)}")
    over, under = np.log(np.asarray(top, float)), np.log(np.asarray(bottom, float))
    middle = float(over.mean() - under.mean())
    if paired:
        return LogRatio(middle, float(np.std(over - under, ddof=1) / np.sqrt(len(over))), float(len(over) - 1))
    parts = [(float(np.var(x, ddof=1)) / len(x), len(x) - 1.0) for x in (over, under)]
    return _satterthwaite(middle, parts)


def of_starts(top: Starts, bottom: Starts, alternate: bool = False) -> tuple[LogRatio, str]:
    """The ratio of two arms whose engines were started once or more, and how it was made.

    alternate: the arms' starts took turns and are as many, so that what drifts disturbs both of a pair. With 2 starts or
    more of each arm their means are the observations: `Welch over starts` or `paired starts`. With fewer, the trials'
    variance is joined by that between starts, taken as START_CV or what the other arm's starts show, if that is more:
    `one start`. An arm of one start needs 2 trials or more; raises ValueError.
    """
    over, under = ([geometric_mean(trials) for trials in arm] for arm in (top, bottom))
    if min(len(over), len(under)) > 1:
        paired = alternate and len(over) == len(under) >= PAIRED_FROM
        return of_values(over, under, paired), "paired starts" if paired else "Welch over starts"
    shown = [float(np.std(np.log(means), ddof=1)) for means in (over, under) if len(means) > 1]
    spread = max(START_CV, *shown, 0.0)
    parts = [(spread**2 / len(over) + spread**2 / len(under), math.inf)]
    for arm in (top, bottom):
        variance, freedom = _within(arm)
        if freedom:
            parts.append((variance / sum(map(len, arm)), freedom))
        elif len(arm) == 1:
            raise ValueError("one start needs 2 trials or more")
    return _satterthwaite(float(np.mean(np.log(over)) - np.mean(np.log(under))), parts), "one start"


def spread_of(top: Starts, bottom: Starts) -> tuple[float, float]:
    """The standard deviation of a start's mean on the scale of logarithms, and its degrees of freedom.

    From the starts where an arm has two or more; else START_CV and what the trials show of themselves, with the trials'
    degrees of freedom.
    """
    arms = [np.log([geometric_mean(trials) for trials in arm]) for arm in (top, bottom) if len(arm) > 1]
    if arms:
        freedom = sum(len(means) - 1 for means in arms)
        return math.sqrt(sum(float(np.var(means, ddof=1)) * (len(means) - 1) for means in arms) / freedom), float(freedom)
    known = [(variance, freedom, len(arm[0])) for arm in (top, bottom) for variance, freedom in [_within(arm)] if freedom]
    of_trials = max((variance / trials for variance, _, trials in known), default=0.0)
    return math.sqrt(START_CV**2 + of_trials), math.inf


def starts_needed(spread: float, freedom: float, margin: float, power: float = 0.8) -> int:
    """Starts of each arm that tell a ratio from a limit which it is `margin` away from, both logarithms.

    spread, freedom: see `spread_of`. A spread that was measured may be too small by chance, so its upper 80 % bound is
    taken: a study so planned has the power in 80 % of cases and more on the average. At most MOST.

    Source: Browne (1995), Statistics in Medicine 14: on the use of a pilot sample for sample size determination.
    """
    if margin <= 0:
        return MOST
    if math.isfinite(freedom):
        spread *= math.sqrt(freedom / float(special.chdtri(freedom, 0.8)))
    for starts in range(2, MOST):
        # Welch's degrees of freedom with arms that vary alike, less what unlike sample variances cost.
        degrees = 2.0 * (starts - 1) - 1
        if spread * math.sqrt(2 / starts) * (_quantile(degrees, 0.975) + _quantile(degrees, power)) <= margin:
            return starts
    return MOST


def geometric_mean(values: Sequence[float]) -> float:
    """The mean on the scale of ratios; all values must be above 0."""
    return float(np.exp(np.mean(np.log(values))))


def variation(values: Sequence[float]) -> float | None:
    """Coefficient of variation, a share: sample standard deviation over mean; None with fewer than 2 values or mean 0."""
    if len(values) < 2 or not np.mean(values):
        return None
    return float(np.std(values, ddof=1) / np.mean(values))


def _within(arm: Starts) -> tuple[float, float]:
    """Variance of the trials' logarithms within starts, and its degrees of freedom; (0, 0) where every start has one."""
    freedom = sum(len(trials) - 1 for trials in arm)
    squares = sum(float(np.var(np.log(trials))) * len(trials) for trials in arm)
    return (squares / freedom, float(freedom)) if freedom else (0.0, 0.0)


def _satterthwaite(middle: float, parts: Sequence[tuple[float, float]]) -> LogRatio:
    """The estimate whose variance is the sum of parts, each with degrees of freedom of its own."""
    total = sum(variance for variance, _ in parts)
    weights = sum(variance**2 / freedom for variance, freedom in parts)
    return LogRatio(middle, math.sqrt(total), total**2 / weights if weights else math.inf if total else 1.0)


def _quantile(freedom: float, share: float) -> float:
    return float(special.ndtri(share) if math.isinf(freedom) else special.stdtrit(freedom, share))


def _cdf(freedom: float, value: float) -> float:
    return float(special.ndtr(value) if math.isinf(freedom) else special.stdtr(freedom, value))
