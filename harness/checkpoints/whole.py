"""Whether a checkpoint holds every tensor that its config asks for, and no other; told from the headers alone.

vLLM does not check it for quantized checkpoints: a decoder layer that is not there stays as it was allocated.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from harness.checkpoints.headers import Tensor, is_tied, modules
from harness.checkpoints.shards import some
from harness.families import Family, family_of
from harness.util.errors import Fault

STANDS_FOR = (".weight", ".weight_packed", ".qweight")
"""Endings of a tensor that is a module's weight, quantized or not."""
KINDS_OF_LAYERS = (
    "layer_types", "layers_block_type", "num_experts", "num_local_experts", "n_routed_experts", "decoder_sparse_step",
    "mlp_only_layers", "first_k_dense_replace", "hybrid_layer_pattern", "cross_attention_layers", "attn_layer_period",
)  # fmt: skip
"""Keys of a config whose decoder layers need not be alike."""


def completeness_faults(config: Mapping[str, Any], table: Mapping[str, Tensor]) -> list[Fault]:
    """What is missing, what is too many, and what has another shape than the config says.

    A family that knows its parameters is held against them; of another, decoder layers must be as many as the config says,
    alike where it names no kinds, and Linears that a server fuses must be there together.
    """
    family = family_of(config)
    wanted = family.parameters(config)
    return _against(wanted, table) if wanted is not None else _structural(config, table, family)


def _against(wanted: Mapping[str, tuple[int, ...]], table: Mapping[str, Tensor]) -> list[Fault]:
    there = modules(dict(table))
    owners = {name.rpartition(".")[0] for name in wanted}
    parents = {owner.rpartition(".")[0] for owner in owners}
    lost = [name for name in wanted if not _holds(name, table)]
    strange = [name for name in table if (owner := name.rpartition(".")[0]) not in owners and owner not in parents]
    faults = []
    if lost:
        faults.append(
            Fault("tensors", f"{len(lost)} that config.json asks for are missing: {some(lost)}", "build or fetch it again")
        )
    if strange:
        what = f"{len(strange)} that config.json does not ask for: {some(strange)}"
        faults.append(Fault("tensors", what, "the config of these weights, or the weights of this config"))
    for name, shape in wanted.items():
        module = name.removesuffix(".weight")
        known = f"{module}.weight_shape" in table or (name in table and table[name].dtype in ("BF16", "F16", "F32"))
        if known and name.endswith(".weight") and there[module] != shape:
            faults.append(Fault(name, f"has shape {list(there[module])}, config.json asks for {list(shape)}"))
    return faults


def _holds(name: str, table: Mapping[str, Tensor]) -> bool:
    module = name.removesuffix(".weight")
    return name in table or (name.endswith(".weight") and any(f"{module}{ending}" in table for ending in STANDS_FOR))


def _structural(config: Mapping[str, Any], table: Mapping[str, Tensor], family: Family) -> list[Fault]:
    text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else config
    assert isinstance(text, Mapping)
    there = modules(dict(table))
    layers: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in there:
        layer = family.layer_of(name)
        match = re.fullmatch(r"(.*\.)(\d+)", layer)
        if match and family.part_of(name) == "language":
            layers[match[1]][int(match[2])].add(name.removeprefix(layer))
    faults = []
    for stem, found in layers.items():
        count = text.get("num_hidden_layers")
        if isinstance(count, int) and len(layers) == 1:
            lost = [f"{stem}{number}" for number in range(count) if number not in found]
            extra = [f"{stem}{number}" for number in sorted(found) if number >= count]
            if lost:
                faults.append(Fault("tensors", f"decoder layers are missing: {some(lost)}", "build or fetch it again"))
            if extra:
                faults.append(Fault("tensors", f"config.json has {count} decoder layers, there are also {some(extra)}"))
        if not any(key in part for key in KINDS_OF_LAYERS for part in (text, config)):
            every = set().union(*found.values())
            lost = [f"{stem}{number}{name}" for number, names in found.items() for name in sorted(every - names)]
            if lost:
                faults.append(Fault("tensors", f"{len(lost)} that other decoder layers have are missing: {some(lost)}"))
        for fused in family.fused:
            for number, names in found.items():
                inside = [one for one in fused if any(name.endswith(f".{one}") for name in names)]
                if inside and len(inside) < len(fused):
                    gone = [one for one in fused if one not in inside]
                    what = f"has {', '.join(inside)} and no {', '.join(gone)}, which a server joins"
                    faults.append(Fault(f"{stem}{number}", what, "build or fetch it again"))
    parts = {family.part_of(name) for name in there}
    if layers and "embeddings" in parts and "lm_head" not in parts and not is_tied(dict(config)) and _generates(config):
        faults.append(Fault("lm_head.weight", "missing, and config.json does not tie it to the embeddings", "fetch it again"))
    return faults


def _generates(config: Mapping[str, Any]) -> bool:
    names = config.get("architectures")
    return isinstance(names, list) and any("Generation" in str(name) or "CausalLM" in str(name) for name in names)
