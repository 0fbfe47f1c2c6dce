"""Whether a task's answers are answers at all. Pure functions over Samples; a score cannot tell a model that broke.

A model that emits one token for ever still scores a quarter on four choices where the scorer guesses, and one that says
"B" to everything scores what B is worth. Neither is a measurement of a quantized model's accuracy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

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
    text = sample.response.strip()
    found = LOOP.match(text)
    if not found or text == sample.target.strip():
        return False
    rest = text[found.end() :]
    # Cut by length, the last repetition is a part of the unit.
    return found[1].startswith(rest) and len(text) >= 4


def looped(samples: Answers) -> float:
    """The share of responses that only repeat themselves."""
    return sum(map(loops, samples)) / len(samples) if samples else 0.0


def commonest(texts: Sequence[str]) -> tuple[str, float]:
    """The most frequent text and its share."""
    text, count = _top(Counter(texts))
    return text, count / len(texts)


def _top(counter: Counter[str]) -> tuple[str, int]:
    """The most frequent text and how often it occurs; an empty one, 0 times, when there is none."""
    count = max(counter.values(), default=0)  # over numbers alone: a third of most_common's time
    return next((text for text, times in counter.items() if times == count), ""), count


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
            unparsed=len([s for s in asked if not s.parsed]),
            cut=len([s for s in asked if s.finish_reason == "length"]),
            loops=Counter([s.response.strip()[:20] for s in asked if loops(s)]),
            answers=Counter([s.answer.strip() for s in asked]),
            targets=Counter([s.target.strip() for s in asked]),
        )

    def replaced(self, old: Answers, new: Answers) -> Tally:
        """The counts with the answers `new` in the place of `old`."""
        less, more = Tally.of(old), Tally.of(new)
        counters = [Counter(counter) for counter in self._counters()]
        for mine, minus, plus in zip(counters, less._counters(), more._counters(), strict=True):
            mine.subtract(minus)
            mine.update(plus)
        numbers = (a - b + c for a, b, c in zip(self._numbers(), less._numbers(), more._numbers(), strict=True))
        return Tally(*numbers, *counters)  # type: ignore[arg-type]

    @classmethod
    def total(cls, parts: Sequence[Tally]) -> Tally:
        """The counts over several tasks, but of answers and targets only those that nearly all of some task's documents have
        in common: what nearly all documents of all tasks have in common is among them."""
        counters = []
        for kind in (0, 1):
            tops = [(*part._common[kind], part.asked) for part in parts]
            common = {text for text, count, asked in tops if count >= ONE_ANSWER * asked}
            texts = [part._counters()[1 + kind] for part in parts]
            counters.append(Counter({text: sum(counter[text] for counter in texts) for text in common}))
        loops = sum((part.loops for part in parts), Counter[str]())
        numbers = [sum(each) for each in zip(*(part._numbers() for part in parts), strict=True)]
        return cls(*numbers, loops, *counters)  # type: ignore[arg-type,call-arg]

    @cached_property
    def _common(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """The most frequent answer and the most frequent target, each with how often it occurs."""
        return _top(self.answers), _top(self.targets)

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
        (answer, count), (_, expected) = self._common
        if count / n >= ONE_ANSWER and expected / n < ONE_ANSWER:
            return f"{100 * count / n:.0f} % of the answers are one and the same ({answer[:20]!r})"
        return None

    def health(self) -> Health:
        """The shares; the arm must not be empty."""
        return Health(self.unparsed / self.n, self.cut / self.n, self.degenerate())


def health_of(samples: Answers) -> Health:
    """The health of one arm; samples must not be empty."""
    return Tally.of(samples).health()
