"""Baseline and candidate paired by document: what was lost, what was gained, and whether that is more than noise."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.compare import stats
from harness.compare.arms import Arms, asked_unlike
from harness.compare.counts import PairCounts
from harness.compare.looked import FIXED_LEVEL, Looked, both
from harness.compare.pairing import Pairs, Sampled
from harness.compare.rows import read_rows
from harness.record.folder import RunFolder
from harness.record.health import Health
from harness.record.records import Record
from harness.util.errors import Fault, NoDocuments, NotDone, Refused, Unlike

ALL = "all"
"""The name of the total over all tasks."""
LEVEL = 0.05
"""Below it a p shows a difference."""
FEWEST = 6
"""Of five changed answers even five losses have a p of 0.06."""
EXAMPLES = 24
"""How many of a Cell's lost documents a Comparison names."""


@dataclass(frozen=True)
class Lost:
    """A document that the baseline got right and the candidate wrong."""

    doc_id: str
    image_hash: str
    target: str
    baseline: str
    """The baseline's answer."""
    candidate: str


@dataclass(frozen=True)
class Comparison:
    """One candidate against the baseline on one task, or on all tasks together."""

    task: str
    baseline: str
    candidate: str
    n: int
    baseline_score: float
    candidate_score: float
    difference: stats.Interval
    recovery: stats.Interval
    lost: int
    """Documents that the baseline got right and the candidate wrong."""
    gained: int
    flips: int
    """Documents whose answers differ, right or wrong."""
    p_value: float
    """That the arms are exchangeable, by signs flipped a picture; for single questions McNemar's exact test."""
    detectable: float | None
    """The smallest loss that this many pairs would have shown with 80 % power, as a share; None where too few answers
    changed to show any."""
    baseline_health: Health
    candidate_health: Health
    variance: float = 1.0
    """What a question adds to the variance of the summed difference, pictures taken together; for single questions the share
    of answers lost or gained. One picture lost and one gained are added: that none was seen does not mean there are none."""
    p_held: float | None = None
    """`p_value` after Holm over the rows that stand together (`held`); None before."""
    chance: float | None = None
    """What guessing gives, a share; None where a task does not say."""
    clusters: int | None = None
    """Groups of documents that share their pictures; None when none do."""
    noise: bool = False
    """The candidate is the baseline once more: what differs is the noise floor."""
    total: bool = False
    """Over several tasks together."""
    apart: str = ""
    """In what the arms' places differ, where that is allowed: `device: H100 and RTX 4080`."""
    of: int | None = None
    """Questions that there are, where one looked between them: the intervals and p hold at every look. None: all at once."""
    examples: tuple[Lost, ...] = ()
    """The first so many (`EXAMPLES`) of the lost documents, for people to look at; none for a total."""

    @property
    def verdict(self) -> str:
        """`loss` or `gain` at the 5 % level, else `none shown`; never that there is none. `degenerate`: no answers at all."""
        if self.baseline_health.degenerate or self.candidate_health.degenerate:
            return "degenerate"
        if (self.p_value if self.p_held is None else self.p_held) >= LEVEL:
            return "none shown"
        return "loss" if self.candidate_score < self.baseline_score else "gain"

    @property
    def at_chance(self) -> bool:
        """Whether the baseline is not shown to be better than guessing: then there is nothing that could be lost."""
        if self.chance is None or not 0 < self.chance < 1:
            return False
        return stats.above_chance(self.baseline_score, self.n, self.chance) >= LEVEL / 2

    @property
    def stopped(self) -> bool:
        """Whether questions were left unasked."""
        return self.of is not None and self.n < self.of

    def questions_needed(self, min_recovery: float) -> int | None:
        """How many questions show with 80 % power that a candidate without loss recovers `min_recovery`; None if unknown."""
        margin = (1 - min_recovery) * self.baseline_score
        return stats.questions_for_noninferiority(margin, self.variance) if margin > 0 else None


def compare_pairs(task: str, arms: Arms, pairs: Pairs[Sampled], noise: bool = False) -> Comparison:
    """The Comparison of paired samples. Documents that share their pictures are resampled together."""
    return compare_counts(task, arms, PairCounts.of(pairs), noise, examples=_examples(pairs))


def _examples(pairs: Pairs[Sampled]) -> tuple[Lost, ...]:
    worse = itertools.islice(((a, b) for a, b in zip(*pairs.rows, strict=True) if a.score > b.score), EXAMPLES)
    return tuple(Lost(a.doc_id, a.image_hash, a.target, a.answer, b.answer) for a, b in worse)


@dataclass(frozen=True)
class Judged:
    """What the scores of two arms say."""

    difference: stats.Interval
    recovery: stats.Interval
    p_value: float
    changed: Counter[float]
    """How often each difference of a picture's score occurs, but 0."""


def judged(kinds: Mapping[tuple[float, float, int], int], fractions: bool, level: float = 0.95) -> Judged:
    """Intervals and p of paired scores. kinds: as for `stats.bootstrap`. fractions: whether an answer moved by less than one.

    Pictures are the unit wherever questions share one. Where few answers changed the adjusted interval is the wider one: five
    equal answers show nothing. Flipped signs test whether the arms are exchangeable; where scores are fractions their
    differences may be skewed, and then it is no test of the mean (wrong in 18 to 27 % of simulations), so the mean's own p must
    be below the level as well.
    """
    questions = sum(size * count for (_, _, size), count in kinds.items())
    before = sum(mine * count for (mine, _, _), count in kinds.items()) / questions
    difference, recovery = stats.bootstrap(kinds, level=level)
    adjusted, p_mean = stats.adjusted_groups(kinds, level)
    if before:
        bounds = (1 + bound / before for bound in (adjusted.value, adjusted.low, adjusted.high))
        recovery = stats.wider(recovery, stats.Interval(*bounds))
    changed: Counter[float] = Counter()
    for (mine, other, _), count in kinds.items():
        # Sums of fractions leave the noise of floating point behind.
        if moved := round(other - mine, 9):
            changed[moved] += count
    p_value = stats.sign_flips(changed) if changed else 1.0
    return Judged(stats.wider(difference, adjusted), recovery, max(p_value, p_mean) if fractions else p_value, changed)


def _between(looked: Looked, kinds: Mapping[tuple[float, float, int], int], fractions: bool) -> Judged:
    """`judged` where one looked between the questions: by the bets, and by the fixed rule too where all were asked."""
    whole = sum(size * count for (_, _, size), count in kinds.items()) >= looked.asked.of
    found = judged(kinds, fractions, FIXED_LEVEL)
    difference, recovery = looked.difference(), looked.recovery()
    if whole and looked.before.any():
        difference, recovery = both(difference, found.difference), both(recovery, found.recovery)
    return Judged(difference, recovery, looked.p_value(), found.changed)


def compare_counts(
    task: str, arms: Arms, counts: PairCounts, noise: bool = False, looked: Looked | None = None, **more: Any
) -> Comparison:
    """The Comparison that follows from counts. looked: the scores in their order, where one looked between them."""
    kinds = counts.pictures.kinds_beside(counts.moved)
    found = _between(looked, kinds, counts.fractions) if looked else judged(kinds, counts.fractions)
    n, groups = counts.n, len(counts.pictures.names)
    squares, size = sum(moved**2 * count for moved, count in found.changed.items()), n / groups
    before, after = (sum(kind[arm] * count for kind, count in kinds.items()) / n for arm in (0, 1))
    return Comparison(
        task=task,
        baseline=arms.baseline,
        candidate=arms.candidate,
        n=n,
        baseline_score=before,
        candidate_score=after,
        difference=found.difference,
        recovery=found.recovery,
        lost=counts.lost,
        gained=counts.gained,
        flips=counts.flips,
        p_value=found.p_value,
        detectable=_detectable(n, squares / n, found.changed.total()),
        variance=(squares + 2 * size**2) / (n + 2 * size),
        baseline_health=counts.baseline.health(),
        candidate_health=counts.candidate.health(),
        clusters=groups if groups < n else None,
        noise=noise,
        of=looked.asked.of if looked else None,
        **more,
    )


def _detectable(n: int, variance: float, changed: int) -> float | None:
    """See Comparison.detectable. changed: pictures that differ; with fewer than six no p is below 5 %."""
    return stats.detectable_difference(n, variance) if changed >= FEWEST else None


def overall(comparisons: Sequence[Comparison]) -> list[bool]:
    """Which rows are a candidate's whole: its total, or its only task."""
    rows = Counter(c.candidate for c in comparisons)
    return [c.total or rows[c.candidate] == 1 for c in comparisons]


def held(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The rows of one table with their p adjusted by Holm: over the candidates' wholes, and over all their tasks.

    In each of the two `loss` or `gain` is said falsely in at most 5 % of Runs. The baseline asked once more is no candidate.
    """
    rows = list(comparisons)
    whole = overall(rows)
    for family in (True, False):
        places = [place for place, c in enumerate(rows) if whole[place] == family and not c.noise]
        for place, p in zip(places, stats.holm([rows[place].p_value for place in places]), strict=True):
            rows[place] = replace(rows[place], p_held=p)
    return rows


class Comparing:
    """Two arms while they are compared, one task after the other."""

    def __init__(
        self,
        runs: tuple[RunFolder, RunFolder],
        records: tuple[dict[str, Record], dict[str, Record]],
        arms: Arms,
        may_differ: Sequence[str],
        anyway: bool,
    ):
        """records: the accuracy Records of each arm, by task."""
        self.runs, self.records, self.arms, self.may_differ, self.anyway = runs, records, arms, may_differ, anyway
        self.found: list[Comparison] = []
        self.counts: list[PairCounts] = []
        self.looked: list[Looked] = []
        """As `counts`, of tasks between whose questions one looked."""
        self.differ: dict[str, list[str]] = {}
        """Tasks by what their arms differ in."""
        self.noise = False
        before, after = records
        self.faults: list[Fault] = [
            arms.alone(task, "baseline" if task in before else "candidate")
            for task in dict.fromkeys([*before, *after])
            if (task in before) != (task in after)
        ]

    @property
    def samples(self) -> int:
        """How many rows there are to pair."""
        return sum(record.samples for record in self.records[1].values())

    def state(self) -> list[Any]:
        """All of the two Runs that can change the outcome."""
        return [
            [task, run.state(one.cell.key), one.provenance.identity, one.status, one.reason, one.samples, one.taken_from]
            for run, records in zip(self.runs, self.records, strict=True)
            for task, one in records.items()
        ]

    def compare(self, task: str) -> None:
        """Compare them on one task, if both were asked it."""
        if any(task not in records for records in self.records):
            return
        one, two = (records[task] for records in self.records)
        broken = [_not_done(record) for record in (one, two) if record.status != "done" or not record.samples]
        if broken:
            self.faults += broken
            return
        differing, apart = ("; ".join(fields) for fields in asked_unlike(one, two, self.may_differ))
        if differing:
            self.differ.setdefault(differing, []).append(task)
            if not self.anyway:
                return
        cells = (self.runs[0], one.cell.key), (self.runs[1], two.cell.key)
        try:
            asked = two.asked or one.asked
            pairs = read_rows(*cells, f"{self.arms.candidate}/{task}", self.anyway, prefix=asked is not None)
        except Refused as refused:
            self.faults += [Unlike(f.where, f.what, f.right, self.arms.candidate) for f in refused.faults]
            return
        self.noise = _same(one, two)
        self.counts.append(PairCounts.of(pairs))
        looked = Looked.of(task, pairs, asked) if asked else None
        self.looked += [looked] if looked else []
        told = {"examples": _examples(pairs), "apart": apart, "chance": _chance(one)}
        self.found.append(compare_counts(task, self.arms, self.counts[-1], self.noise, looked, **told))

    def outcome(self) -> tuple[list[Comparison], list[Fault]]:
        """What came out, with the total over the tasks."""
        # What differs on all tasks is one fault, not one for each.
        for what, names in self.differ.items():
            where = f"{self.arms} on {', '.join(names) if len(names) < 4 else f'{len(names)} tasks'}"
            self.faults.append(Unlike(where, f"were not measured alike: {what}", "", self.arms.candidate))
        if len(self.found) > 1:
            whole = len(self.found) == len(self.records[0])
            total = ALL if whole else f"{len(self.found)} of {len(self.records[0])} tasks"
            counts, chance = PairCounts.total(self.counts), _mean_chance(self.found)
            looked = Looked.total(self.looked) if self.looked else None
            self.found.append(compare_counts(total, self.arms, counts, self.noise, looked, total=True, chance=chance))
        return self.found, self.faults


def _same(baseline: Record, candidate: Record) -> bool:
    """Whether two Records are one checkpoint measured twice in one Run."""
    a, b = baseline.provenance.identity, candidate.provenance.identity
    return a.get("checkpoint") == b.get("checkpoint") and a.get("repeat") != b.get("repeat")


def _chance(record: Record) -> float | None:
    metric = record.metrics.get("chance")
    return metric.value if metric is not None else None


def _mean_chance(rows: Sequence[Comparison]) -> float | None:
    """What guessing gives over several tasks; None where one of them does not say."""
    if any(c.chance is None for c in rows):
        return None
    return sum((c.chance or 0.0) * c.n for c in rows) / sum(c.n for c in rows)


def _not_done(record: Record) -> NotDone:
    if record.status != "done":
        return NotDone(record.cell.label, f"is {record.status}, so nothing is computed from it: {record.reason}")
    score = record.metrics.get("score")
    if score is not None and score.n:
        what = f"has a score over {score.n} documents but no samples, so it cannot be paired"
        return NotDone(record.cell.label, what, "inconclusive: import or measure it with its samples")
    return NoDocuments(record.cell.label, "has no documents, so there is nothing to compare")
