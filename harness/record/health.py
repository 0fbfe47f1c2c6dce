"""Whether a task's answers are answers at all. Pure functions over Samples; a score cannot tell a model that broke.

A model that emits one token for ever still scores a quarter on four choices where the scorer guesses, and one that says
"B" to everything scores what B is worth. Neither is a measurement of a quantized model's accuracy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.record.samples import NOT_ASKED, Row, Sample

LOOPED_SHARE = 0.1
"""Above this share of answers that only repeat themselves, a Cell is degenerate."""
ONE_ANSWER = 0.95
"""From this share of answers that are one and the same, a Cell is degenerate, unless the right answers are as uniform."""
FEW = 10
"""With fewer documents than this, one answer to all of them means nothing."""
LOOP = re.compile(r"(.{1,20}?)\1{3,}", re.DOTALL)
"""A unit of up to 20 characters, four times or more."""


Answers = Sequence[Sample | Row]


def loops(sample: Sample | Row) -> bool:
    """Whether a response is one unit over and over, to its end, and not because that was the right answer."""
    text = sample.response.strip()
    match = LOOP.match(text)
    if not match or text == sample.target.strip():
        return False
    rest = text[match.end() :]
    # Cut by length, the last repetition is a part of the unit.
    return match[1].startswith(rest) and len(text) >= 4


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


class Texts:
    """How often each text occurs: what was counted once, and what has changed since. Many may share one count."""

    def __init__(self, counted: Counter[str], top: tuple[str, int] | None = None, change: Counter[str] | None = None):
        self._counted, self._change = counted, change or Counter()
        self._counted_top = top or _top(counted)

    def __getitem__(self, text: str) -> int:
        return self._counted[text] + self._change[text]

    def changed(self, less: Sequence[str], more: Sequence[str]) -> Texts:
        """The same with some texts fewer and some more."""
        if less == more:
            return self
        change = Counter(self._change)
        change.update(more)
        change.subtract(less)
        return Texts(self._counted, self._counted_top, change)

    def common(self, least: float) -> tuple[str, int]:
        """The most frequent text and how often it occurs, where that is `least` times or more; else an empty one, 0 times."""
        text, count = self._counted_top
        if count + max([0, *self._change.values()]) < least:  # most often so, and told without a look at the texts
            return "", 0
        every = self._counted.keys() | self._change.keys() if self._change[text] < 0 else {text, *self._change}
        found = _top(Counter({text: self[text] for text in every}))
        return found if found[1] >= least else ("", 0)


def degenerate(samples: Answers) -> str | None:
    """Why these answers are none, or None when they are: repeated units, or one answer for all documents."""
    return AnswerCounts.of(samples).degenerate()


def _loops(samples: Answers) -> list[str]:
    return [s.response.strip()[:20] for s in samples if loops(s)]


def _unparsed(samples: Answers) -> int:
    return len([s for s in samples if not s.parsed])


def _cut(samples: Answers) -> int:
    return len([s for s in samples if s.finish_reason == "length"])


@dataclass(frozen=True)
class Health:
    """How good one arm's answers are as answers; shares of all its documents."""

    unparsed: float
    cut_by_length: float
    degenerate: str | None
    """Why the answers are none; None when they are."""


@dataclass
class AnswerCounts:
    """Counts from which the Health of an arm follows. They add up over tasks, and an arm's follow from another's."""

    n: int = 0
    asked: int = 0
    """Those that were asked; the rest was set aside, and says nothing."""
    unparsed: int = 0
    cut: int = 0
    loops: Counter[str] = field(default_factory=Counter)
    """How responses that only repeat themselves begin."""
    answers: Texts = field(default_factory=lambda: Texts(Counter()))
    targets: Texts = field(default_factory=lambda: Texts(Counter()))

    @classmethod
    def of(cls, samples: Answers) -> AnswerCounts:
        """The counts of one arm."""
        asked = [s for s in samples if s.finish_reason != NOT_ASKED]
        return cls(
            n=len(samples),
            asked=len(asked),
            unparsed=_unparsed(asked),
            cut=_cut(asked),
            loops=Counter(_loops(asked)),
            answers=Texts(Counter([s.answer.strip() for s in asked])),
            targets=Texts(Counter([s.target.strip() for s in asked])),
        )

    def replaced(self, old: Answers, new: Answers) -> AnswerCounts:
        """The counts with the answers `new` in the place of `old`."""
        less, more = ([s for s in samples if s.finish_reason != NOT_ASKED] for samples in (old, new))
        repeated = Counter(self.loops)
        repeated.subtract(_loops(less) if self.loops else ())
        repeated.update(_loops(more))
        return AnswerCounts(
            n=self.n + len(new) - len(old),
            asked=self.asked + len(more) - len(less),
            unparsed=self.unparsed + _unparsed(more) - _unparsed(less),
            cut=self.cut + _cut(more) - _cut(less),
            loops=+repeated,
            answers=self.answers.changed([s.answer.strip() for s in less], [s.answer.strip() for s in more]),
            targets=self.targets.changed([s.target.strip() for s in less], [s.target.strip() for s in more]),
        )

    @classmethod
    def total(cls, parts: Sequence[AnswerCounts]) -> AnswerCounts:
        """The counts over several tasks, but of answers and targets only those that nearly all of some task's documents have
        in common: what nearly all documents of all tasks have in common is among them."""
        texts = []
        for each in ([part.answers for part in parts], [part.targets for part in parts]):
            common = {one.common(ONE_ANSWER * part.asked)[0] for one, part in zip(each, parts, strict=True)}
            texts.append(Texts(Counter({text: sum(one[text] for one in each) for text in common})))
        return cls(
            n=sum(part.n for part in parts),
            asked=sum(part.asked for part in parts),
            unparsed=sum(part.unparsed for part in parts),
            cut=sum(part.cut for part in parts),
            loops=sum((part.loops for part in parts), Counter[str]()),
            answers=texts[0],
            targets=texts[1],
        )

    def degenerate(self) -> str | None:
        """See `degenerate`."""
        n, repeated = self.asked, self.loops.total()
        if n and repeated / n > LOOPED_SHARE:
            return f"{100 * repeated / n:.0f} % of the answers repeat themselves ({self.loops.most_common(1)[0][0]!r})"
        if n < FEW:
            return None
        (answer, count), (_, expected) = (texts.common(ONE_ANSWER * n) for texts in (self.answers, self.targets))
        if count and not expected:
            return f"{100 * count / n:.0f} % of the answers are one and the same ({answer[:20]!r})"
        return None

    def health(self) -> Health:
        """The shares; the arm must not be empty."""
        return Health(self.unparsed / self.n, self.cut / self.n, self.degenerate())


def health_of(samples: Answers) -> Health:
    """The health of one arm; samples must not be empty."""
    return AnswerCounts.of(samples).health()
