"""Statistics of paired outcomes: pure functions, numpy and scipy only, no I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

TINY = 1e-6
"""Probabilities below this are taken for rounding: log-probabilities arrive as 32-bit numbers."""


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval, all in one unit."""

    value: float
    low: float
    high: float
    level: float = 0.95


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided exact p-value that losses and gains are equally likely.

    lost, gained: counts of discordant pairs (right before and wrong after; the reverse). Pairs that agree carry no
    information. Source: McNemar (1947); the exact form is the binomial test of `lost` in `lost + gained` at 1/2.
    """
    n = lost + gained
    if n == 0:
        return 1.0
    return float(min(1.0, 2.0 * special.bdtr(min(lost, gained), n, 0.5)))


def sign_flips(differences: Mapping[float, int], draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided p-value that the arms are exchangeable: how often random signs give a sum as far from 0 as the one seen.

    differences: how often each difference other than 0 occurs, one for each picture (the sum over its questions) or question.
    Exact where all are whole numbers; for one question a picture it is McNemar's exact test. For fractions it is simulated with
    `draws` random signs. Where differences are skewed it is no test of the mean: see `compare_counts`.

    Source: Fisher (1935), The Design of Experiments, section 21; Phipson and Smyth (2010) for the simulated p.
    """
    sizes: Counter[float] = Counter()
    for difference, count in differences.items():
        sizes[abs(difference)] += count
    seen = abs(sum(difference * count for difference, count in differences.items()))
    if len(sizes) == 1:
        signs = [sum(c for d, c in differences.items() if (d > 0) == up) for up in (False, True)]
        return mcnemar_exact(*signs)
    if all(size == int(size) for size in sizes) and sum(s * c for s, c in sizes.items()) <= 20_000:
        return _exact_flips({int(size): count for size, count in sizes.items()}, round(seen))
    values = np.repeat(np.array(list(sizes), float), list(sizes.values()))
    rng, hits, left = np.random.default_rng(seed), 0, draws
    while left > 0:
        some = min(left, 1 + 2_000_000 // max(values.size, 1))
        sums = (2.0 * rng.integers(0, 2, (some, values.size), np.int8) - 1.0) @ values
        # Equal sums differ by the noise of floating point.
        hits += int((np.abs(sums) >= seen - 1e-9 * values.max()).sum())
        left -= some
    return (1 + hits) / (1 + draws)


def _exact_flips(sizes: Mapping[int, int], seen: int) -> float:
    """The probability of a sum of at least `seen`, either way, of whole numbers with random signs."""
    spread: NDArray[Any] = np.ones(1)
    for size, count in sizes.items():
        heads = np.arange(count + 1)
        step = np.zeros(size * count + 1)
        # Halves of the sums: `heads` plus signs among `count` give size * (2 heads - count).
        step[size * heads] = np.exp(
            special.gammaln(count + 1) - special.gammaln(heads + 1) - special.gammaln(count - heads + 1) - count * np.log(2)
        )
        spread = np.convolve(spread, step)
    total = spread.size - 1
    sums = 2 * np.arange(spread.size) - total
    return float(min(1.0, spread[np.abs(sums) >= seen].sum()))


def paired_bootstrap(
    baseline: ArrayLike,
    candidate: ArrayLike,
    clusters: Sequence[Any] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, Interval]:
    """Percentile intervals of the difference (candidate - baseline) and of the recovery (candidate / baseline).

    baseline, candidate: scores of the same documents in the same order, shape (n,). clusters: a label for each
    document; documents with one label (questions on one image) are drawn together. Documents, or clusters, with the
    same scores are interchangeable, so each resample draws how often each kind occurs (a multinomial) instead of n
    indices: the same distribution in a fraction of the time. The recovery is nan where the baseline is 0.

    Source: Efron and Tibshirani (1993), chapters 6 and 13; clusters as in Miller (2024), arXiv 2411.00640.
    """
    before, after = np.asarray(baseline, float), np.asarray(candidate, float)
    if before.shape != after.shape or before.ndim != 1 or before.size == 0:
        raise ValueError(f"paired scores need one non-empty shape, got {before.shape} and {after.shape}")
    drawn: dict[Any, tuple[float, float, int]] = {}
    for name, a, b in zip(
        clusters if clusters is not None else range(before.size), before.tolist(), after.tolist(), strict=True
    ):
        x, y, count = drawn.get(name, (0.0, 0.0, 0))
        drawn[name] = x + a, y + b, count + 1
    return bootstrap(Counter(drawn.values()), resamples, level, seed)


def bootstrap(
    kinds: Mapping[tuple[float, float, int], int], resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[Interval, Interval]:
    """`paired_bootstrap` of documents, or clusters, that were counted already.

    kinds: how often each (sum of the baseline's scores, sum of the candidate's, documents) occurs.
    """
    ordered = sorted(kinds.items())
    rows, counts = np.array([kind for kind, _ in ordered], float), np.array([count for _, count in ordered])
    sums = _draw(rows, counts, resamples, seed)
    whole = counts @ rows
    difference = (sums[1] - sums[0]) / sums[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        recovery = sums[1] / sums[0]
        point = whole[1] / whole[0] if whole[0] else float("nan")
    return (
        _percentiles(difference, float((whole[1] - whole[0]) / whole[2]), level),
        _percentiles(recovery[np.isfinite(recovery)], float(point), level),
    )


def questions_for_noninferiority(margin: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many pairs show, with the given power, that a candidate without any true loss loses less than `margin`.

    margin: the tolerated loss in accuracy, a share above 0. discordant: the share of pairs that differ, or the variance that
    a question adds where questions share pictures. The two-sided
    interval of level 1 - alpha must stay above -margin: n = (z_alpha + z_beta)^2 p / margin^2, with variance p per pair.
    Source: Liu, Hsueh, Hsieh and Chen (2002), Statistics in Medicine 21, non-inferiority for paired binary outcomes.
    """
    if margin <= 0 or discordant <= 0:
        raise ValueError("the margin and the share of discordant pairs must be above 0")
    z = special.ndtri(1 - alpha / 2) + special.ndtri(power)
    return int(np.ceil(z**2 * discordant / margin**2))


def divergence(baseline: Mapping[int, float], candidate: Mapping[int, float]) -> float:
    """Kullback-Leibler divergence of one position's token distribution, baseline from candidate, in nats, at least 0.

    baseline, candidate: natural logarithms of the probabilities of the tokens that are known of each arm (the top k and
    the given token). Tokens known of both are compared one by one; everything else is one further outcome in each arm,
    whose probability is what is missing to 1. Merging outcomes can only lower the divergence (the log-sum inequality), so
    the result is a lower bound of the divergence over the whole vocabulary, and 0 for equal arms.

    Source: Kullback and Leibler (1951); Cover and Thomas (2006), theorems 2.7.1 and 2.8.1.
    """
    shared = baseline.keys() & candidate.keys()
    p, q = (np.exp(np.array([arm[t] for t in shared], float)) for arm in (baseline, candidate))
    # What rounding leaves of a probability of 0 must not make the ratio infinite.
    rest_p, rest_q = max(1.0 - float(p.sum()), 0.0), max(1.0 - float(q.sum()), TINY)
    total = sum(float(a) * (baseline[t] - candidate[t]) for a, t in zip(p, shared, strict=True) if a > 0)
    if rest_p > TINY:
        total += rest_p * float(np.log(rest_p / rest_q))
    return max(0.0, total)


def above_chance(score: float, n: int, chance: float) -> float:
    """One-sided p-value that a score over n questions is no more than what guessing gives, by the exact binomial test.

    score, chance: shares. A sum of fractions counts as so many whole questions, rounded down.
    """
    right = math.floor(score * n + 1e-9)
    return 1.0 if right <= 0 else float(special.bdtrc(right - 1, n, chance))


def ratio_of_sums(sums: ArrayLike, sizes: ArrayLike, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean over all that units hold, with an interval over the units: `sums` over `sizes`, for example nats over tokens.

    sums, sizes: one a unit (a question), shape (n,), sizes above 0. The outer bounds of a bootstrap of units and of Student's
    interval of their residuals; nan with fewer than 2 units, since one says nothing of how units differ.

    Source: Cochran (1977), Sampling Techniques, chapters 2 and 6; Efron and Tibshirani (1993), chapter 13.
    """
    tops, bottoms = np.asarray(sums, float), np.asarray(sizes, float)
    n, middle = tops.size, float(tops.sum() / bottoms.sum())
    if n < 2:
        return Interval(middle, float("nan"), float("nan"), level)
    error = float(np.sqrt(((tops - middle * bottoms) ** 2).sum() * n / (n - 1))) / float(bottoms.sum())
    reach = error * float(special.stdtrit(n - 1, (1 + level) / 2))
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    draws = tops[drawn].sum(1) / bottoms[drawn].sum(1)
    return wider(Interval(middle, middle - reach, middle + reach, level), _percentiles(draws, middle, level))


def holm(values: Sequence[float]) -> list[float]:
    """P values adjusted so that one below a level is wrong no more often than that among all of them together.

    Source: Holm (1979), Scandinavian Journal of Statistics 6.
    """
    adjusted, worst = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = worst
    return adjusted


def adjusted_difference(differences: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of the mean of paired differences in [-1, 1] that holds when few of them, or none, are other than 0.

    The bootstrap can only draw what was seen: from pairs that all agree it makes an interval of no width, however few
    they are. Here one pair lost and one gained are added before the mean and its normal interval are taken.

    Source: Bonett and Price (2012), J. Educational and Behavioral Statistics 37, the adjusted Wald interval for paired
    proportions; for scores between 0 and 1 the two added pairs are the extreme ones.
    """
    given = np.asarray(differences, float)
    return adjusted_groups(Counter((0.0, float(one), 1) for one in given), level)[0]


def adjusted_groups(kinds: Mapping[tuple[float, float, int], int], level: float = 0.95) -> tuple[Interval, float]:
    """`adjusted_difference` over pictures, and the p-value of a difference of 0 that goes with it.

    kinds: as for `bootstrap`. One picture whose questions were all lost and one whose were all gained are added, of the mean
    size; the mean is a ratio of sums over pictures, with the variance of their residuals. Where questions share pictures the
    reach is Student's, as few pictures are little evidence however many questions they have.

    Source: Bonett and Price (2012), see `adjusted_difference`; Cochran (1977), Sampling Techniques, chapter 9, for ratios of
    sums over clusters.
    """
    counts = np.array(list(kinds.values()), float)
    before, after, sizes = np.array(list(kinds), float).T
    differences, groups = after - before, float(counts.sum())
    mean_size = float(counts @ sizes) / groups
    questions = float(counts @ sizes) + 2 * mean_size
    middle = float(counts @ differences) / questions
    squares = float(counts @ differences**2) + 2 * mean_size**2
    spread = squares - 2 * middle * float(counts @ (differences * sizes))
    spread += middle**2 * (float(counts @ sizes**2) + 2 * mean_size**2)
    alone = bool((sizes == 1).all())
    if not alone:
        spread *= (groups + 2) / (groups + 1)
    error = math.sqrt(max(spread, 0.0)) / questions
    freedom = max(groups - 1, 1.0)
    reach = error * float(special.ndtri((1 + level) / 2) if alone else special.stdtrit(freedom, (1 + level) / 2))
    p = float(2 * (special.ndtr(-abs(middle) / error) if alone else special.stdtr(freedom, -abs(middle) / error)))
    return Interval(middle, middle - reach, middle + reach, level), p


def wider(interval: Interval, other: Interval) -> Interval:
    """The value of `interval` with the outer bounds of both."""
    return Interval(interval.value, min(interval.low, other.low), max(interval.high, other.high), interval.level)


def among(interval: Interval, looks: int) -> Interval:
    """The interval of one that was chosen among so many: all of them hold together at its level (Bonferroni).

    The bounds move out as those of a normal interval do; each keeps its own distance from the value.
    """
    if looks <= 1:
        return interval
    tail = (1 - interval.level) / 2
    factor = float(special.ndtri(1 - tail / looks) / special.ndtri(1 - tail))
    low, high = (interval.value + factor * (bound - interval.value) for bound in (interval.low, interval.high))
    return Interval(interval.value, low, high, interval.level)


def _draw(kinds: NDArray[Any], counts: NDArray[Any], resamples: int, seed: int) -> NDArray[Any]:
    """Sums over resamples, shape (columns of kinds, resamples).

    A multinomial as a chain of binomials, one kind after the other: how often the kind is drawn among what the kinds before
    it left. The most frequent kind comes last and takes the rest. No more than a kind's draws are held at a time.
    """
    rng, rest = np.random.default_rng(seed), int(counts.sum())
    sums, left = np.zeros((kinds.shape[1], resamples)), np.full(resamples, rest)
    order = np.argsort(counts, kind="stable")
    for kind, count in zip(kinds[order[:-1]], counts[order[:-1]].tolist(), strict=True):
        drawn = _binomial(rng, left, count / rest)
        sums += kind[:, None] * drawn
        left -= drawn
        rest -= count
    return sums + kinds[order[-1]][:, None] * left


def _binomial(rng: np.random.Generator, n: NDArray[Any], p: float) -> NDArray[Any]:
    """How often something of probability p happens in n tries; shape of n.

    Numpy draws one by one, which takes long where n p is small and n varies. Binomials of one p add up, so what all n have in
    common is drawn at once, as a histogram over its outcomes, and dealt at random; what is left is small.
    """
    common = int(n.min())
    if not 0 < common * p <= 100:
        return rng.binomial(n, p)
    outcomes = np.arange(min(common, 300) + 1)  # with a mean of 100, more than 300 has a probability of 1e-56
    often = rng.multinomial(n.size, np.diff(special.bdtr(outcomes, common, p), prepend=0.0))
    drawn = np.repeat(outcomes, often)
    # In order they may stay only where all n are one: nothing was drawn before them then.
    return drawn if common == n.max() else rng.permutation(drawn) + rng.binomial(n - common, p)


def _percentiles(draws: NDArray[Any], value: float, level: float) -> Interval:
    if draws.size == 0:
        return Interval(value, float("nan"), float("nan"), level)
    # The quantile by linear interpolation, as numpy's own, whose selection takes several times as long as its sort.
    places = np.array([(1 - level) / 2, (1 + level) / 2]) * (draws.size - 1)
    low, high = np.interp(places, np.arange(draws.size), np.sort(draws))
    return Interval(value, float(low), float(high), level)


def detectable_difference(n: int, discordant: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference in accuracy that n pairs show with the given power, as a share.

    discordant: the share of pairs that differ. Solves n d^2 = (z_alpha sqrt(p) + z_beta sqrt(p - d^2))^2 for d; never
    below p itself is impossible, so the result is capped at p. Source: Connor (1987), Biometrics 43, sample size for
    McNemar's test.
    """
    if n <= 0 or discordant <= 0:
        return float("nan")
    z_alpha, z_beta = special.ndtri(1 - alpha / 2), special.ndtri(power)
    low, high = 0.0, discordant
    for _ in range(60):
        middle = (low + high) / 2
        needed = z_alpha * math.sqrt(discordant) + z_beta * math.sqrt(max(discordant - middle**2, 0.0))
        low, high = (middle, high) if middle * math.sqrt(n) < needed else (low, middle)
    return float(high)


def questions_needed(difference: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many pairs show a true difference (a share) with the given power; see detectable_difference."""
    if difference <= 0 or discordant < difference:
        raise ValueError("the difference must be above 0 and at most the share of discordant pairs")
    z_alpha, z_beta = special.ndtri(1 - alpha / 2), special.ndtri(power)
    root = z_alpha * np.sqrt(discordant) + z_beta * np.sqrt(discordant - difference**2)
    return int(np.ceil((root / difference) ** 2))


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean of independent trials with Student's t interval, in their unit; the bounds are nan with fewer than 2.

    Source: Student (1908), Biometrika 6.
    """
    n, middle = len(values), float(np.mean(values))
    if n < 2:
        return Interval(middle, float("nan"), float("nan"), level)
    half = float(special.stdtrit(n - 1, (1 + level) / 2) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(middle, middle - half, middle + half, level)
