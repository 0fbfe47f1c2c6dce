"""A verdict before the last question: bets on a recovery above or below a limit. Pure functions, numpy only, no I/O.

Each unit (a picture with its questions, or one question) gives x = candidate - limit * baseline; the recovery is above the
limit where the mean of x is above 0. Who bets a share b of a capital of 1 on it has prod(1 + b x) after some units. Where the
recovery is at the limit or below, that is 1 or less on average, whatever came before, so it reaches 1 / alpha at any time with
probability alpha at most (Ville 1939). No share is best for all cases, so the capital is the mean over several (Robbins 1970;
Waudby-Smith and Ramdas 2024, JRSS B 86, arXiv 2010.09686).

What makes it valid: units in an order that was drawn before any answer, and judged in that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.compare.stats import Interval

ALPHA = 0.01
"""Probability that a bet is won wrongly, on one side. What is left of 0.025 is for the fixed rule at the last question."""
SHARES = tuple(0.85 * 0.6**step for step in range(6))
"""Shares of the capital that are bet, of the largest that cannot lose all of it."""
Outcome = Literal["pass", "fail"]
Arm = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""The baseline's and the candidate's sums of scores in [0, 1] over each unit's questions, and how many those are; shape (n,)
each, in the order in which units were drawn."""


@dataclass(frozen=True)
class Early:
    """When a comparison was decided, and what is known then."""

    outcome: Outcome | None
    """Whether the recovery is above the limit; None where the units do not decide."""
    units: int
    """Units until then; all of them where nothing was decided."""
    questions: int
    """The questions of those units."""
    recovery: Interval
    """Of the units until then; it holds at every moment at once, whenever one stops."""


def order(units: int, seed: int) -> NDArray[Any]:
    """The order of units: one uniform permutation of 0 to units - 1."""
    return np.random.default_rng(seed).permutation(units)


def capital(gains: NDArray[Any], largest: float) -> NDArray[Any]:
    """The logarithm of the capital after each unit, shape (n,), of a bet that the mean of `gains` is above 0.

    gains: shape (n,), each at least -largest; largest: above 0.
    """
    bets = np.array(SHARES) / largest
    grown = np.log1p(np.multiply.outer(bets, gains)).cumsum(axis=1)
    top: NDArray[Any] = grown.max(axis=0)
    return top + np.log(np.exp(grown - top).mean(axis=0))


def bets(before: NDArray[Any], after: NDArray[Any], sizes: NDArray[Any], limit: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The logarithms of both capitals after each unit: of a recovery above `limit`, and of one below. See Arm."""
    gains = (after - limit * before) / float(sizes.max())
    return capital(gains, limit), capital(-gains, 1.0)


def decided(arms: Sequence[Arm], limit: float, alpha: float = ALPHA) -> list[Early]:
    """Walk through the units in their order and stop an arm as soon as one of its capitals is large enough.

    arms: candidates that are judged together, all of them in one order. A wrong `pass` of any of them happens with probability
    alpha at most, and a wrong `fail` (Holm's method on capitals: with k arms open, k / alpha is large enough).
    """
    both = [bets(*arm, limit) for arm in arms]
    passes, fails = (stops([one[side] for one in both], alpha) for side in (0, 1))
    found = []
    for (before, after, sizes), won, lost in zip(arms, passes, fails, strict=True):
        stop = min((one for one in (won, lost) if one is not None), default=None)
        n = len(before) if stop is None else stop + 1
        outcome: Outcome | None = None if stop is None else "pass" if won == stop else "fail"
        held = interval(before[:n], after[:n], float(sizes.max()), alpha / len(arms))
        found.append(Early(outcome, n, int(sizes[:n].sum()), held))
    return found


def stops(capitals: Sequence[NDArray[Any]], alpha: float) -> list[int | None]:
    """The unit at which each capital is large enough, by Holm's method; None where it never is. capitals: logarithms."""
    found: list[int | None] = [None] * len(capitals)
    since, left = 0, len(capitals)
    while left:
        enough = math.log(left / alpha)
        reached = {
            place: since + int(np.argmax(high))
            for place, one in enumerate(capitals)
            if found[place] is None and (high := one[since:] >= enough).any()
        }
        if not reached:
            break
        place, since = min(reached.items(), key=lambda item: item[1])
        found[place] = since
        left -= 1
    return found


def interval(before: NDArray[Any], after: NDArray[Any], most: float, alpha: float = ALPHA) -> Interval:
    """The recoveries that no bet was won against at any time so far, of level 1 - 2 alpha. most: questions of the largest unit.

    A bet for a recovery above a limit wins the less the higher the limit is, so each bound is found by halving.
    """
    whole = float(before.sum())
    value = float(after.sum() / whole) if whole else float("nan")
    if not whole:
        return Interval(value, float("nan"), float("nan"), 1 - 2 * alpha)
    enough = -math.log(alpha)

    def above(limit: float) -> bool:
        return bool((capital((after - limit * before) / most, limit) >= enough).any())

    def below(limit: float) -> bool:
        return bool((capital((limit * before - after) / most, 1.0) >= enough).any())

    top = max(2.0, 2 * value)
    return Interval(
        value,
        _edge(above, 1e-6, max(value, 1e-6)),
        _edge(lambda limit: not below(limit), max(value, 1e-6), top),
        1 - 2 * alpha,
    )


def _edge(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest of [low, high] for which `holds` is true, which is true from `low` up to it; `low` where it never is."""
    if not holds(low):
        return 0.0 if low <= 1e-6 else low
    if holds(high):
        return high if high <= 1 else float("inf")
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
