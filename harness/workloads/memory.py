"""Memory: what the engine says it took, what the device and its processes show under load. Never the device's peak alone."""

from __future__ import annotations

from typing import Any

from harness import environments, limits
from harness.engine import Engine
from harness.errors import Fault
from harness.monitor import Monitor
from harness.record import Metric
from harness.suite import EngineSettings, MemorySpec
from harness.workloads import Measurement, Progress, bench_client
from harness.workloads.load import arguments, broken_rules, traffic_faults

SAID = {
    "weights_gib": "GiB",
    "kv_cache_gib": "GiB",
    "kv_cache_tokens": "tokens",
    "graphs_gib": "GiB",
    "activations_gib": "GiB",
    "non_torch_gib": "GiB",
}
"""Fields of EngineFacts that are figures of memory."""


class Memory:
    """One Cell an engine."""

    def points(self, spec: MemorySpec) -> list[dict[str, Any]]:
        return [{"load": f"concurrency{spec.concurrency}"}]

    def identity(self, spec: MemorySpec, point: dict[str, Any]) -> dict[str, Any]:
        return spec.model_dump(mode="json", exclude_none=True)

    def faults(self, spec: MemorySpec, points: list[dict[str, Any]], settings: EngineSettings) -> list[Fault]:
        return traffic_faults(spec.load, "memory.load", settings)

    def preflight(self, spec: MemorySpec, points: list[dict[str, Any]], settings: EngineSettings, model: str) -> list[Fault]:
        return []

    def measure(self, engine: Engine, spec: MemorySpec, point: dict[str, Any], progress: Progress) -> Measurement:
        requests = max(spec.requests, 2 * spec.concurrency)
        progress(0, requests, f"memory under {requests} requests")
        before = engine.metrics()
        with Monitor(engine.root, engine.settings.tensor_parallel_size, processes=True) as monitor:
            result = bench_client.shared().ask(
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
        size = tokens * limits.kv_bytes_per_token(engine.checkpoint) / engine.settings.tensor_parallel_size / 2**30
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
