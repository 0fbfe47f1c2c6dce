"""Building one checkpoint with llm-compressor: load, search, round, write. The grid calls it; see grid.py.

Precision: the model is BF16 on an accelerator and on CPUs with BF16 instructions. On others the search runs in FP32
(BF16 products there are ten times slower) and everything is brought back to BF16 before it is packed, so what is
stored has the same form. The manifest says which it was.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from compressed_tensors.offload import remove_dispatch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
from torch import nn

from harness.errors import CellFailed
from quantize import replay
from quantize.recipe import Recipe
from quantize.values import ABSURD

SHARD = "5GB"
"""Largest safetensors file, as model authors publish them."""
Progress = Callable[[int, int], None]
"""Called with decoder layers done and decoder layers in all."""


@dataclass
class Source:
    """The loaded source, shared by every cell and never changed."""

    path: Path
    model: Any
    processor: Any
    compute_dtype: torch.dtype
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


def load(path: Path, packed: list[str]) -> Source:
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
    prefix = next(m.group(0) for name in packed if (m := re.match(r".*?\.layers\.\d+(?=\.)", name)))
    decoder = model.get_submodule(prefix)
    parent = model.get_submodule(prefix.rpartition(".")[0])
    processor = transformers.AutoProcessor.from_pretrained(path, local_files_only=True)
    return Source(path, model, processor, dtype, type(decoder).__name__, len(parent))


def unhealthy(model: Any) -> str | None:
    """The first parameter that is not finite, or a norm weight too large to be meant; None when all are well."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"{name} holds NaN or Inf"
        if parameter.ndim == 1 and "norm" in name and float(parameter.abs().max()) > ABSURD:
            return f"{name} holds {float(parameter.abs().max()):.3g}, beyond {ABSURD:.0e}: not a trained norm weight"
    return None


def quantization_modifier(recipe: Recipe) -> QuantizationModifier:
    """The rounding part of a recipe. The observer stands inside the weights' arguments: at modifier level
    compressed-tensors ignores it without a word."""
    per_channel = recipe.group_size == -1
    weights = QuantizationArgs(
        num_bits=recipe.num_bits,
        type="int",
        symmetric=recipe.symmetric,
        observer=recipe.observer,
        strategy="channel" if per_channel else "group",
        group_size=None if per_channel else recipe.group_size,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return QuantizationModifier(config_groups={"group_0": scheme}, ignore=list(recipe.ignore))


def awq_modifier(recipe: Recipe, offload: bool) -> AWQModifier:
    """The search part of a recipe."""
    mappings = [AWQMapping(m.smooth, list(m.balance)) for m in recipe.mappings]
    return AWQModifier(
        mappings=mappings,
        duo_scaling=recipe.duo_scaling,
        n_grid=recipe.n_grid,
        offload_device=torch.device("cpu") if offload else None,
    )


def own_copy(source: Source) -> Any:
    """A copy of the source model for one cell: what no recipe changes (vision tower, embeddings, head) is shared."""
    memo: dict[int, Any] = {}
    language = re.compile(r".*\.layers\.\d+\.")
    for name, parameter in source.model.named_parameters():
        if not language.match(name) or "visual" in name:
            memo[id(parameter)] = parameter
    return copy.deepcopy(source.model, memo)


def search(source: Source, recipe: Recipe, batches: list[dict[str, Any]], offload: bool, progress: Progress) -> Smoothed:
    """Run AWQ's search and return the smoothed weights of the decoder layers, in the compute precision.

    Raises CellFailed when a mapping's layer could not be searched (llm-compressor only warns and leaves it alone).
    """
    replay.install()
    model = own_copy(source)
    found: dict[str, Any] = {}
    with _watched(source.layers, progress, found):
        _oneshot(source, model, [awq_modifier(recipe, offload), quantization_modifier(recipe)], batches)
    if found["skipped"]:
        raise CellFailed(found["skipped"][0])
    # The smoothed weights, before rounding: llm-compressor rounds when it packs, not here.
    changed = {
        name: p.detach().cpu().clone()
        for name, p in model.named_parameters()
        if ".layers." in name and "visual" not in name and not re.search(r"weight_(scale|zero_point)$", name)
    }
    return Smoothed(changed, found["search"])


def round_weights(source: Source, recipe: Recipe, smoothed: Smoothed | None, batches: list[dict[str, Any]]) -> Quantized:
    """Attach the recipe's scheme to a copy of the source (with the smoothed weights, if any) and find its scales."""
    model = own_copy(source)
    if smoothed is not None:
        with torch.no_grad():
            parameters = dict(model.named_parameters())
            for name, value in smoothed.weights.items():
                parameters[name].copy_(value)
    needs_data = "imatrix" in recipe.observer
    _oneshot(source, model, [quantization_modifier(recipe)], batches if needs_data else None)
    return Quantized(model, smoothed.search if smoothed else {})


def _oneshot(source: Source, model: Any, modifiers: list[Any], batches: list[dict[str, Any]] | None) -> None:
    common: dict[str, Any] = {"model": model, "processor": source.processor, "recipe": modifiers}
    if batches is None:
        oneshot(pipeline="datafree", **common)
        return
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]
    # propagate_error=False: a layer's outputs go on as they were before its search. Nothing is rounded during the search
    # anyway, and scales cancel out, so passing them through the smoothed layer again would only add BF16 noise and half
    # of the forward passes.
    oneshot(dataset=loader, pipeline="sequential", sequential_targets=[source.decoder_layer], propagate_error=False, **common)


@contextlib.contextmanager
def _watched(layers: int, progress: Progress, found: dict[str, Any]) -> Iterator[None]:
    """Report each searched layer, keep the errors AWQ measured, and catch the layers it skips with a mere warning."""
    from loguru import logger

    epoch, log = AWQModifier.on_sequential_epoch_end, AWQModifier._log_error_metrics
    done = -1  # the first subgraph is what comes before the first decoder layer
    found["skipped"] = []
    found["search"] = {}

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal done
        epoch(self, *args, **kwargs)
        done += 1
        progress(min(max(done, 0), layers), layers)

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
    setattr(AWQModifier, "on_sequential_epoch_end", counted)  # noqa: B010 (mypy: methods are not assignable)
    setattr(AWQModifier, "_log_error_metrics", kept)  # noqa: B010
    try:
        yield
    finally:
        setattr(AWQModifier, "on_sequential_epoch_end", epoch)  # noqa: B010
        setattr(AWQModifier, "_log_error_metrics", log)  # noqa: B010
        logger.remove(sink)


def write(source: Source, recipe: Recipe, quantized: Quantized, folder: Path) -> None:
    """Pack the model into `folder` and lay the source's other files beside it, byte for byte.

    config.json is the source's with the quantization section added: saving a config through another transformers
    release renames fields that servers read. Raises CellFailed for scales that are not finite.
    """
    sick = _sick_scale(quantized.model)
    if sick:
        raise CellFailed(sick)
    _to_bf16(quantized.model)
    quantized.model.save_pretrained(folder, save_compressed=True, max_shard_size=SHARD)
    (folder / "recipe.yaml").write_text(recipe_yaml(recipe))
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    section = json.loads((folder / "config.json").read_text())["quantization_config"]
    # llm-compressor resolves the patterns to today's module names; a server or a later transformers that names them
    # otherwise would match none. The patterns themselves stay in the list.
    section["ignore"] = list(dict.fromkeys([*section["ignore"], *recipe.ignore]))
    config = json.loads((source.path / "config.json").read_text()) | {"quantization_config": section}
    copy_side_files(source.path, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe as llm-compressor writes it beside its checkpoints, both modifiers in it."""
    from llmcompressor.recipe import Recipe as Written

    modifiers: list[Any] = [awq_modifier(recipe, False)] if recipe.method == "awq" else []
    text: str = Written.from_modifiers([*modifiers, quantization_modifier(recipe)]).yaml()
    return text


def copy_side_files(source: Path, folder: Path) -> None:
    """Copy tokenizer, processor, template, generation and licence files; not weights, their index or config.json."""
    for path in sorted(source.iterdir()):
        weights = path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf") or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.name not in ("config.json", "manifest.json", "recipe.yaml"):
            shutil.copyfile(path, folder / path.name)


def observer_in(folder: Path) -> str | None:
    """The observer that the saved config says was used, or None."""
    section = json.loads((folder / "config.json").read_text()).get("quantization_config", {})
    for group in section.get("config_groups", {}).values():
        observer: str | None = (group.get("weights") or {}).get("observer")
        return observer
    return None


def _sick_scale(model: Any) -> str | None:
    for name, tensor in model.named_parameters():
        if name.endswith("weight_scale"):
            layer = name.removesuffix(".weight_scale")
            if not bool(torch.isfinite(tensor).all()):
                return f"{layer}: a scale is NaN or Inf"
            if bool((tensor == 0).any()):
                return f"{layer}: a scale is zero, its group would be lost"
    return unhealthy(model)


def _to_bf16(model: Any) -> None:
    """Bring floating parameters to BF16 by replacing them: the model shares some with the source, which stays as it is.

    Scales too, and before packing: the integers are then rounded with the scales that are stored.
    """
    remove_dispatch(model)  # an offloaded module copies what is assigned into the old tensor, precision and all
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dtype == torch.float32:
                if id(parameter) not in made:  # one object for tied weights
                    made[id(parameter)] = nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False)
                module._parameters[name] = made[id(parameter)]
