"""Baseline and candidate paired by document: what was lost, what was gained, and whether that is more than noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.compare import stats
from harness.compare.arms import Arms, asked_unlike
from harness.compare.counts import PairCounts
from harness.compare.pairing import Pairs, Sampled
from harness.compare.rows import read_rows
from harness.record.folder import RunFolder
from harness.record.health import Health
from harness.record.records import Record
from harness.util.errors import Fault, NoDocuments, NotDone, Refused, Unlike

ALL = "all"
"""The name of the total over all tasks."""
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
    """McNemar's exact test of lost against gained."""
    detectable: float
    """The smallest loss that this many pairs would have shown with 80 % power, as a share."""
    baseline_health: Health
    candidate_health: Health
    clusters: int | None = None
    """Groups of documents that share their pictures; None when none do."""
    noise: bool = False
    """The candidate is the baseline once more: what differs is the noise floor."""
    total: bool = False
    """Over several tasks together."""
    apart: str = ""
    """In what the arms' places differ, where that is allowed: `device: H100 and RTX 4080`."""
    examples: tuple[Lost, ...] = ()
    """The first so many (`EXAMPLES`) of the lost documents, for people to look at; none for a total."""

    @property
    def verdict(self) -> str:
        """`loss` or `gain` at the 5 % level, else `none shown`; never that there is none. `degenerate`: no answers at all."""
        if self.baseline_health.degenerate or self.candidate_health.degenerate:
            return "degenerate"
        if self.p_value >= 0.05:
            return "none shown"
        return "loss" if self.lost > self.gained else "gain"

    def questions_needed(self, min_recovery: float) -> int | None:
        """How many questions show with 80 % power that a candidate without loss recovers `min_recovery`; None if unknown."""
        # One pair lost and one gained are added, as for the interval: that none was seen does not mean there are none.
        margin, discordant = (1 - min_recovery) * self.baseline_score, (self.lost + self.gained + 2) / (self.n + 2)
        return stats.questions_for_noninferiority(margin, discordant) if margin > 0 else None


def compare_pairs(task: str, arms: Arms, pairs: Pairs[Sampled], noise: bool = False) -> Comparison:
    """The Comparison of paired samples. Documents that share their pictures are resampled together."""
    return compare_counts(task, arms, PairCounts.of(pairs), noise, examples=_examples(pairs))


def _examples(pairs: Pairs[Sampled]) -> tuple[Lost, ...]:
    worse = itertools.islice(((a, b) for a, b in zip(*pairs.rows, strict=True) if a.score > b.score), EXAMPLES)
    return tuple(Lost(a.doc_id, a.image_hash, a.target, a.answer, b.answer) for a, b in worse)


def compare_counts(task: str, arms: Arms, tally: PairCounts, noise: bool = False, **more: Any) -> Comparison:
    """The Comparison that follows from counts.

    Where few answers changed the adjusted interval is the wider one: five equal answers show nothing.
    """
    kinds, n, groups = tally.pictures.kinds_beside(tally.moved), tally.n, len(tally.pictures.names)
    before, after = (sum(kind[arm] * count for kind, count in kinds.items()) / n for arm in (0, 1))
    difference, recovery = stats.bootstrap(kinds)
    adjusted = stats.adjusted((after - before) * n, tally.squares, n)
    difference = stats.wider(difference, adjusted)
    if before:
        bounds = (1 + bound / before for bound in (adjusted.value, adjusted.low, adjusted.high))
        recovery = stats.wider(recovery, stats.Interval(*bounds))
    return Comparison(
        task=task,
        baseline=arms.baseline,
        candidate=arms.candidate,
        n=n,
        baseline_score=before,
        candidate_score=after,
        difference=difference,
        recovery=recovery,
        lost=tally.lost,
        gained=tally.gained,
        flips=tally.flips,
        p_value=stats.mcnemar_exact(tally.lost, tally.gained),
        detectable=stats.detectable_difference(n, (tally.lost + tally.gained) / n),
        baseline_health=tally.baseline.health(),
        candidate_health=tally.candidate.health(),
        clusters=groups if groups < n else None,
        noise=noise,
        **more,
    )


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
        self.tallies: list[PairCounts] = []
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
            pairs = read_rows(*cells, f"{self.arms.candidate}/{task}", self.anyway)
        except Refused as refused:
            self.faults += [Unlike(f.where, f.what, f.right) for f in refused.faults]
            return
        self.noise = _same(one, two)
        self.tallies.append(PairCounts.of(pairs))
        told = {"examples": _examples(pairs), "apart": apart}
        self.found.append(compare_counts(task, self.arms, self.tallies[-1], self.noise, **told))

    def outcome(self) -> tuple[list[Comparison], list[Fault]]:
        """What came out, with the total over the tasks."""
        # What differs on all tasks is one fault, not one for each.
        for what, names in self.differ.items():
            where = f"{self.arms} on {', '.join(names) if len(names) < 4 else f'{len(names)} tasks'}"
            self.faults.append(Unlike(where, f"were not measured alike: {what}"))
        if len(self.found) > 1:
            whole = len(self.found) == len(self.records[0])
            total = ALL if whole else f"{len(self.found)} of {len(self.records[0])} tasks"
            self.found.append(compare_counts(total, self.arms, PairCounts.total(self.tallies), self.noise, total=True))
        return self.found, self.faults


def _same(baseline: Record, candidate: Record) -> bool:
    """Whether two Records are one checkpoint measured twice in one Run."""
    a, b = baseline.provenance.identity, candidate.provenance.identity
    return a.get("checkpoint") == b.get("checkpoint") and a.get("repeat") != b.get("repeat")


def _not_done(record: Record) -> NotDone:
    if record.status != "done":
        return NotDone(record.cell.label, f"is {record.status}, so nothing is computed from it: {record.reason}")
    score = record.metrics.get("score")
    if score is not None and score.n:
        what = f"has a score over {score.n} documents but no samples, so it cannot be paired"
        return NotDone(record.cell.label, what, "inconclusive: import or measure it with its samples")
    return NoDocuments(record.cell.label, "has no documents, so there is nothing to compare")
