"""Two arms' answers to the same documents, and the counts of them that a Comparison follows from."""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness import health
from harness.errors import Fault, Refused
from harness.health import Answers
from harness.record import Row, Sample

Sampled = TypeVar("Sampled", Sample, Row)
Pairs = list[tuple[Sampled, Sampled]]
"""What both arms answered to each document."""


def pair(
    baseline: Sequence[Sampled],
    candidate: Sequence[Sampled],
    where: str,
    anyway: bool = False,
    known: Set[str] | None = None,
) -> Pairs[Sampled]:
    """Samples of the two arms by document; raises Refused when the arms were not asked the same documents.

    anyway: pairs documents that were asked with another prompt or picture as well. known: the ids of the baseline's
    documents, where they were taken before.
    """
    known = known if known is not None else {sample.doc_id for sample in baseline}
    other: Set[str] = known
    pairs = list(zip(baseline, candidate, strict=False))
    places = _changed(pairs)
    alike = len(baseline) == len(candidate) and all(pairs[place][0].doc_id == pairs[place][1].doc_id for place in places)
    if not alike:
        found = {sample.doc_id: sample for sample in candidate}
        other, places = found.keys(), list(range(len(baseline)))
        pairs = [(sample, found[sample.doc_id]) for sample in baseline if sample.doc_id in found]
    if len(other) != len(candidate) or len(known) != len(baseline):
        raise Refused(Fault(where, "has two documents with one id, so they cannot be paired"))
    if not baseline or not candidate:
        raise Refused(Fault(where, "has no documents, so there is nothing to compare"))
    alone = sorted(known ^ other) if other is not known else []
    if alone:
        raise Refused(
            Fault(where, f"the arms were asked different documents: {len(alone)} stand in one only, first {alone[0]}")
        )
    for before, after in (pairs[place] for place in places) if not anyway else ():
        if (before.prompt_hash, before.image_hash) != (after.prompt_hash, after.image_hash):
            raise Refused(Fault(where, f"document {before.doc_id} was asked with another prompt or picture in the two arms"))
        tokens = (before.prompt_tokens, after.prompt_tokens)
        if all(tokens) and tokens[0] != tokens[1]:
            # Templates, tokenizers and processors lie in the checkpoints, which may differ; these must not.
            what = f"document {before.doc_id} took {tokens[0]} tokens in one arm and {tokens[1]} in the other"
            raise Refused(Fault(where, what, "the checkpoints' chat templates, tokenizers or processors differ"))
    return pairs


class Pictures:
    """Which of one task's documents show the same pictures. Made once for a baseline; its candidates share it."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        """Of each document: the hash of its pictures, or a name of its own where it has none."""
        places: dict[str, int] = {}
        self.groups = np.array([places.setdefault(name, len(places)) for name in self.names], dtype=np.int64)
        """Of each document: the number of its group, from 0."""
        self.count = len(places)

    @classmethod
    def of(cls, rows: Answers, task: str) -> Pictures:
        """Of the documents of one task."""
        hashes = [row.image_hash for row in rows]
        return cls([one or f"document {number} of {task}" for number, one in enumerate(hashes)])


def _changed(pairs: Pairs[Sampled]) -> list[int]:
    """Where the two arms' samples are not one and the same object, which they are when their lines are equal."""
    return [place for place, same in enumerate(itertools.starmap(operator.is_, pairs)) if not same]


@lru_cache(maxsize=8)
def _joined(parts: tuple[Pictures, ...]) -> Pictures:
    """The documents of several tasks one after the other; pictures that two of them show are one."""
    return Pictures([name for part in parts for name in part.names])


@dataclass(frozen=True)
class Asked:
    """What of a baseline's answers to one task every comparison with it needs."""

    pictures: Pictures
    scores: NDArray[np.float64]
    """Of each document."""
    health: health.Tally
    documents: frozenset[str]
    """Their ids."""

    @classmethod
    def of(cls, rows: Answers, task: str) -> Asked:
        """From the rows, in their order."""
        scores, ids = np.array([row.score for row in rows], float), frozenset(row.doc_id for row in rows)
        return cls(Pictures.of(rows, task), scores, health.Tally.of(rows), ids)


@dataclass
class Tally:
    """Counts from which a Comparison follows; they add up over tasks."""

    n: int
    lost: int
    gained: int
    flips: int
    squares: float
    """Sum of the squared differences in score."""
    pictures: tuple[Pictures, ...]
    """Of each task."""
    scores: tuple[NDArray[np.float64], ...]
    """Of each task: both arms' scores, shape (2, documents)."""
    baseline: health.Tally
    candidate: health.Tally

    @classmethod
    def of(cls, pairs: Pairs[Sampled], task: str, asked: Asked | None = None) -> Tally:
        """The counts of one task. asked: of the baseline's rows in the pairs' order, where they were taken before."""
        asked = asked or Asked.of([a for a, _ in pairs], task)
        scores = np.stack([asked.scores, asked.scores])
        places = _changed(pairs)
        changed = [pairs[place] for place in places]
        scores[1, places] = [b.score for _, b in changed]
        return cls(
            n=len(pairs),
            lost=sum(a.score > b.score for a, b in changed),
            gained=sum(a.score < b.score for a, b in changed),
            flips=sum(a.answer != b.answer for a, b in changed),
            squares=sum((b.score - a.score) ** 2 for a, b in changed),
            pictures=(asked.pictures,),
            scores=(scores,),
            baseline=asked.health,
            candidate=asked.health.replaced([a for a, _ in changed], [b for _, b in changed]),
        )

    @classmethod
    def total(cls, parts: Sequence[Tally]) -> Tally:
        """The counts over several tasks."""
        return cls(
            n=sum(part.n for part in parts),
            lost=sum(part.lost for part in parts),
            gained=sum(part.gained for part in parts),
            flips=sum(part.flips for part in parts),
            squares=sum(part.squares for part in parts),
            pictures=tuple(one for part in parts for one in part.pictures),
            scores=tuple(one for part in parts for one in part.scores),
            baseline=health.Tally.total([part.baseline for part in parts]),
            candidate=health.Tally.total([part.candidate for part in parts]),
        )

    def kinds(self) -> Counter[tuple[float, float, int]]:
        """How often each (sum of the baseline's scores, sum of the candidate's, documents) occurs among sets of pictures."""
        shown = _joined(self.pictures) if len(self.pictures) > 1 else self.pictures[0]
        before, after = np.concatenate(self.scores, axis=1)
        if shown.count == self.n and np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
            counted = np.bincount((2 * before + after).astype(np.int64), minlength=4)
            return Counter({(float(code // 2), float(code % 2), 1): int(c) for code, c in enumerate(counted) if c})
        if shown.count == self.n:
            values, counts = np.unique(before + 1j * after, return_counts=True)
            return Counter({(v.real, v.imag, 1): int(c) for v, c in zip(values.tolist(), counts.tolist(), strict=True)})
        sums = (np.bincount(shown.groups, weights) for weights in (before, after))
        return Counter(zip(*(s.tolist() for s in sums), np.bincount(shown.groups).tolist(), strict=True))
