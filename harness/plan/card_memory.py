"""Whether an engine fits its card: what it will take, told from the checkpoint and the settings before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.checkpoints import headers
from harness.engine import device
from harness.engine.settings import EngineSettings
from harness.families import family_of
from harness.util.errors import Fault
from harness.workloads.roofline import kv_bytes_per_token

GIB = 2**30
ALLOWANCE_GIB = 1.5
"""Room for activations, graphs and the CUDA context. A coarse figure: vLLM finds the true one in a profiling run of its own."""
DEFAULT_BATCHED_TOKENS = 8192
"""vLLM's max_num_batched_tokens for its API server on a large card, when the suite gives none."""


@dataclass(frozen=True)
class Forecast:
    """What an engine will take of each card, in GiB."""

    weights_gib: float
    request_gib: float
    """KV cache of one request of the full length."""
    tokens: int
    """The full length."""
    allowance_gib: float = ALLOWANCE_GIB

    @property
    def least_gib(self) -> float:
        """The least that serves one request."""
        return self.weights_gib + self.request_gib + self.allowance_gib

    def cache_gib(self, usable_gib: float) -> float:
        """KV cache that vLLM makes of what is left when it may use `usable_gib` of each card; 0 where nothing is."""
        return max(0.0, usable_gib - self.weights_gib - self.allowance_gib)


def forecast(source: Path, settings: EngineSettings, weight_bytes: int) -> Forecast:
    """source: a folder with the architecture's config.json; weight_bytes: bytes of the checkpoint that will be served."""
    config = headers.read_config(source)
    text = config.get("text_config", config)
    cards = settings.tensor_parallel_size
    tokens = settings.max_model_len or int(text.get("max_position_embeddings") or 4096)
    batched = settings.max_num_batched_tokens or DEFAULT_BATCHED_TOKENS
    weights = weight_bytes / cards + family_of(config).buffer_bytes(config, batched) - settings.cpu_offload_gb * GIB
    kv_cache = settings.kv_cache_gib * GIB if settings.kv_cache_gib else tokens * kv_bytes_per_token(source) / cards
    return Forecast(max(0.0, weights) / GIB, kv_cache / GIB, tokens)


def faults(name: str, expected: Forecast, settings: EngineSettings) -> list[Fault]:
    """Why a variant does not fit the card, with the sizes and with what would fit; none on a CPU or where NVML is mute."""
    described = device.describe()
    if described["kind"] == "cpu" or not described["memory_gib"]:
        return []
    room = described["memory_gib"] * settings.gpu_memory_utilization
    where, card = f"variants.{name}", described["name"]
    sizes = f"weights {expected.weights_gib:.1f} GiB, KV cache {expected.request_gib:.1f} GiB for {expected.tokens} tokens"
    if expected.weights_gib + expected.allowance_gib > room:
        offload = settings.cpu_offload_gb + expected.least_gib - room
        what = f"does not fit: {sizes}, and vLLM may use {room:.1f} of {described['memory_gib']:.1f} GiB of {card}"
        right = f"leave it out with --only, or, for accuracy only, variants.{name}.engine: {{cpu_offload_gb: {offload:.0f}}}"
        return [Fault(where, what, right)]
    if expected.least_gib > room:
        left = expected.cache_gib(room)
        fitting = int(expected.tokens * left / expected.request_gib) // 256 * 256
        what = f"leaves {left:.1f} GiB for the KV cache: {sizes}, and vLLM may use {room:.1f} GiB of {card}"
        return [Fault(where, what, f"engine.max_model_len: {fitting} fits")]
    return []


def free_faults(settings: EngineSettings) -> list[Fault]:
    """A card whose memory others hold; vLLM would refuse to start on it."""
    described, free = device.describe(), device.memory_free()
    if free is None or not described["memory_gib"]:
        return []
    wanted = described["memory_gib"] * settings.gpu_memory_utilization
    if free / GIB >= wanted:
        return []
    held = "; ".join(device.holders()) or "NVML names no process"
    what = f"{free / GIB:.1f} GiB are free and engine.gpu_memory_utilization asks for {wanted:.1f} GiB; held by: {held}"
    return [Fault(described["name"], what, "end what holds it, or lower engine.gpu_memory_utilization")]
