"""Documents grouped by the pictures that they show: what shares a picture is drawn together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Moved = tuple[NDArray[Any], NDArray[Any]]
"""Numbers of groups, and another arm's scores summed over each."""


class Pictures:
    """Documents grouped by the pictures they show, with one arm's scores; groups are what the bootstrap draws."""

    def __init__(self, names: Sequence[Any], scores: NDArray[Any], sizes: NDArray[Any]):
        """names: what the documents (or groups of them) show; equal names are one group. scores, sizes: shape (names,)."""
        numbers: dict[Any, int] = {}
        self.group = np.array([numbers.setdefault(name, len(numbers)) for name in names])
        self.names, self.scores = list(numbers), scores
        self.sums, self.sizes = self.summed(scores), self.summed(sizes).astype(int)

    def summed(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Scores, shape (names,), summed over each group."""
        return np.bincount(self.group, scores, len(self.names))

    @cached_property
    def kinds(self) -> Counter[tuple[float, float, int]]:
        """What `stats.bootstrap` takes, of the arm beside itself."""
        sums = self.sums.tolist()
        return Counter(zip(sums, sums, self.sizes.tolist(), strict=True))

    def kinds_beside(self, moved: Moved) -> Counter[tuple[float, float, int]]:
        """What `stats.bootstrap` takes, of this arm and another, whose scores differ in some groups."""
        groups, other = moved
        mine, sizes = self.sums[groups].tolist(), self.sizes[groups].tolist()
        kinds = Counter(self.kinds)
        kinds.subtract(zip(mine, mine, sizes, strict=True))
        kinds.update(zip(mine, other.tolist(), sizes, strict=True))
        return +kinds

    def moved(self, places: NDArray[Any], scores: NDArray[Any]) -> Moved:
        """The groups in which another arm differs that has other scores in these places."""
        changed = self.scores.copy()
        changed[places] = scores
        sums = self.summed(changed)
        groups = np.flatnonzero(sums != self.sums)
        return groups, sums[groups]


@lru_cache(maxsize=4)
def together(parts: tuple[Pictures, ...]) -> Pictures:
    """The groups of several tasks; pictures that two of them show are one group. Kept for the next candidate."""
    # A document without pictures is named by its number, which means something in its own task alone.
    names = [name if isinstance(name, str) else (part, name) for part, one in enumerate(parts) for name in one.names]
    return Pictures(names, np.concatenate([part.sums for part in parts]), np.concatenate([part.sizes for part in parts]))
