"""Two arms' answers to the same documents, and the counts of them that a Comparison follows from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from harness import health
from harness.errors import Fault, Refused
from harness.record import Row, Sample

Sampled = TypeVar("Sampled", Sample, Row)
Pairs = list[tuple[Sampled, Sampled]]
"""What both arms answered to each document."""


def pair(baseline: Sequence[Sampled], candidate: Sequence[Sampled], where: str, anyway: bool = False) -> Pairs[Sampled]:
    """Samples of the two arms by document; raises Refused when the arms were not asked the same documents.

    anyway: pairs documents that were asked with another prompt or picture as well.
    """
    other = {sample.doc_id: sample for sample in candidate}
    if len(other) != len(candidate) or len({sample.doc_id for sample in baseline}) != len(baseline):
        raise Refused(Fault(where, "has two documents with one id, so they cannot be paired"))
    if not baseline or not candidate:
        raise Refused(Fault(where, "has no documents, so there is nothing to compare"))
    alone = sorted({s.doc_id for s in baseline} ^ other.keys())
    if alone:
        raise Refused(
            Fault(where, f"the arms were asked different documents: {len(alone)} stand in one only, first {alone[0]}")
        )
    pairs = [(sample, other[sample.doc_id]) for sample in baseline]
    for before, after in (p for p in pairs if p[0] is not p[1]) if not anyway else ():
        if (before.prompt_hash, before.image_hash) != (after.prompt_hash, after.image_hash):
            raise Refused(Fault(where, f"document {before.doc_id} was asked with another prompt or picture in the two arms"))
        tokens = (before.prompt_tokens, after.prompt_tokens)
        if all(tokens) and tokens[0] != tokens[1]:
            # Templates, tokenizers and processors lie in the checkpoints, which may differ; these must not.
            what = f"document {before.doc_id} took {tokens[0]} tokens in one arm and {tokens[1]} in the other"
            raise Refused(Fault(where, what, "the checkpoints' chat templates, tokenizers or processors differ"))
    return pairs


@dataclass
class Tally:
    """Counts from which a Comparison follows; they add up over tasks."""

    n: int = 0
    lost: int = 0
    gained: int = 0
    flips: int = 0
    squares: float = 0.0
    """Sum of the squared differences in score."""
    pictures: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    """For each set of pictures (or document without): the sums of both arms' scores, and how many documents show it."""
    baseline: health.Tally = field(default_factory=health.Tally)
    candidate: health.Tally = field(default_factory=health.Tally)

    @classmethod
    def of(cls, pairs: Pairs[Sampled], task: str) -> Tally:
        """The counts of one task."""
        pictures: dict[str, tuple[float, float, int]] = {}
        for number, (a, b) in enumerate(pairs):
            name = a.image_hash or f"document {number} of {task}"
            known = pictures.get(name)
            pictures[name] = (known[0] + a.score, known[1] + b.score, known[2] + 1) if known else (a.score, b.score, 1)
        changed = [(a, b) for a, b in pairs if a is not b]
        baseline = health.Tally.of([a for a, _ in pairs])
        return cls(
            n=len(pairs),
            lost=sum(a.score > b.score for a, b in changed),
            gained=sum(a.score < b.score for a, b in changed),
            flips=sum(a.answer != b.answer for a, b in changed),
            squares=sum((b.score - a.score) ** 2 for a, b in changed),
            pictures=pictures,
            baseline=baseline,
            candidate=baseline.replaced([a for a, _ in changed], [b for _, b in changed]),
        )

    @classmethod
    def total(cls, parts: Sequence[Tally]) -> Tally:
        """The counts over several tasks; pictures that two of them show are one."""
        pictures = dict(parts[0].pictures)
        for part in parts[1:]:
            shared = {name: (pictures[name], part.pictures[name]) for name in pictures.keys() & part.pictures.keys()}
            pictures |= part.pictures
            for name, (one, two) in shared.items():
                pictures[name] = (one[0] + two[0], one[1] + two[1], one[2] + two[2])
        return cls(
            n=sum(part.n for part in parts),
            lost=sum(part.lost for part in parts),
            gained=sum(part.gained for part in parts),
            flips=sum(part.flips for part in parts),
            squares=sum(part.squares for part in parts),
            pictures=pictures,
            baseline=health.Tally.total([part.baseline for part in parts]),
            candidate=health.Tally.total([part.candidate for part in parts]),
        )
