"""What paired scores say when one looked between the questions: intervals that hold at every look.

Bets as in sequential.py, on the questions in the order in which they were asked. Where all were asked in the end, today's
fixed rule is read as well, at the level that the bets leave of 5 %: what both say holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.compare import sequential
from harness.compare.pairing import Pairs, Sampled
from harness.compare.stats import Interval
from harness.record.order import place
from harness.record.records import Asked

FIXED_LEVEL = 1 - 2 * (0.025 - sequential.ALPHA)
"""Level of the fixed rule's interval at the last question."""


@dataclass(frozen=True)
class Looked:
    """Two arms' scores by picture, in the order in which the pictures were asked."""

    asked: Asked
    places: tuple[str, ...]
    """Of each picture, sorted."""
    before: NDArray[np.float64]
    """The baseline's scores summed over each picture's questions, shape (places,)."""
    after: NDArray[np.float64]
    """The candidate's."""
    sizes: NDArray[np.float64]
    """How many questions each has."""

    @classmethod
    def of(cls, task: str, pairs: Pairs[Sampled], asked: Asked) -> Looked:
        """Those of one task."""
        changed = dict(pairs.changed)
        rows = [
            (place(task, row.doc_id, row.image_hash), row.score, changed[i].score if i in changed else row.score, 1.0)
            for i, row in enumerate(pairs.baseline.rows)
        ]
        return _summed(asked, [row[0] for row in rows], np.array([row[1:] for row in rows], float))

    @classmethod
    def total(cls, parts: Sequence[Looked]) -> Looked:
        """Those of several tasks; questions on one picture are one unit."""
        values = np.concatenate([np.stack([part.before, part.after, part.sizes], axis=1) for part in parts])
        asked = parts[0].asked.model_copy(update={"of": sum(part.asked.of for part in parts)})
        return _summed(asked, [one for part in parts for one in part.places], values)

    @property
    def alpha(self) -> float:
        """The error of the bets on one side; candidates share it."""
        return sequential.ALPHA / self.asked.candidates

    def recovery(self) -> Interval:
        """The recovery, with what the bets leave of all recoveries."""
        return sequential.interval(self.before, self.after, float(self.asked.most), self.alpha)

    def difference(self) -> Interval:
        """The mean difference of the scores, a share; its interval holds together with the recovery's."""
        moved, n = self.after - self.before, float(self.sizes.sum())
        value = float(moved.sum() / n)

        def lost(bound: float, sign: int) -> bool:
            gains = sign * (moved - bound * self.sizes) / self.asked.most
            return bool((sequential.capital(gains, 1 + abs(bound)) >= -math.log(self.alpha)).any())

        low = _halved(lambda bound: lost(bound, 1), -1.0, value)
        high = -_halved(lambda bound: lost(-bound, -1), -1.0, -value)
        return Interval(value, low, high, 1 - 2 * self.alpha)

    def p_value(self) -> float:
        """That the mean scores are equal; holds at every look (one over the larger capital, for two sides)."""
        gains = (self.after - self.before) / self.asked.most
        top = max(float(sequential.capital(sign * gains, 1.0).max()) for sign in (1, -1))
        return min(1.0, 2 * math.exp(-top))


def both(bets: Interval, fixed: Interval) -> Interval:
    """What is in two intervals, each of which is wrong with its own part of 5 %; of level 95 %."""
    low, high = max(bets.low, fixed.low), min(bets.high, fixed.high)
    return Interval(fixed.value, min(low, fixed.value), max(high, fixed.value), 0.95)


def _summed(asked: Asked, places: Sequence[str], values: NDArray[np.float64]) -> Looked:
    names, group = np.unique(np.array(places), return_inverse=True)
    before, after, sizes = (np.bincount(group, values[:, column], len(names)).astype(np.float64) for column in range(3))
    return Looked(asked, tuple(map(str, names)), before, after, sizes)


def _halved(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest of [low, high] for which `holds` is true, which is true from `low` up to it; `low` where it never is."""
    if not holds(low):
        return low
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
