"""Baseline and candidate paired by document: what was lost, what was gained, and whether that is more than noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness import stats
from harness.errors import Fault, Refused
from harness.record import Record, Sample
from harness.store import RunFolder

ARM_FIELDS = ("checkpoint", "repeat")
"""What the two arms of a Comparison may differ in: fields of a Record's identity, dotted below the first."""


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

    @property
    def verdict(self) -> str:
        """`loss` or `gain` at the 5 % level, else `none shown`; never that there is none."""
        if self.p_value >= 0.05:
            return "none shown"
        return "loss" if self.lost > self.gained else "gain"


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


def pair(baseline: Sequence[Sample], candidate: Sequence[Sample], where: str) -> list[tuple[Sample, Sample]]:
    """Samples of the two arms by document; raises Refused when the arms were not asked the same documents."""
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
    for before, after in pairs:
        if (before.prompt_hash, before.image_hash) != (after.prompt_hash, after.image_hash):
            raise Refused(Fault(where, f"document {before.doc_id} was asked with another prompt or picture in the two arms"))
    return pairs


def compare_pairs(task: str, names: tuple[str, str], pairs: Sequence[tuple[Sample, Sample]]) -> Comparison:
    """The Comparison of paired samples."""
    before, after = [a.score for a, _ in pairs], [b.score for _, b in pairs]
    difference, recovery = stats.paired_bootstrap(before, after)
    lost = sum(a > b for a, b in zip(before, after, strict=True))
    gained = sum(a < b for a, b in zip(before, after, strict=True))
    n = len(pairs)
    return Comparison(
        task=task,
        baseline=names[0],
        candidate=names[1],
        n=n,
        baseline_score=sum(before) / n,
        candidate_score=sum(after) / n,
        difference=difference,
        recovery=recovery,
        lost=lost,
        gained=gained,
        flips=sum(a.answer != b.answer for a, b in pairs),
        p_value=stats.mcnemar_exact(lost, gained),
        detectable=stats.detectable_difference(n, (lost + gained) / n),
    )


def compare_run(run: RunFolder, baseline: str) -> tuple[list[Comparison], list[Fault]]:
    """Every candidate of a Run against its baseline, task by task and then in total.

    A fault for each pair of arms that differ in more than the checkpoint, or in their documents: those are left out.
    """
    records = [r for r in run.records() if r.cell.workload == "accuracy" and r.status == "done"]
    base = {r.cell.point["task"]: r for r in records if r.cell.variant == baseline}
    candidates = dict.fromkeys(r.cell.variant for r in records if r.cell.variant != baseline)
    found: list[Comparison] = []
    faults: list[Fault] = []
    for name in candidates:
        every: list[tuple[Sample, Sample]] = []
        tasks = 0
        for record in (r for r in records if r.cell.variant == name and r.cell.point["task"] in base):
            task = record.cell.point["task"]
            differing = unlike(base[task], record)
            if differing:
                faults.append(Fault(f"{baseline} and {name} on {task}", "were not measured alike: " + "; ".join(differing)))
                continue
            try:
                pairs = pair(list(run.samples(base[task].cell.key)), list(run.samples(record.cell.key)), f"{name}/{task}")
            except Refused as refused:
                faults += refused.faults
                continue
            found.append(compare_pairs(task, (baseline, name), pairs))
            every += pairs
            tasks += 1
        if tasks > 1:
            total = "all" if tasks == len(base) else f"{tasks} of {len(base)} tasks"
            found.append(compare_pairs(total, (baseline, name), every))
    return found, faults
