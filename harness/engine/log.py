"""What a server's log says of the engine: memory, kernel, and why it ended."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from harness.engine import device
from harness.util import environments


class EngineFacts(BaseModel):
    """What a started engine says of itself. None means the engine did not say; `reasons` says why."""

    model_config = ConfigDict(extra="forbid")

    vllm: str
    """vLLM's version."""
    arguments: list[str]
    """The arguments of `vllm serve`, without checkpoint, host and port."""
    kernel: str | None = None
    """The kernel that serves the quantized layers, for example MarlinLinearKernel; the last that is named where there are
    several."""
    kernels: dict[str, int | None] = {}
    """Every kernel that is named, with how many Linears it serves where that is known. Empty in earlier Records."""
    scheme_bits: str | None = None
    """What the checkpoint's scheme asks for, such as W4A4; None for a plain checkpoint, and in earlier Records."""
    computed_as: str | None = None
    """What its kernels compute with, such as W4A16; None where that is not known, and in earlier Records."""
    weights_gib: float | None = None
    """Memory of the weights, GiB ("Model loading took")."""
    kv_cache_tokens: int | None = None
    """Tokens the KV cache holds."""
    kv_cache_gib: float | None = None
    """Memory of the KV cache, GiB."""
    graphs_gib: float | None = None
    """Memory that the captured graphs took, GiB."""
    activations_gib: float | None = None
    """Peak of the activations in vLLM's own profiling run, GiB."""
    non_torch_gib: float | None = None
    """What vLLM found taken outside torch's allocator (CUDA context, libraries), GiB."""
    start_s: float
    """Seconds of importing vLLM and from there until it was healthy; not what it waited in between (ahead.py)."""
    driver: str | None = None
    """Version of the device's driver; None on a CPU, or where NVML does not tell."""
    warnings: list[str] = []
    """Log lines that mean the checkpoint was not loaded as it is."""
    reasons: dict[str, str] = {}
    """Why a figure is None, by field name."""


WARNING = re.compile(r"WARNING |\S*:\d+: \w*Warning: |warnings\.warn\(|nanobind: ")
"""Lines that a process may print after the one that tells why it ended."""


def last_error(text: str) -> str:
    """The line of a server's log that says most: the last exception, else the last line that is no warning."""
    prefix = re.compile(r"^\(\w+ pid=\d+\)\s*|\b(ERROR|INFO) [\d-]+ [\d:]+ \[[^]]*\]\s*")
    lines = [prefix.sub("", line).strip() for line in text.splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b(.*:|$)", line) and "Engine core init" not in line]
    said = [line for line in lines if line and not WARNING.match(line)]
    return (errors or said or [line for line in lines if line] or ["it printed nothing"])[-1][:400]


MEMORY_SPLIT = r"GiB for weight, ([\d.]+) GiB for peak activation, ([\d.]+) GiB for non-torch memory"
NOT_LOADED = re.compile(r"Parameter \S+ not found|weights? (were|was) not loaded")


NAMED = re.compile(r"(?:Using|Selected) (\w+Kernel|\w*Experts\w*) for (\w[\w -]*)")
"""vLLM's lines on the choice of a kernel: `Using X for CompressedTensorsWNA16`, `Selected X for CompressedTensorsW8A8Fp8`,
`Using X for NVFP4 GEMM`, of whatever scheme and maker."""


def kernels_named(text: str) -> list[tuple[str, str]]:
    """Every (kernel, layers) that a log names, in its order, each once."""
    return list(dict.fromkeys((kernel, layers.strip()) for kernel, layers in NAMED.findall(text)))


def read_facts(text: str, given: list[str], start_s: float) -> EngineFacts:
    """What the server's log tells. start_s: seconds since vLLM was imported.

    Patterns seen in vLLM 0.26 (GPU) and 0.32 (CPU).
    """
    weights = re.search(r"Model loading took ([\d.]+) ?GiB", text)
    tokens = re.search(r"KV cache size: ([\d,]+) tokens", text)
    split = re.search(MEMORY_SPLIT, text)
    graphs = re.search(r"Graph capturing finished in [\d.]+ secs?, took ([\d.]+) GiB", text)
    kv_cache = re.search(r"(?:Available KV cache memory:|GiB, reserved) ([\d.]+) GiB", text)
    named = kernels_named(text)
    imported = re.search(r"vLLM was imported in ([\d.]+) s", text)
    reasons = {}
    if not weights:
        reasons["weights_gib"] = "vLLM's CPU build does not log it" if environments.is_cpu() else "not in the server's log"
    if not tokens:
        reasons["kv_cache_tokens"] = "not in the server's log"
    if not kv_cache:
        reasons["kv_cache_gib"] = "not in the server's log"
    if not graphs:
        reasons["graphs_gib"] = "no graphs were captured"
    if not split:
        gpu = "vLLM does not say it when the KV cache's size is given"
        reasons["activations_gib"] = "vLLM profiles no memory on a CPU" if environments.is_cpu() else gpu
        reasons["non_torch_gib"] = reasons["activations_gib"]
    lost = {line.strip()[-300:] for line in text.splitlines() if NOT_LOADED.search(line)}
    return EngineFacts(
        vllm=environments.serve().version("vllm") or "unknown",
        arguments=given,
        start_s=round(start_s + (float(imported[1]) if imported else 0.0), 2),
        driver=device.describe().get("driver"),
        kernel=named[-1][0] if named else None,
        kernels=dict.fromkeys(kernel for kernel, _ in named),
        weights_gib=float(weights[1]) if weights else None,
        kv_cache_tokens=int(tokens[1].replace(",", "")) if tokens else None,
        kv_cache_gib=float(kv_cache[1]) if kv_cache else None,
        graphs_gib=float(graphs[1]) if graphs else None,
        activations_gib=float(split[1]) if split else None,
        non_torch_gib=float(split[2]) if split else None,
        warnings=sorted(lost),
        reasons=reasons,
    )
