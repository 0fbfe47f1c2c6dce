"""Baseline and candidate paired by document: what was lost, what was gained, and whether that is more than noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness import stats
from harness.errors import Fault, NotDone, OneArm, Refused, Unlike
from harness.health import Health, health_of
from harness.record import Record, Sample
from harness.store import RunFolder

ARM_FIELDS = ("checkpoint", "repeat")
"""What the two arms of a Comparison may differ in: fields of a Record's identity, dotted below the first."""
ALL = "all"
"""The name of the total over all tasks."""


@dataclass(frozen=True)
class Arms:
    """The names of the two sides of a comparison."""

    baseline: str
    candidate: str

    def __str__(self) -> str:
        return f"{self.baseline} and {self.candidate}"


def arms_of(facts: dict[str, Any], records: Iterable[Record], baseline: str) -> list[Arms]:
    """Which variant is compared with which: `compared_with` of run.json's variants, else the Run's baseline."""
    arms = []
    for name in dict.fromkeys(r.cell.variant for r in records):
        other = (facts["variants"].get(name) or {}).get("compared_with") or baseline
        if name != other and name != baseline:
            arms.append(Arms(other, name))
    return arms


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


def unlike(baseline: Record, candidate: Record, may_differ: Sequence[str] = ARM_FIELDS) -> list[str]:
    """The fields in which two Records' identities differ, but for `may_differ`: `engine.max_num_seqs: 8 and 32`."""

    def walk(before: Any, after: Any, path: str) -> Iterable[str]:
        if path in may_differ:
            return
        if isinstance(before, dict) and isinstance(after, dict):
            for key in sorted(before.keys() | after.keys()):
                yield from walk(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        elif before != after:
            yield f"{path}: {before} and {after}"

    return list(walk(baseline.provenance.identity, candidate.provenance.identity, ""))


def pair(
    baseline: Sequence[Sample], candidate: Sequence[Sample], where: str, anyway: bool = False
) -> list[tuple[Sample, Sample]]:
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
    for before, after in pairs if not anyway else []:
        if (before.prompt_hash, before.image_hash) != (after.prompt_hash, after.image_hash):
            raise Refused(Fault(where, f"document {before.doc_id} was asked with another prompt or picture in the two arms"))
        tokens = (before.prompt_tokens, after.prompt_tokens)
        if all(tokens) and tokens[0] != tokens[1]:
            # Templates, tokenizers and processors lie in the checkpoints, which may differ; these must not.
            what = f"document {before.doc_id} took {tokens[0]} tokens in one arm and {tokens[1]} in the other"
            raise Refused(Fault(where, what, "the checkpoints' chat templates, tokenizers or processors differ"))
    return pairs


def compare_pairs(
    task: str, names: tuple[str, str], pairs: Sequence[tuple[Sample, Sample]], noise: bool = False, total: bool = False
) -> Comparison:
    """The Comparison of paired samples. Documents that share their pictures are resampled together.

    Where few answers changed the adjusted interval is the wider one: five equal answers show nothing.
    """
    before, after = [a.score for a, _ in pairs], [b.score for _, b in pairs]
    pictures = [a.image_hash or f"document {number}" for number, (a, _) in enumerate(pairs)]
    groups = len(set(pictures))
    difference, recovery = stats.paired_bootstrap(before, after, clusters=pictures if groups < len(pairs) else None)
    adjusted = stats.adjusted_difference([b - a for a, b in zip(before, after, strict=True)])
    difference, score = stats.wider(difference, adjusted), sum(before) / len(pairs)
    if score:
        bounds = (1 + bound / score for bound in (adjusted.value, adjusted.low, adjusted.high))
        recovery = stats.wider(recovery, stats.Interval(*bounds))
    lost = sum(a > b for a, b in zip(before, after, strict=True))
    gained = sum(a < b for a, b in zip(before, after, strict=True))
    n = len(pairs)
    return Comparison(
        task=task,
        baseline=names[0],
        candidate=names[1],
        n=n,
        baseline_score=score,
        candidate_score=sum(after) / n,
        difference=difference,
        recovery=recovery,
        lost=lost,
        gained=gained,
        flips=sum(a.answer != b.answer for a, b in pairs),
        p_value=stats.mcnemar_exact(lost, gained),
        detectable=stats.detectable_difference(n, (lost + gained) / n),
        baseline_health=health_of([a for a, _ in pairs]),
        candidate_health=health_of([b for _, b in pairs]),
        clusters=groups if groups < n else None,
        noise=noise,
        total=total,
    )


def compare_run(run: RunFolder, baseline: str, anyway: bool = False) -> tuple[list[Comparison], list[Fault]]:
    """Every candidate of a Run against its baseline, task by task and then in total.

    A fault for each pair of arms that differ in more than the checkpoint, or in their documents: those are left out.
    anyway: they are compared all the same, as far as documents can be paired; the faults stay.
    """
    found: list[Comparison] = []
    faults: list[Fault] = []
    for arms in arms_of(run.read(), run.records(), baseline):
        some, wrong = compare_arms((run, arms.baseline), (run, arms.candidate), arms, anyway=anyway)
        found += some
        faults += wrong
    return found, list(dict.fromkeys(faults))


def compare_arms(
    baseline: tuple[RunFolder, str],
    candidate: tuple[RunFolder, str],
    arms: Arms,
    may_differ: Sequence[str] = ARM_FIELDS,
    anyway: bool = False,
) -> tuple[list[Comparison], list[Fault]]:
    """Two variants, each with the Run it lies in, task by task and then in total; see `compare_run`."""
    before, after = (
        {r.cell.point["task"]: r for r in run.records() if (r.cell.variant, r.cell.workload) == (name, "accuracy")}
        for run, name in (baseline, candidate)
    )
    found: list[Comparison] = []
    every: list[tuple[Sample, Sample]] = []
    faults: list[Fault] = [
        OneArm(f"{arms} on {task}", f"was measured for {arms.baseline if task in before else arms.candidate} alone")
        for task in dict.fromkeys([*before, *after])
        if (task in before) != (task in after)
    ]
    noise, differ = False, dict[str, list[str]]()
    for task in (task for task in before if task in after):
        one, two = before[task], after[task]
        broken = [_not_done(record) for record in (one, two) if record.status != "done" or not record.samples]
        if broken:
            faults += broken
            continue
        differing = "; ".join(unlike(one, two, may_differ))
        if differing:
            differ.setdefault(differing, []).append(task)
            if not anyway:
                continue
        rows = [list(run.samples(record.cell.key)) for (run, _), record in ((baseline, one), (candidate, two))]
        try:
            pairs = pair(rows[0], rows[1], f"{arms.candidate}/{task}", anyway)
        except Refused as refused:
            faults += [Unlike(f.where, f.what, f.right) for f in refused.faults]
            continue
        noise = _same(one, two)
        found.append(compare_pairs(task, (arms.baseline, arms.candidate), pairs, noise))
        every += pairs
    # What differs on all tasks is one fault, not one for each.
    for what, names in differ.items():
        where = f"{arms} on {', '.join(names) if len(names) < 4 else f'{len(names)} tasks'}"
        faults.append(Unlike(where, f"were not measured alike: {what}"))
    if len(found) > 1:
        total = ALL if len(found) == len(before) else f"{len(found)} of {len(before)} tasks"
        found.append(compare_pairs(total, (arms.baseline, arms.candidate), every, noise, total=True))
    return found, faults


def _same(one: Record, two: Record) -> bool:
    """Whether two Records are one checkpoint measured twice in one Run."""
    a, b = one.provenance.identity, two.provenance.identity
    return a.get("checkpoint") == b.get("checkpoint") and a.get("repeat") != b.get("repeat")


def _not_done(record: Record) -> NotDone:
    if record.status != "done":
        return NotDone(record.cell.label, f"is {record.status}, so nothing is computed from it: {record.reason}")
    score = record.metrics.get("score")
    if score is not None and score.n:
        what = f"has a score over {score.n} documents but no samples, so it cannot be paired"
        return NotDone(record.cell.label, what, "inconclusive: import or measure it with its samples")
    return NotDone(record.cell.label, "has no documents, so there is nothing to compare")
