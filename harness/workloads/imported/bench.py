"""Results of `vllm bench serve`, `throughput` and `latency`: each file is one trial of one point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.record.records import Metric, Record
from harness.util.errors import Fault, Refused
from harness.workloads.imported.base import UNKNOWN, Imported, Place, number, provenance_of, record_of, when
from harness.workloads.latency import Latency
from harness.workloads.throughput import Throughput

SERVE_UNITS = {
    "output_throughput": "tokens/s",
    "total_token_throughput": "tokens/s",
    "request_throughput": "requests/s",
    "request_goodput": "requests/s",
    "duration": "s",
    "completed": "requests",
    "failed": "requests",
    "total_input_tokens": "tokens",
    "total_output_tokens": "tokens",
}


def read(path: Path, data: dict[str, Any], place: Place, sha: str, earlier: Sequence[Record]) -> Imported | None:
    """The Record of a result of vLLM's benchmarks; None for another file."""
    if "request_throughput" in data and "completed" in data:
        return _serve(path, data, place, sha, earlier)
    if {"requests_per_second", "elapsed_time"} <= data.keys() or {"avg_latency", "latencies"} <= data.keys():
        return _offline(path, data, place, sha, earlier)
    return None


def _trial(workload: str, point: dict[str, Any], place: Place, sha: str, path: Path, earlier: Sequence[Record]) -> int:
    """The next trial of a point; a file that is there already keeps its own, and is never a second trial."""
    same = [r for r in earlier if r.facts.get("sha256") == sha]
    for record in same:
        mine = {k: v for k, v in record.cell.point.items() if k != "trial"}
        if (record.cell.variant, record.cell.workload, mine) == (place.variant, workload, point):
            return int(record.cell.point["trial"])
        what = f"is in this Run already, as {record.cell.label}"
        raise Refused(Fault(str(path), what, "one result counts once"))
    taken = [
        int(r.cell.point.get("trial", 0))
        for r in earlier
        if (r.cell.variant, r.cell.workload) == (place.variant, workload)
        and {k: v for k, v in r.cell.point.items() if k != "trial"} == point
    ]
    return max(taken, default=0) + 1


def _serve(path: Path, data: dict[str, Any], place: Place, sha: str, earlier: Sequence[Record]) -> Imported:
    """A result of `vllm bench serve`. Its own exit status is 0 even when every request failed, so the counts are looked at."""
    rate = number(data.get("request_rate"))
    open_loop = rate is not None and math.isfinite(rate)
    concurrency = int(number(data.get("max_concurrency")) or number(data.get("num_prompts")) or 0)
    point: dict[str, Any] = {"load": place.load} | ({"request_rate": rate} if open_loop else {"concurrency": concurrency})
    workload = place.workload or (Latency if concurrency == 1 and not open_loop else Throughput).name
    trial = _trial(workload, point, place, sha, path, earlier)
    completed = int(number(data.get("completed")) or 0)
    metrics = {}
    for name, value in data.items():
        unit = SERVE_UNITS.get(name) or ("ms" if name.endswith("_ms") else None)
        figure = number(value)
        if unit and figure is not None and math.isfinite(figure):
            metrics[name] = Metric(value=figure, unit=unit, n=completed, source="client")
    failed, asked = int(number(data.get("failed")) or 0), int(number(data.get("num_prompts")) or completed)
    measured = {k: data.get(k) for k in ("backend", "endpoint_type", "num_prompts", "request_rate", "burstiness")}
    measured |= {"load": place.load, "concurrency": data.get("max_concurrency"), "trial": trial}
    status: dict[str, Any] = {}
    if failed or completed != asked or not completed:
        status = {"status": "invalid", "reason": f"{completed} of {asked} requests were answered, {failed} failed"}
    provenance = provenance_of(
        str(data.get("model_id") or UNKNOWN),
        workload,
        measured,
        place,
        started=when(data.get("date")),
        seconds=data.get("duration"),
    )
    cell = {"variant": place.variant, "workload": workload, "point": point | {"trial": trial}}
    return Imported(record_of(path, cell, provenance, sha, metrics=metrics, **status))


def _offline(path: Path, data: dict[str, Any], place: Place, sha: str, earlier: Sequence[Record]) -> Imported:
    """A result of `vllm bench throughput` or `vllm bench latency`."""
    if "avg_latency" in data:
        workload, point = place.workload or Latency.name, {"load": place.load}
        figures = {"mean_e2el_ms": (1000 * float(data["avg_latency"]), "ms")}
        figures |= {f"p{p}_e2el_ms": (1000 * float(v), "ms") for p, v in (data.get("percentiles") or {}).items()}
    else:
        workload, point = place.workload or Throughput.name, {"load": place.load}
        figures = {"request_throughput": (float(data["requests_per_second"]), "requests/s")}
        figures |= (
            {"total_token_throughput": (float(data["tokens_per_second"]), "tokens/s")} if "tokens_per_second" in data else {}
        )
        figures |= {"completed": (float(data["num_requests"]), "requests")} if "num_requests" in data else {}
    trial = _trial(workload, point, place, sha, path, earlier)
    provenance = provenance_of(
        str(data.get("model_id") or UNKNOWN),
        workload,
        {"load": place.load, "trial": trial, "num_requests": data.get("num_requests")},
        place,
        started=when(data.get("date")),
        seconds=data.get("elapsed_time"),
    )
    metrics = {name: Metric(value=value, unit=unit, source="client") for name, (value, unit) in figures.items()}
    cell = {"variant": place.variant, "workload": workload, "point": point | {"trial": trial}}
    return Imported(record_of(path, cell, provenance, sha, metrics=metrics))
