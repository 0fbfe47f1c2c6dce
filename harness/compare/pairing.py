"""Two arms' answers, paired by document. Plain and slow to nobody: files are read in harness/compare/rows.py.

A quantized model answers most questions as before. So a pairing is the baseline's rows and the few of the candidate's that
are not the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np

from harness.compare.pictures import Pictures
from harness.record import health
from harness.record.samples import Row, Sample
from harness.util.errors import Fault, Refused

Sampled = TypeVar("Sampled", Sample, Row)


class Baseline(Generic[Sampled]):
    """One arm's answers to a task's documents, and what every comparison with them needs."""

    def __init__(self, rows: Sequence[Sampled]):
        self.rows: Sequence[Sampled] = rows
        self.ids = {row.doc_id for row in rows}

    @cached_property
    def health(self) -> health.AnswerCounts:
        """The counts of its health."""
        return health.AnswerCounts.of(self.rows)

    @cached_property
    def pictures(self) -> Pictures:
        """Its documents by picture; one without is a group of its own."""
        names = [row.image_hash or number for number, row in enumerate(self.rows)]
        return Pictures(names, np.array([row.score for row in self.rows], float), np.ones(len(names)))


@dataclass(frozen=True)
class Pairs(Generic[Sampled]):
    """What both arms answered to each document."""

    baseline: Baseline[Sampled]
    changed: list[tuple[int, Sampled]]
    """The candidate's rows that are not the baseline's, each with its document's place among the baseline's rows."""

    @cached_property
    def rows(self) -> tuple[list[Sampled], list[Sampled]]:
        """The baseline's rows and the candidate's, of the documents that were answered differently."""
        return [self.baseline.rows[place] for place, _ in self.changed], [row for _, row in self.changed]


def pair(baseline: Baseline[Sampled], candidate: Sequence[Sampled], where: str, anyway: bool = False) -> Pairs[Sampled]:
    """Rows of the two arms by document; raises Refused when the arms were not asked the same documents.

    anyway: pairs documents that were asked with another prompt or picture as well.
    """
    other = {row.doc_id: row for row in candidate}
    if len(other) != len(candidate) or len(baseline.ids) != len(baseline.rows):
        raise Refused(Fault(where, "has two documents with one id, so they cannot be paired"))
    if not other or not baseline.ids:
        raise Refused(Fault(where, "has no documents, so there is nothing to compare"))
    alone = sorted(baseline.ids ^ other.keys())
    if alone:
        raise Refused(
            Fault(where, f"the arms were asked different documents: {len(alone)} stand in one only, first {alone[0]}")
        )
    both = ((place, row, other[row.doc_id]) for place, row in enumerate(baseline.rows))
    return asked_alike(Pairs(baseline, [(place, b) for place, a, b in both if a is not b]), where, anyway)


def asked_alike(pairs: Pairs[Sampled], where: str, anyway: bool) -> Pairs[Sampled]:
    """The pairs; raises Refused for a document that was asked with another prompt or picture, unless `anyway`."""
    asked = [[(row.prompt_hash, row.image_hash, row.prompt_tokens) for row in rows] for rows in pairs.rows]
    if anyway or asked[0] == asked[1]:
        return pairs
    for before, after in zip(*pairs.rows, strict=True):
        if (before.prompt_hash, before.image_hash) != (after.prompt_hash, after.image_hash):
            raise Refused(Fault(where, f"document {before.doc_id} was asked with another prompt or picture in the two arms"))
        tokens = (before.prompt_tokens, after.prompt_tokens)
        if all(tokens) and tokens[0] != tokens[1]:
            # Templates, tokenizers and processors lie in the checkpoints, which may differ; these must not.
            what = f"document {before.doc_id} took {tokens[0]} tokens in one arm and {tokens[1]} in the other"
            raise Refused(Fault(where, what, "the checkpoints' chat templates, tokenizers or processors differ"))
    return pairs
