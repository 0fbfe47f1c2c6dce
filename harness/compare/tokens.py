"""How far a candidate's token probabilities are from the baseline's, on the baseline's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.compare import stats
from harness.compare.arms import ARM_FIELDS, Arms, arms_of, asked_unlike
from harness.record.folder import RunFolder
from harness.record.records import Record
from harness.record.samples import TokenScores
from harness.util.errors import Fault, NotDone, Unlike
from harness.workloads import workload_names


@dataclass(frozen=True)
class Divergence:
    """One candidate against the baseline, over the tokens of the baseline's answers."""

    baseline: str
    candidate: str
    questions: int
    tokens: int
    mean: stats.Interval
    """Mean Kullback-Leibler divergence per token, nats, with its interval over questions; see stats.divergence for what it
    leaves out."""
    p99: float
    """99th percentile over tokens, nats."""
    top1_agree: float
    """Share of tokens at which both arms find the same token likeliest."""
    noise: bool
    """The candidate is the baseline once more."""


def compare_tokens(baseline: Sequence[TokenScores], candidate: Sequence[TokenScores], arms: Arms, noise: bool) -> Divergence:
    """The divergence over all rows; raises ValueError when the arms judged different tokens, or none."""
    other = {(row.task, row.doc_id): row for row in candidate}
    found: list[float] = []
    sums: list[float] = []
    agree = 0
    for row in baseline:
        twin = other.get((row.task, row.doc_id))
        if len(other) != len(baseline) or twin is None or twin.tokens != row.tokens:
            raise ValueError(f"the arms were asked about different tokens, first in document {row.doc_id} of {row.task}")
        tokens = [stats.divergence(p, q) for p, q in zip(row.logprobs, twin.logprobs, strict=True)]
        found += tokens
        sums.append(sum(tokens))
        agree += sum(a == b for a, b in zip(row.best, twin.best, strict=True))
    if not found:
        raise ValueError("the baseline's answers hold no tokens")
    return Divergence(
        baseline=arms.baseline,
        candidate=arms.candidate,
        questions=len(baseline),
        tokens=len(found),
        mean=_mean(sums, [len(row.tokens) for row in baseline]),
        p99=float(np.quantile(found, 0.99)),
        top1_agree=agree / len(found),
        noise=noise,
    )


def _mean(sums: Sequence[float], tokens: Sequence[int]) -> stats.Interval:
    """Nats over tokens; an answer without tokens says nothing."""
    held = [(total, count) for total, count in zip(sums, tokens, strict=True) if count]
    return stats.ratio_of_sums([total for total, _ in held], [count for _, count in held])


def compare_divergence(run: RunFolder, baseline: str) -> tuple[list[Divergence], list[Fault]]:
    """Every candidate of a Run whose divergence was measured; a fault for each that cannot be compared."""
    records: dict[str, Record] = {r.cell.variant: r for r in run.records() if r.cell.workload in workload_names("tokens")}
    divergences: list[Divergence] = []
    faults: list[Fault] = []
    for arms in arms_of(run.read(), records.values(), baseline):
        before, after = records.get(arms.baseline), records[arms.candidate]
        broken = [r for r in (before, after) if r is not None and r.status != "done"]
        if before is None or broken:
            faults += [NotDone(r.cell.label, f"is {r.status}: {r.reason}") for r in broken]
            continue
        where = f"{arms} on {after.cell.label.partition('/')[2]}"
        differing, _ = asked_unlike(before, after, ARM_FIELDS)
        if differing:
            faults.append(Unlike(where, "were not measured alike: " + "; ".join(differing)))
            continue
        rows = [list(run.rows(r.cell.key, TokenScores)) for r in (before, after)]
        noise = before.provenance.identity.get("checkpoint") == after.provenance.identity.get("checkpoint")
        try:
            divergences.append(compare_tokens(rows[0], rows[1], arms, noise))
        except ValueError as error:
            faults.append(Unlike(where, str(error)))
    return divergences, faults
