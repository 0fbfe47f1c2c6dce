"""The documents that candidates lost, dealt over tasks and candidates: what a report shows to people."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from harness.compare.answers import Comparison


@dataclass(frozen=True)
class LostDocument:
    """A document that one or more candidates lost."""

    task: str
    doc_id: str
    image_hash: str
    target: str
    baseline: str
    """The baseline's name."""
    before: str
    """The baseline's answer."""
    answers: dict[str, str]
    """What each candidate that lost it answered."""


def lost_documents(comparisons: Iterable[Comparison], limit: int) -> list[LostDocument]:
    """Up to `limit` of the documents that Comparisons name, dealt over tasks and candidates in turn, in the order of tasks."""
    comparisons = list(comparisons)
    hands = [[(c, lost) for lost in c.examples] for c in comparisons if not c.noise]
    found: dict[tuple[str, str, str], LostDocument] = {}
    dealt = (card for turn in itertools.zip_longest(*hands) for card in turn if card is not None)
    for c, lost in dealt:
        key = (c.baseline, c.task, lost.doc_id)
        if key not in found and len(found) < limit:
            found[key] = LostDocument(c.task, lost.doc_id, lost.image_hash, lost.target, c.baseline, lost.baseline, {})
        if key in found:
            found[key].answers[c.candidate] = lost.candidate
    order = list(dict.fromkeys(c.task for c in comparisons))
    return sorted(found.values(), key=lambda document: order.index(document.task))
