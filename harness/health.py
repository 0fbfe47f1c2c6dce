"""Whether a task's answers are answers at all. Pure functions over Samples; a score cannot tell a model that broke.

A model that emits one token for ever still scores a quarter on four choices where the scorer guesses, and one that says
"B" to everything scores what B is worth. Neither is a measurement of a quantized model's accuracy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.record import NOT_ASKED, Sample

LOOPED_SHARE = 0.1
"""Above this share of answers that only repeat themselves, a Cell is degenerate."""
ONE_ANSWER = 0.95
"""From this share of answers that are one and the same, a Cell is degenerate, unless the right answers are as uniform."""
FEW = 10
"""With fewer documents than this, one answer to all of them means nothing."""
LOOP = re.compile(r"(.{1,20}?)\1{3,}", re.DOTALL)
"""A unit of up to 20 characters, four times or more."""


def loops(sample: Sample) -> bool:
    """Whether a response is one unit over and over, to its end, and not because that was the right answer."""
    text = sample.response.strip()
    found = LOOP.match(text)
    if not found or text == sample.target.strip():
        return False
    rest = text[found.end() :]
    # Cut by length, the last repetition is a part of the unit.
    return found[1].startswith(rest) and len(text) >= 4


def looped(samples: Sequence[Sample]) -> float:
    """The share of responses that only repeat themselves."""
    return sum(map(loops, samples)) / len(samples) if samples else 0.0


def commonest(texts: Sequence[str]) -> tuple[str, float]:
    """The most frequent text and its share."""
    ((text, count),) = Counter(texts).most_common(1)
    return text, count / len(texts)


def degenerate(samples: Sequence[Sample]) -> str | None:
    """Why these answers are none, or None when they are: repeated units, or one answer for all documents."""
    samples = [s for s in samples if s.finish_reason != NOT_ASKED]
    if not samples:
        return None
    share = looped(samples)
    if share > LOOPED_SHARE:
        example = next(s for s in samples if loops(s)).response.strip()[:20]
        return f"{100 * share:.0f} % of the answers repeat themselves ({example!r})"
    answer, share = commonest([s.answer.strip() for s in samples])
    _, expected = commonest([s.target.strip() for s in samples])
    if len(samples) >= FEW and share >= ONE_ANSWER and expected < ONE_ANSWER:
        return f"{100 * share:.0f} % of the answers are one and the same ({answer[:20]!r})"
    return None


@dataclass(frozen=True)
class Health:
    """How good one arm's answers are as answers; shares of all its documents."""

    unparsed: float
    cut_by_length: float
    degenerate: str | None
    """Why the answers are none; None when they are."""


def health_of(samples: Sequence[Sample]) -> Health:
    """The health of one arm; samples must not be empty."""
    n = len(samples)
    return Health(
        unparsed=sum(not s.parsed and s.finish_reason != NOT_ASKED for s in samples) / n,
        cut_by_length=sum(s.finish_reason == "length" for s in samples) / n,
        degenerate=degenerate(samples),
    )
