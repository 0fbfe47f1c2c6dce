"""The limit beside the figure: what a decode step must at least read and compute, over what the device can do.

A roofline in the sense of Williams, Waterman and Patterson (2009), "Roofline: an insightful visual performance model".
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.checkpoints import headers
from harness.engine import server
from harness.families import Family, family_of
from harness.record.records import Metric
from harness.util import environments


@dataclass(frozen=True)
class DecodeStep:
    """What one step that makes one token for each of `batch` requests needs."""

    weight_bytes: int
    """Language layers as they are stored (packed, scales and all), norms and lm_head; the vision tower is not read."""
    kv_bytes: float
    """Keys and values of all requests' contexts."""
    flops: float
    """Two for each weight of a Linear and request, and the attention's products."""


@cache
def rates() -> dict[str, Any]:
    """Bandwidth (bytes/s) and rate (BF16 FLOP/s) of the device, measured by a copy and a matrix product, once a run.

    Must be called before an engine holds the device. Holds `reason` alone where they could not be measured.
    """
    environment = environments.serve()
    kind = "cpu" if environments.is_cpu() else "gpu"
    process = environment.start(
        [str(environments.SHIMS / "device_rates.py"), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        variables={"OMP_NUM_THREADS": str(server.cpu_threads())} if kind == "cpu" else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line, said = process.stdout.readline(), b""
        if not line:
            said = process.stderr.read()
    finally:
        environments.stop(process)
    try:
        return dict(json.loads(line))
    except ValueError:
        return {"reason": f"the device's bandwidth was not measured: {server.last_error(said.decode(errors='replace'))}"}


@cache
def _text(folder: Path) -> tuple[Family, dict[str, Any]]:
    """The family of a checkpoint and its language model's config."""
    config = headers.read_config(folder)
    family = family_of(config)
    return family, family.text_of(config)


def _heads(text: Mapping[str, Any]) -> tuple[int, int, int]:
    """Heads of the queries, heads of keys and values, and a head's size. Raises KeyError where a config names none."""
    heads = int(text["num_attention_heads"])
    return heads, int(text.get("num_key_value_heads") or heads), int(text.get("head_dim") or text["hidden_size"] // heads)


@cache
def _shape(folder: Path) -> dict[str, int]:
    """Bytes and weights of the language model."""
    table = headers.tensors(folder)
    config = headers.read_config(folder)
    family, text = _text(folder)
    tied = headers.is_tied(config)
    weight_bytes = 0
    for name, tensor in table.items():
        module = name.rpartition(".")[0]
        part = family.part_of(module)
        if part in ("language", "lm_head") or (part == "embeddings" and tied):
            weight_bytes += tensor.nbytes
    linears = [one for one in headers.linears_of(config, table) if one.part in ("language", "lm_head")]
    weights = sum(linear.in_features * linear.out_features for linear in linears)
    if tied:
        weights += int(text["hidden_size"]) * int(text["vocab_size"])
    return {"weight_bytes": weight_bytes, "weights": weights}


KV_WIDTH = 2
"""Bytes of a number in the KV cache, BF16."""


def kv_bytes_per_token(folder: Path, width: int = KV_WIDTH) -> int:
    """Bytes of one token's keys and values over all layers; `width` is the bytes of one number."""
    family, text = _text(folder)
    _, heads, size = _heads(text)
    return int(2 * family.attended(text, 1) * heads * size * width)


def decode_step(folder: Path, batch: float, context: float) -> DecodeStep:
    """One decode step of `batch` requests that have `context` tokens each on average."""
    shape, (family, text) = _shape(folder), _text(folder)
    queries, keys, size = _heads(text)
    attended = batch * family.attended(text, context)
    return DecodeStep(
        shape["weight_bytes"],
        attended * 2 * keys * size * KV_WIDTH,
        batch * 2 * shape["weights"] + attended * 4 * queries * size,
    )


EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Keys of a language model's config that say that it is a mixture of experts."""
LIMITS = {
    "bandwidth_limit_ms": "ms",
    "compute_limit_ms": "ms",
    "share_of_bandwidth_limit": "share",
    "share_of_compute_limit": "share",
}
"""What `share` gives, with units."""


def share(
    running: server.Engine, delta: dict[str, float], metrics: dict[str, Metric], concurrency: int | None
) -> dict[str, Metric]:
    """The limits of a closed loop's decode step, and which share of each the measured time per token comes to."""
    able = rates()
    measured, prompt, n = metrics["server_tpot_ms"].value, metrics["prompt_tokens"].value, metrics["prompt_tokens"].n
    why = able.get("reason")
    if concurrency is None:
        why = "an open loop has no fixed number of requests at once"
    if why is None and (measured is None or prompt is None):
        why = "no time per token was measured"
    if why is None and any(key in _text(running.checkpoint)[1] for key in EXPERTS):
        why = "a mixture of experts reads some of its experts for a token, and how many of them a batch reads is not known"
    if why is not None:
        return {name: Metric.missing(unit, why, "computed") for name, unit in LIMITS.items()}
    assert concurrency is not None and measured is not None and prompt is not None
    context = prompt + delta.get("generation_tokens_total", 0.0) / (n or 1) / 2
    step, cards = decode_step(running.checkpoint, concurrency, context), running.settings.tensor_parallel_size
    bandwidth = 1000 * (step.weight_bytes + step.kv_bytes) / able["bytes_per_s"] / cards
    compute = 1000 * step.flops / able["flops_per_s"] / cards
    values = (bandwidth, compute, bandwidth / measured, compute / measured)
    return {name: Metric(value=v, unit=unit, source="computed") for (name, unit), v in zip(LIMITS.items(), values, strict=True)}
