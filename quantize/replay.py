"""Replaying a layer's inputs in fewer, larger pieces during AWQ's search. The search itself stays llm-compressor's.

The search runs the same inputs through the same module some twenty times, one calibration batch after the other. Two
exact rearrangements, for modules that treat every token alike (an MLP, a Linear):

- the batches are joined along the tokens: the loss is a sum over tokens, in whatever order;
- a Linear's inputs X [tokens, in] are replaced by R [in, in] of their QR factorization, in FP32: the loss is
  ||X (W - Q)^T||^2 = ||R (W - Q)^T||^2 because Q^T Q = 1. With more tokens than inputs R is the smaller one. The loss
  comes out scaled by tokens / in, the same for every point of the search.

Attention is replayed as it was recorded. On a CPU the pieces run side by side, one thread each: products this small
gain nothing from two threads each (measured: 64 samples of the demo took 15.3 s of processor time and 15.9 s on the
clock with one thread, 21.9 s and 17.1 s with two).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import torch
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from torch import nn

TOKENS = {"cpu": 512}
"""Most tokens in one piece, by device type. On a CPU what fits the caches (measured: 118 GFLOP/s at 256 to 512 tokens,
60 at 8192)."""
TOKENS_ELSEWHERE = 8192
"""On an accelerator, enough to fill it while an MLP's inner activations stay small."""


def install() -> None:
    """Let AWQ replay joined inputs. Safe to call twice."""
    if AWQModifier._run_samples is not _run_samples:
        _run_samples.original = AWQModifier._run_samples  # type: ignore[attr-defined]
        AWQModifier._run_samples = _run_samples


def _run_samples(self: Any, module: nn.Module) -> list[torch.Tensor]:
    cache = self._parent_args_cache[module]
    if not getattr(cache, "is_joined", False):
        cache = _joined(module, cache, self.offload_device)
        cache.is_joined = True
        self._parent_args_cache[module] = cache
    if torch.accelerator.is_available() or len(cache) < 2 or torch.get_num_threads() < 2:
        outputs: list[torch.Tensor] = _run_samples.original(self, module)  # type: ignore[attr-defined]
        return outputs
    return list(pool().map(partial(_forward, module), cache.iter()))


@lru_cache
def pool() -> ThreadPoolExecutor:
    """As many threads as torch uses, one processor core each: many small pieces of work side by side."""
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))


@torch.no_grad()
def _forward(module: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    output = module(**batch)
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _joined(module: nn.Module, cache: Any, offload_device: Any) -> Any:
    """`cache` with its batches joined, or `cache` itself when the module does not treat every token alike."""
    if not (isinstance(module, nn.Linear) or type(module).__name__.endswith("MLP")):
        return cache
    batches = list(cache.iter())
    names = {tuple(k for k, v in batch.items() if v is not None) for batch in batches}
    if len(batches) < 2 or len(names) != 1 or len(next(iter(names))) != 1:
        return cache
    (name,) = next(iter(names))
    if not all(isinstance(batch[name], torch.Tensor) for batch in batches):
        return cache
    inputs = torch.cat([batch[name].flatten(0, -2) for batch in batches])
    if isinstance(module, nn.Linear) and inputs.dtype == torch.float32 and len(inputs) > 2 * inputs.shape[1]:
        inputs = torch.linalg.qr(inputs, mode="r").R
    pieces = IntermediatesCache(None, offload_device)
    for piece in inputs.split(TOKENS.get(inputs.device.type, TOKENS_ELSEWHERE)):
        pieces.append({name: piece.unsqueeze(0)})
    return pieces
