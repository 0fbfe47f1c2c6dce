"""What llm-compressor does for a checkpoint: load, search, round. pack.py makes files of it, grid.py calls both.

Precision: the model is BF16 on an accelerator and on CPUs with BF16 instructions. On others the search runs in FP32
(BF16 products there are ten times slower) and everything is brought back to BF16 before it is packed, so what is
stored has the same form. The manifest says which it was.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from compressed_tensors.offload import remove_dispatch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from torch import nn

from harness.checkpoints.values import ABSURD
from harness.families import Family, family_of
from harness.util.errors import CellFailed
from quantize import replay
from quantize.methods.base import Quantizing

Progress = Callable[[int, int], None]
"""Called with decoder layers done and decoder layers in all."""


@dataclass
class LoadedModel:
    """The loaded source, shared by every cell and never changed."""

    path: Path
    model: Any
    processor: Any
    compute_dtype: torch.dtype
    family: Family
    decoder_layer: str
    """Class name of the decoder layers, the unit of the sequential pipeline."""
    layers: int


@dataclass
class Smoothed:
    """What AWQ's search leaves: the changed weights, and how well it went."""

    weights: dict[str, torch.Tensor]
    search: dict[str, Any]


@dataclass
class Quantized:
    """A model ready to be packed, and the search behind it (empty for round-to-nearest)."""

    model: Any
    search: dict[str, Any] = field(default_factory=dict)


def compute_dtype() -> torch.dtype:
    """The precision to search in on this machine."""
    if torch.accelerator.is_available():
        return torch.bfloat16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def load(path: Path, packed: list[str]) -> LoadedModel:
    """Load the source on the host. `packed` names the Linears to be packed, as read from the headers.

    Raises CellFailed when the loaded model's Linears have other names than the checkpoint's tensors.
    """
    config = json.loads((path / "config.json").read_text())
    dtype = compute_dtype()
    model = getattr(transformers, config["architectures"][0]).from_pretrained(path, dtype=dtype, local_files_only=True)
    model.eval()
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    strangers = sorted(set(packed) - linears)
    if strangers:
        raise CellFailed(
            f"{len(strangers)} of {len(packed)} Linears named by the checkpoint's tensors are not in the "
            f"loaded model (first: {strangers[0]}; the model has for example {sorted(linears)[0]})"
        )
    family = family_of(config)
    prefix = next(layer for name in packed if (layer := family.layer_of(name)))
    decoder = model.get_submodule(prefix)
    parent = model.get_submodule(prefix.rpartition(".")[0])
    processor = transformers.AutoProcessor.from_pretrained(path, local_files_only=True)
    return LoadedModel(path, model, processor, dtype, family, type(decoder).__name__, len(parent))


def unhealthy(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The first tensor that is not finite, or a norm weight too large to be meant; None when all are well."""
    for name, tensor in tensors:
        if not _finite(tensor):
            return f"{name} holds NaN or Inf"
        if tensor.ndim == 1 and "norm" in name and float(tensor.abs().max()) > ABSURD:
            return f"{name} holds {float(tensor.abs().max()):.3g}, beyond {ABSURD:.0e}: not a trained norm weight"
    return None


def _finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or Inf, in one pass: a NaN is the minimum of what holds it (isfinite().all() takes nine
    times as long)."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def quantization_modifier(recipe: Quantizing) -> QuantizationModifier:
    """The rounding part of a recipe. The observer stands inside the weights' arguments: at modifier level
    compressed-tensors ignores it without a word."""
    weights = QuantizationArgs(observer=recipe.observer, **recipe.scheme.weights.arguments())
    inputs = recipe.scheme.activations
    # Ranges of activations are kept over all samples: an observer without a memory would keep the last one's.
    watched = {} if inputs is None or inputs.arguments()["dynamic"] is True else {"observer": "static_minmax"}
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=weights,
        input_activations=QuantizationArgs(**inputs.arguments(), **watched) if inputs else None,
    )
    return QuantizationModifier(config_groups={"group_0": scheme}, ignore=recipe.ignored)


def own_copy(source: LoadedModel, weights: Mapping[str, torch.Tensor]) -> Any:
    """A copy of the source model that holds `weights` where they name a parameter, and the source's own tensors elsewhere:
    no number is copied, so nothing that the copy shares may be changed in place."""
    memo: dict[int, Any] = {}
    for name, parameter in source.model.named_parameters():
        memo[id(parameter)] = nn.Parameter(weights.get(name, parameter).detach(), parameter.requires_grad)
    return copy.deepcopy(source.model, memo)


def _searched(model: Any, family: Family) -> dict[str, torch.Tensor]:
    """The parameters that a search may change, those of the language model's decoder layers, as they lie on the host."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if family.layer_of(name) and family.part_of(name) == "language" and not re.search(r"weight_(scale|zero_point)$", name)
    }


def search(source: LoadedModel, modifiers: list[Any], batches: list[dict[str, Any]], progress: Progress) -> Smoothed:
    """Run AWQ's search and return the smoothed weights of the decoder layers, in the compute precision.

    Raises CellFailed when a mapping's layer could not be searched (llm-compressor only warns and leaves it alone), and
    when a smoothed weight is not finite.
    """
    replay.install()
    model = own_copy(source, {name: weight.clone() for name, weight in _searched(source.model, source.family).items()})
    found: dict[str, Any] = {}
    with _watched(source.layers, progress, found):
        _oneshot(source, model, modifiers, batches)
    if found["skipped"]:
        raise CellFailed(found["skipped"][0])
    # The smoothed weights, before rounding: llm-compressor rounds when it packs, not here. Without its dispatch the
    # model hands out the tensors themselves, not copies on the device.
    changed = _searched(remove_dispatch(model), source.family)
    sick = unhealthy(changed.items())
    if sick:
        raise CellFailed(sick)
    return Smoothed(changed, found["search"])


def round_weights(
    source: LoadedModel, recipe: Quantizing, smoothed: Smoothed | None, batches: list[dict[str, Any]], progress: Progress
) -> Quantized:
    """Attach the recipe's scheme to a copy of the source (with the smoothed weights, if any) and find its scales.

    Raises CellFailed for scales that are not finite.
    """
    changed = smoothed.weights if smoothed else {}
    if recipe.changes_weights:
        changed = {name: weight.clone() for name, weight in _searched(source.model, source.family).items()} | changed
    model = own_copy(source, changed)
    modifiers = recipe.roundings()
    with _counted(type(modifiers[-1]), source.layers, progress):
        # Where rounding answers to what a layer sees, it sees what rounded layers before it give, as when it is served.
        follows = recipe.changes_weights or recipe.scheme.activations is not None
        _oneshot(source, model, modifiers, batches if recipe.observes_data else None, propagate_error=follows)
    remove_dispatch(model)
    sick = _sick_scale(model)
    if sick:
        raise CellFailed(sick)
    return Quantized(model, smoothed.search if smoothed else {})


def _sick_scale(model: Any) -> str | None:
    for name, tensor in model.named_parameters():
        if name.endswith("weight_scale"):
            layer = name.removesuffix(".weight_scale")
            if tensor.dtype == torch.uint8:
                continue  # a power of two, of which every byte is one
            tensor = tensor.float()
            if not _finite(tensor):
                return f"{layer}: a scale is NaN or Inf"
            if bool((tensor == 0).any()):
                return f"{layer}: a scale is zero, its group would be lost"
    return None


def _oneshot(
    source: LoadedModel, model: Any, modifiers: list[Any], batches: list[dict[str, Any]] | None, propagate_error: bool = False
) -> None:
    common: dict[str, Any] = {"model": model, "processor": source.processor, "recipe": modifiers}
    if batches is None:
        oneshot(pipeline="datafree", **common)
        return
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]
    # propagate_error=False: a layer's outputs go on as they were before its search. Nothing is rounded during AWQ's search
    # anyway, and scales cancel out, so passing them through the smoothed layer again would only add BF16 noise and half
    # of the forward passes.
    common |= {"pipeline": "sequential", "sequential_targets": [source.decoder_layer], "propagate_error": propagate_error}
    oneshot(dataset=loader, **common)


@contextlib.contextmanager
def _counted(modifier: type, layers: int, progress: Progress) -> Iterator[None]:
    """Report each decoder layer that a modifier is done with."""
    epoch: Any = getattr(modifier, "on_sequential_epoch_end", None)
    done = -1  # the first subgraph is what comes before the first decoder layer

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal done
        epoch(self, *args, **kwargs)
        done += 1
        progress(min(max(done, 0), layers), layers)

    if epoch is None:
        yield
        return
    setattr(modifier, "on_sequential_epoch_end", counted)  # noqa: B010 (mypy: methods are not assignable)
    try:
        yield
    finally:
        setattr(modifier, "on_sequential_epoch_end", epoch)  # noqa: B010


@contextlib.contextmanager
def _watched(layers: int, progress: Progress, found: dict[str, Any]) -> Iterator[None]:
    """Report each searched layer, keep the errors AWQ measured, and catch the layers it skips with a mere warning."""
    from loguru import logger

    log = AWQModifier._log_error_metrics
    found["skipped"] = []
    found["search"] = {}

    def kept(self: Any) -> None:
        metrics = self._error_metrics
        log(self)
        reductions = [m["reduction"] for m in metrics]
        found["search"] = {
            "mappings": len(metrics),
            "mean_error_ratio": sum(reductions) / len(reductions) if reductions else None,
            # A ratio of 1: no scales did better than none, so the layer stays as it was.
            "left_as_it_was": [m["layer_name"] for m in metrics if m["reduction"] >= 1.0],
        }

    def skipped(message: Any) -> None:
        text = str(message.record["message"])
        if text.startswith("Skipping smooth_layer"):
            found["skipped"].append(text.split(". ")[0])

    sink = logger.add(skipped, level="INFO", format="{message}")
    setattr(AWQModifier, "_log_error_metrics", kept)  # noqa: B010
    try:
        with _counted(AWQModifier, layers, progress):
            yield
    finally:
        setattr(AWQModifier, "_log_error_metrics", log)  # noqa: B010
        logger.remove(sink)
