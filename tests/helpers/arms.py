"""Two arms of answers, and trials of two arms."""

from __future__ import annotations

from harness.record.records import CellId, Metric, Record
from tests.helpers.records import record, sample


def arms(n: int, lost: int, gained: int):
    base = [sample(str(i), 0.0 if i < gained else 1.0) for i in range(n)]
    other = [sample(str(i), 1.0 if i < gained else 0.0 if i < gained + lost else 1.0) for i in range(n)]
    return base, other


def trial(variant: str, number: int, minute: int = 0, workload: str = "throughput", level: int = 8, **fields) -> Record:
    """One trial's Record; `fields` are metrics by name, or `status`, `reason`, `labels`, `engine_start`: each trial has one
    of its own unless told."""
    engine = {"start_s": fields.pop("engine_start", number)}
    given = {name: fields.pop(name) for name in ("status", "reason", "labels") if name in fields}
    units = {"output_throughput": "tokens/s", "mean_tpot_ms": "ms", "energy_per_output_token_j": "J"}
    made = record(variant, f"{variant}{workload}{level}-{number}", workload=workload, **fields.pop("identity", {}))
    point = {"load": "image512", "concurrency": level, "trial": number}
    return made.model_copy(
        update={
            "cell": CellId(variant=variant, workload=workload, point=point, key=made.cell.key),
            "metrics": {n: Metric(value=v, unit=units.get(n, "tokens"), source="client") for n, v in fields.items()},
            "provenance": made.provenance.model_copy(
                update={"started": f"2026-01-01T00:{minute:02}:00+00:00", "engine": engine}
            ),
            **given,
        }
    )


def trials(variant: str, values, metric: str = "output_throughput", start: int = 0, step: int = 1, **fields):
    return [trial(variant, i + 1, start + step * i, **{metric: v}, **fields) for i, v in enumerate(values)]
