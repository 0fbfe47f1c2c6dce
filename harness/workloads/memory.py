"""Memory: what the engine says it took, what the device and its processes show under load. Never the device's peak alone."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.engine.monitor import Monitor
from harness.engine.server import Engine
from harness.engine.session import Session
from harness.engine.settings import EngineSettings
from harness.record.records import Metric
from harness.util import environments
from harness.util.errors import Fault
from harness.util.strict import Strict
from harness.workloads import roofline
from harness.workloads.base import Context, Measurement, Workload
from harness.workloads.load import arguments, broken_rules, traffic_faults
from harness.workloads.traffic import Traffic

SAID = {
    "weights_gib": "GiB",
    "kv_cache_gib": "GiB",
    "kv_cache_tokens": "tokens",
    "graphs_gib": "GiB",
    "activations_gib": "GiB",
    "non_torch_gib": "GiB",
}
"""Fields of EngineFacts that are figures of memory."""


class MemorySpec(Strict):
    """What an engine takes: weights, KV cache, graphs and activations, and the device's peak under load."""

    load: Traffic = Traffic()
    """The requests that run while memory is watched."""
    concurrency: int = Field(default=8, gt=0)
    """Requests in flight meanwhile."""
    requests: int = Field(default=16, gt=0)
    """Requests in all; never fewer than twice the concurrency."""
    seed: int = 0
    """Of the prompts and pictures."""


class Memory(Workload):
    """What an engine takes of the device; one Cell an engine."""

    name = "memory"
    own_tables = True
    Spec = MemorySpec
    better = {
        "weights_gib": -1,
        "kv_cache_gib": 1,
        "kv_cache_tokens": 1,
        "graphs_gib": -1,
        "activations_gib": -1,
        "pss_peak_gib": -1,
    }
    # The device's peak is none of them: vLLM fills what it is given.
    leads = {"weights_gib": "weights in memory", "kv_cache_tokens": "KV cache, tokens"}

    def points(self, spec: MemorySpec) -> list[dict[str, Any]]:
        return [{"load": f"concurrency{spec.concurrency}"}]

    def identity(self, spec: MemorySpec, point: dict[str, Any]) -> dict[str, Any]:
        return spec.model_dump(mode="json", exclude_none=True)

    def faults(self, spec: MemorySpec, points: list[dict[str, Any]], settings: EngineSettings) -> list[Fault]:
        return traffic_faults(spec.load, "memory.load", settings)

    @classmethod
    def start(cls, session: Session) -> None:
        _ = session.client

    def measure(self, cell: Context) -> Measurement:
        engine, spec, progress = cell.engine, cell.spec, cell.progress
        requests = max(spec.requests, 2 * spec.concurrency)
        progress(0, requests, f"memory under {requests} requests")
        before = engine.metrics()
        with Monitor(engine.root, engine.settings.tensor_parallel_size, processes=True) as monitor:
            result = cell.session.client.ask(
                "bench", arguments(engine, spec.load, requests, 1000 * spec.seed, concurrency=spec.concurrency)
            )
        progress(requests, requests, f"memory under {requests} requests")
        delta = {name: value - before.get(name, 0.0) for name, value in engine.metrics().items()}
        seen = monitor.metrics()
        metrics = _said(engine) | {name: seen[name] for name in ("device_peak_gib", "process_peak_gib", "pss_peak_gib")}
        metrics["other_gib"] = _other(metrics)
        broken = broken_rules(result, delta, requests, spec.load.output_len)
        return Measurement(metrics, status="invalid" if broken else "done", reason="; ".join(broken) or None)


def _said(engine: Engine) -> dict[str, Metric]:
    """The engine's own figures; one card's share of the KV cache follows from its tokens where the log leaves it out."""
    found = {}
    for name, unit in SAID.items():
        value = getattr(engine.facts, name)
        found[name] = Metric(value=value, unit=unit, reason=engine.facts.reasons.get(name), source="log")
    tokens = found["kv_cache_tokens"].value
    if found["kv_cache_gib"].value is None and tokens is not None:
        size = tokens * roofline.kv_bytes_per_token(engine.checkpoint) / engine.settings.tensor_parallel_size / 2**30
        found["kv_cache_gib"] = Metric(value=size, unit="GiB", source="computed")
    return found


def _other(metrics: dict[str, Metric]) -> Metric:
    """The rest of the device's peak: activations, CUDA context, workspaces, fragmentation, and what was there before.

    All of it is one card's: vLLM tells each worker's share, and the peak is the fullest card's.
    """
    if environments.is_cpu():
        return Metric.missing("GiB", "no GPU: measured on a CPU", "computed")
    peak = metrics["device_peak_gib"].value
    parts = [metrics[name].value for name in ("weights_gib", "kv_cache_gib", "graphs_gib")]
    if peak is None or parts[0] is None or parts[1] is None:
        return Metric.missing("GiB", "needs the device's peak, the weights and the KV cache", "computed")
    return Metric(value=peak - sum(v or 0.0 for v in parts), unit="GiB", source="computed")
