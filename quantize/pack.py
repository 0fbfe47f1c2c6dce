"""From a rounded model to the files of a checkpoint: pack the integers, lay out the folder, write the weights.

Packing and laying out need the model and llm-compressor's settings of the whole process, so they are done where the
model was built. What is left then, writing the weights, is tensors into files: another thread may do it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers.modeling_utils
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.offload import remove_dispatch
from compressed_tensors.quantization import QuantizationStatus
from compressed_tensors.quantization.utils import is_module_quantized
from compressed_tensors.utils import get_direct_state_dict, replace_direct_state_dict
from safetensors.torch import save_file
from torch import nn

from harness.checkpoints.headers import tensors
from harness.checkpoints.shards import INDEX
from quantize import replay
from quantize.llm_compressor import LoadedModel, Quantized
from quantize.methods.base import Quantizing

SHARD = "5GB"
"""Largest safetensors file, as model authors publish them."""
PIECE = 1 << 20
"""Weights packed at a time, about."""


@dataclass
class Shard:
    """One safetensors file that is still to be written."""

    tensors: dict[str, torch.Tensor]
    path: Path
    metadata: dict[str, str]


def pack(quantized: Quantized) -> None:
    """Pack the model's rounded Linears in place, as llm-compressor does when it saves, but several at a time.

    Packing runs on one processor core for the most part. On the host also where there is an accelerator: there
    compressed-tensors rounds otherwise (in FP32, its Triton kernel), and one recipe should give one checkpoint.
    """
    _to_bf16(quantized.model)
    modules = [module for module in quantized.model.modules() if is_module_quantized(module)]
    for module, packed in zip(modules, replay.pool().map(_packed, modules), strict=True):
        replace_direct_state_dict(module, packed)
        module.quantization_status = QuantizationStatus.COMPRESSED


def _packed(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """What compressed_tensors' compress_module puts in the place of the module's tensors, made a few rows at a time: an
    output channel is packed without looking at another, and small pieces stay in the cache (measured on two AVX-512
    cores, four weights of 12288 x 4096: 2.8 s whole and one after the other, 0.7 s like this)."""
    scheme: Any = module.quantization_scheme
    scheme.format = scheme.format or infer_module_format(type(module), scheme)
    compressor: Any = BaseCompressor.get_value_from_registry(scheme.format.value)
    every = get_direct_state_dict(module)
    state = {name: tensor for name, tensor in every.items() if tensor is not None}
    rows, columns = state["weight"].shape
    if any(tensor.shape[:1] != (rows,) for tensor in state.values()):
        whole: dict[str, torch.Tensor | None] = compressor.compress(every, scheme)
        return whole
    step = max(1, PIECE // columns // 32) * 32  # zero points are packed along the rows, 32 to a round number of words
    pieces = [compressor.compress({k: v[i : i + step] for k, v in state.items()}, scheme) for i in range(0, rows, step)]
    absent = {name: None for name, tensor in every.items() if tensor is None}  # a bias
    packed = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    return absent | packed | ({"weight_shape": torch.tensor([rows, columns])} if "weight_shape" in packed else {})


def _to_bf16(model: Any) -> None:
    """Bring floating parameters to BF16 by replacing them: the model shares some with the source, which stays as it is.

    Scales too, and before packing: the integers are then rounded with the scales that are stored.
    """
    remove_dispatch(model)  # an offloaded module copies what is assigned into the old tensor, precision and all
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            # NVFP4's scale of a whole tensor is stored in FP32: the scales of its groups were made with all of its digits.
            if parameter is not None and parameter.dtype == torch.float32 and not name.endswith("global_scale"):
                if id(parameter) not in made:  # one object for tied weights
                    made[id(parameter)] = nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False)
                module._parameters[name] = made[id(parameter)]


def lay_out(source: LoadedModel, recipe: Quantizing, quantized: Quantized, folder: Path) -> list[Shard]:
    """Write everything but the weights into `folder`, the source's own files byte for byte; return the weights' files.

    config.json is the source's with the quantization section added: saving a config through another transformers
    release renames fields that servers read.
    """
    shards: list[Shard] = []
    stored = {module: tensor.name for module, tensor in tensors(source.path).items()}

    def name_in(saved: str) -> str:
        """The name on disk: that of the source's tensor, whatever this release of transformers calls it. A server knows the
        names that the model was published with."""
        module = source.family.module_of(saved)
        owner, _, part = module.rpartition(".")
        if module in stored:
            return stored[module]
        weight = stored.get(f"{owner}.weight")
        return f"{weight.removesuffix('.weight')}.{part}" if weight else saved

    def later(given: dict[str, torch.Tensor], path: str, metadata: dict[str, str]) -> None:
        shards.append(Shard({name_in(name): tensor for name, tensor in given.items()}, Path(path), metadata))

    # save_pretrained decides which tensor goes where and hands each finished file to this function.
    with patch.object(transformers.modeling_utils, "safe_save_file", later):
        quantized.model.save_pretrained(folder, save_compressed=True, max_shard_size=SHARD)
    index = folder / INDEX
    if index.is_file():
        content = json.loads(index.read_text())
        content["weight_map"] = {name_in(name): file for name, file in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2) + "\n")
    (folder / "recipe.yaml").write_text(recipe_yaml(recipe))
    section = json.loads((folder / "config.json").read_text())["quantization_config"]
    # llm-compressor resolves the patterns to today's module names; a server or a later transformers that names them
    # otherwise would match none. The patterns themselves stay in the list.
    section["ignore"] = list(dict.fromkeys([*section["ignore"], *recipe.ignored]))
    config = json.loads((source.path / "config.json").read_text()) | {"quantization_config": section}
    copy_side_files(source.path, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return shards


def write(shards: list[Shard]) -> None:
    """Write the weights' files and let go of the tensors. Touches no model and no setting: any thread may call it."""
    while shards:
        shard = shards.pop(0)
        save_file(shard.tensors, shard.path, shard.metadata)
        shard.path.chmod(0o644)


def recipe_yaml(recipe: Quantizing) -> str:
    """The recipe as llm-compressor writes it beside its checkpoints, all modifiers in it."""
    from llmcompressor.recipe import Recipe as Written

    text: str = Written.from_modifiers(recipe.modifiers()).yaml()
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
