"""The two sides of a comparison: which variants they are, and whether they were measured alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.record.records import Record
from harness.record.run_facts import RunFacts
from harness.util.errors import OneArm

ARM_FIELDS = ("checkpoint", "repeat")
"""What the two arms of a Comparison may differ in: fields of a Record's identity, dotted below the first."""
PLACEMENT = ("engine.cpu_offload_gb", "engine.gpu_memory_utilization", "engine.kv_cache_gib")
"""Where weights and cache lie, and how much of it there is: answers do not depend on it, so accuracy may differ in it."""
ELSEWHERE = ("device", "engine.tensor_parallel_size")
"""What may differ too where an arm was taken over from another Run; it is told beside the figures."""


@dataclass(frozen=True)
class Arms:
    """The names of the two sides of a comparison."""

    baseline: str
    candidate: str

    def __str__(self) -> str:
        return f"{self.baseline} and {self.candidate}"

    def alone(self, place: str, side: Literal["baseline", "candidate"]) -> OneArm:
        """The fault of a task or point that was measured for one of them alone."""
        name = self.baseline if side == "baseline" else self.candidate
        return OneArm(f"{self} on {place}", f"was measured for {name} alone", "", self.candidate, place, side)


def arms_of(facts: RunFacts, records: Iterable[Record], baseline: str) -> list[Arms]:
    """Which variant is compared with which: `compared_with` of run.json's variants, else the Run's baseline."""
    arms = []
    for name in dict.fromkeys(r.cell.variant for r in records):
        other = facts.variant(name).compared_with or baseline
        if name != other and name != baseline:
            arms.append(Arms(other, name))
    return arms


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

    one, other = (record.provenance.engine.get("driver") for record in (baseline, candidate))
    # On a CPU there is none, and Records of earlier versions do not hold it.
    drivers = walk(one, other, "device.driver") if one and other and "device" not in may_differ else ()
    return [*walk(baseline.provenance.identity, candidate.provenance.identity, ""), *drivers]


def asked_unlike(baseline: Record, candidate: Record, may_differ: Sequence[str]) -> tuple[list[str], list[str]]:
    """`unlike` for answers: the fields that forbid a comparison, and those that are only told beside it."""
    placed = [*PLACEMENT, *(ELSEWHERE if baseline.taken_from or candidate.taken_from else ())]
    forbid = unlike(baseline, candidate, [*may_differ, *placed])
    return forbid, [line for line in unlike(baseline, candidate, may_differ) if line not in forbid]
