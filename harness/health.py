"""Whether a task's answers are answers at all. Pure functions over Samples; a score cannot tell a model that broke.

A model that emits one token for ever still scores a quarter on four choices where the scorer guesses, and one that says
"B" to everything scores what B is worth. Neither is a measurement of a quantized model's accuracy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from harness.record import NOT_ASKED, Row, Sample

LOOPED_SHARE = 0.1
"""Above this share of answers that only repeat themselves, a Cell is degenerate."""
ONE_ANSWER = 0.95
"""From this share of answers that are one and the same, a Cell is degenerate, unless the right answers are as uniform."""
FEW = 10
"""With fewer documents than this, one answer to all of them means nothing."""
LOOP = re.compile(r"(.{1,20}?)\1{3,}", re.DOTALL)
"""A unit of up to 20 characters, four times or more."""


Answers = Sequence[Sample] | Sequence[Row]


def loops(sample: Sample | Row) -> bool:
    """Whether a response is one unit over and over, to its end, and not because that was the right answer."""
    return _loops(sample.response.strip(), sample.target.strip())


@lru_cache(maxsize=1 << 16)
def _loops(text: str, target: str) -> bool:
    found = LOOP.match(text)
    if not found or text == target:
        return False
    rest = text[found.end() :]
    # Cut by length, the last repetition is a part of the unit.
    return found[1].startswith(rest) and len(text) >= 4


def looped(samples: Answers) -> float:
    """The share of responses that only repeat themselves."""
    return sum(map(loops, samples)) / len(samples) if samples else 0.0


def commonest(texts: Sequence[str]) -> tuple[str, float]:
    """The most frequent text and its share."""
    ((text, count),) = Counter(texts).most_common(1)
    return text, count / len(texts)


def degenerate(samples: Answers) -> str | None:
    """Why these answers are none, or None when they are: repeated units, or one answer for all documents."""
    return Tally.of(samples).degenerate()


@dataclass(frozen=True)
class Health:
    """How good one arm's answers are as answers; shares of all its documents."""

    unparsed: float
    cut_by_length: float
    degenerate: str | None
    """Why the answers are none; None when they are."""


@dataclass
class Tally:
    """Counts from which the Health of an arm follows. They add up over tasks, and an arm's follow from another's."""

    n: int = 0
    asked: int = 0
    """Those that were asked; the rest was set aside, and says nothing."""
    unparsed: int = 0
    cut: int = 0
    loops: Counter[str] = field(default_factory=Counter)
    """How responses that only repeat themselves begin."""
    answers: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, samples: Answers) -> Tally:
        """The counts of one arm."""
        asked = [s for s in samples if s.finish_reason != NOT_ASKED]
        return cls(
            n=len(samples),
            asked=len(asked),
            unparsed=sum(not s.parsed for s in asked),
            cut=sum(s.finish_reason == "length" for s in asked),
            loops=Counter(s.response.strip()[:20] for s in asked if loops(s)),
            answers=Counter(s.answer.strip() for s in asked),
            targets=Counter(s.target.strip() for s in asked),
        )

    def replaced(self, old: Answers, new: Answers) -> Tally:
        """The counts with the answers `new` in the place of `old`."""
        less, more = Tally.of(old), Tally.of(new)
        counters = []
        for mine, minus, plus in zip(self._counters(), less._counters(), more._counters(), strict=True):
            if minus != plus:
                mine = Counter(mine)
                mine.subtract(minus)
                mine.update(plus)
            counters.append(mine)
        numbers = (a - b + c for a, b, c in zip(self._numbers(), less._numbers(), more._numbers(), strict=True))
        made = Tally(*numbers, *counters)  # type: ignore[arg-type]
        if made.targets is self.targets:
            made.commonest_target = self.commonest_target
        return made

    @cached_property
    def commonest_answer(self) -> tuple[str, int]:
        """The most frequent answer and how often it came; there must be one."""
        return self.answers.most_common(1)[0]

    @cached_property
    def commonest_target(self) -> tuple[str, int]:
        """The most frequent right answer and how often it was; there must be one."""
        return self.targets.most_common(1)[0]

    @classmethod
    def total(cls, parts: Sequence[Tally]) -> Tally:
        """The counts over several tasks, of each task's commonest answers and targets only: what is common to nearly all
        documents is the commonest in some task."""
        asked = [part for part in parts if part.answers]
        answers = {text: sum(part.answers[text] for part in parts) for text in {p.commonest_answer[0] for p in asked}}
        targets = {text: sum(part.targets[text] for part in parts) for text in {p.commonest_target[0] for p in asked}}
        loops = sum((part.loops for part in parts), Counter[str]())
        numbers = [sum(each) for each in zip(*(part._numbers() for part in parts), strict=True)]
        return cls(*numbers, loops, Counter(answers), Counter(targets))  # type: ignore[call-arg]

    def _numbers(self) -> tuple[int, int, int, int]:
        return self.n, self.asked, self.unparsed, self.cut

    def _counters(self) -> tuple[Counter[str], Counter[str], Counter[str]]:
        return self.loops, self.answers, self.targets

    def degenerate(self) -> str | None:
        """See `degenerate`."""
        n, repeated = self.asked, self.loops.total()
        if n and repeated / n > LOOPED_SHARE:
            return f"{100 * repeated / n:.0f} % of the answers repeat themselves ({self.loops.most_common(1)[0][0]!r})"
        if n < FEW:
            return None
        (answer, count), (_, expected) = self.commonest_answer, self.commonest_target
        if count / n >= ONE_ANSWER and expected / n < ONE_ANSWER:
            return f"{100 * count / n:.0f} % of the answers are one and the same ({answer[:20]!r})"
        return None

    def health(self) -> Health:
        """The shares; the arm must not be empty."""
        return Health(self.unparsed / self.n, self.cut / self.n, self.degenerate())


def health_of(samples: Answers) -> Health:
    """The health of one arm; samples must not be empty."""
    return Tally.of(samples).health()
