"""How early a verdict would have been there, had both arms been asked in a random order of pictures.

For finished Runs and imports. The bets are in sequential.py. The order is one permutation of all pictures over all tasks,
drawn with a seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from harness.compare import answers, counts, looked, pairing, pictures, rows, sequential
from harness.compare.answers import Comparing
from harness.compare.counts import PairCounts
from harness.compare.looked import Looked
from harness.compare.sequential import Early
from harness.util import files
from harness.util.cached import Kept

POINTS = 200
"""Moments at which the capitals are kept for a plot."""


@dataclass(frozen=True)
class EarlyVerdict:
    """One candidate, judged before the last question."""

    baseline: str
    candidate: str
    limit: float
    """The recovery that must be kept, a share."""
    questions: int
    """All that were asked."""
    early: Early
    asked: list[int]
    """Questions at some moments, at most POINTS."""
    above: list[float]
    """Decimal logarithm of the capital that was bet on a recovery above the limit, at those moments."""
    below: list[float]
    """Of the capital that was bet on one below."""
    noise: bool = False


KEPT = TypeAdapter(list[EarlyVerdict])


def early_verdicts(pairs: Sequence[Comparing], limit: float, seed: int = 0) -> list[EarlyVerdict]:
    """Of candidates that were not compared yet, judged together. Those that do not pair with the baseline are left out.

    What came out is kept in the cache folder until a samples file or the code changes.
    """
    code = [files.file_sha256(Path(str(m.__file__))) for m in (answers, counts, looked, pairing, pictures, rows, sequential)]
    code.append(files.file_sha256(Path(__file__)))
    name = ["early", limit, seed, *([str(run.path.resolve()) for run in pair.runs] + [str(pair.arms)] for pair in pairs)]
    kept = Kept(json.dumps(name), files.digest([code, *(pair.state() for pair in pairs)]), KEPT)
    known = kept.find()
    return known if known is not None else kept.keep(_made(pairs, limit, seed))


def _made(pairs: Sequence[Comparing], limit: float, seed: int) -> list[EarlyVerdict]:
    compared, arms = [], []
    for pair in pairs:
        for task in pair.records[0]:
            pair.compare(task)
        if not pair.counts or pair.faults:
            continue
        found = PairCounts.total(pair.counts)
        before = found.pictures.sums
        after = before.copy()
        groups, sums = found.moved
        after[groups] = sums
        if before.min() < 0 or not before.any():
            continue  # nothing that could be lost
        order = sequential.order(len(before), seed)
        compared.append(pair)
        if pair.looked:  # they were asked in an order of their own, and that is the one that counts
            whole = Looked.total(pair.looked)
            arms.append((whole.before, whole.after, whole.sizes))
        else:
            arms.append((before[order], after[order], found.pictures.sizes[order].astype(float)))
    made = []
    for pair, arm, early in zip(compared, arms, sequential.decided(arms, limit) if arms else [], strict=True):
        asked = arm[2].cumsum()
        places = np.unique(np.linspace(0, len(asked) - 1, min(POINTS, len(asked))).round().astype(int))
        above, below = (one[places] / np.log(10) for one in sequential.bets(*arm, limit))
        made.append(
            EarlyVerdict(
                baseline=pair.arms.baseline,
                candidate=pair.arms.candidate,
                limit=limit,
                questions=int(asked[-1]),
                early=early,
                asked=asked[places].astype(int).tolist(),
                above=above.round(3).tolist(),
                below=below.round(3).tolist(),
                noise=pair.noise,
            )
        )
    return made
