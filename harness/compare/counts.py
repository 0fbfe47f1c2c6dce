"""The counts of a pairing that a Comparison follows from; they add up over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.compare.pairing import Pairs, Sampled
from harness.compare.pictures import Moved, Pictures, together
from harness.record import health


@dataclass(frozen=True)
class PairCounts:
    """Counts from which a Comparison follows; they add up over tasks."""

    n: int
    lost: int
    gained: int
    flips: int
    fractions: bool
    """Whether some answer moved by something else than a whole question."""
    pictures: Pictures
    """The baseline's scores by the pictures that were shown."""
    moved: Moved
    """Where the candidate's differ."""
    baseline: health.AnswerCounts
    candidate: health.AnswerCounts

    @classmethod
    def of(cls, pairs: Pairs[Sampled]) -> PairCounts:
        """The counts of one task."""
        base, (before, after) = pairs.baseline, pairs.rows
        scores = np.array([row.score for row in after], float)
        differences = scores - np.array([row.score for row in before], float)
        return cls(
            n=len(base.rows),
            lost=int((differences < 0).sum()),
            gained=int((differences > 0).sum()),
            flips=sum(a.answer != b.answer for a, b in zip(before, after, strict=True)),
            fractions=bool((np.abs(differences) % 1 != 0).any()),
            pictures=base.pictures,
            moved=base.pictures.moved(np.array([place for place, _ in pairs.changed], int), scores),
            baseline=base.health,
            candidate=base.health.replaced(before, after),
        )

    @classmethod
    def total(cls, parts: Sequence[PairCounts]) -> PairCounts:
        """The counts over several tasks; pictures that two of them show are one."""
        pictures = together(tuple(part.pictures for part in parts))
        starts = np.cumsum([0, *(len(part.pictures.names) for part in parts)])
        places = np.concatenate([part.moved[0] + start for part, start in zip(parts, starts, strict=False)])
        return cls(
            n=sum(part.n for part in parts),
            lost=sum(part.lost for part in parts),
            gained=sum(part.gained for part in parts),
            flips=sum(part.flips for part in parts),
            fractions=any(part.fractions for part in parts),
            pictures=pictures,
            moved=pictures.moved(places, np.concatenate([part.moved[1] for part in parts])),
            baseline=health.AnswerCounts.total([part.baseline for part in parts]),
            candidate=health.AnswerCounts.total([part.candidate for part in parts]),
        )
