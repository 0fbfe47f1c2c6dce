"""What the tensors of a checkpoint hold: scales and norms that are damaged, ties, and what changed against the source."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from harness.checkpoints.headers import PACKED, Tensor, is_tied, unpacked_shape
from harness.checkpoints.shards import some
from harness.families import Family, family_of
from harness.util.errors import Fault

ABSURD = 1e4
"""A norm weight beyond this is damage: those of released models stay below a few hundred."""
SLICE = 2048
"""Values compared at the start of each tensor that quantization must not change."""


def is_packed(name: str, table: dict[str, Tensor]) -> bool:
    return f"{name}.weight_packed" in table


# -- one kind of fault each --------------------------------------------------------------------------------------------


def value_faults(table: dict[str, Tensor]) -> list[Fault]:
    """Scales and small parameters: finite, no zero scale, no absurd norm weight."""
    faults = []
    for name, tensor in table.items():
        scale = name.endswith((".weight_scale", ".weight_global_scale"))
        # The scales of FP8 and MX formats are bytes with a meaning of their own, where 0 may be a scale like another.
        if tensor.dtype not in ("BF16", "F16", "F32") or not (scale or len(tensor.shape) == 1):
            continue
        values = tensor.read()
        if not np.isfinite(values).all():
            faults.append(Fault(name, f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or Inf"))
        elif scale and (values == 0).any():
            faults.append(Fault(name, f"{int((values == 0).sum())} of {values.size} scales are zero"))
        elif "norm" in name and values.size and float(np.abs(values).max()) > ABSURD:
            faults.append(Fault(name, f"holds {float(np.abs(values).max()):.3g}, not a trained norm weight"))
    return faults


def tie_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    head = next((n for n in table if re.search(r"(^|\.)lm_head\.weight", n)), None)
    if is_tied(config) and head:
        return [
            Fault(
                head,
                "a second embedding-sized tensor, although the config ties the output head to the embeddings",
                "no such tensor, or tie_word_embeddings: false as in the source",
            )
        ]
    return []


def source_faults(
    config: dict[str, Any], table: dict[str, Tensor], source_config: dict[str, Any], original: dict[str, Tensor]
) -> list[Fault]:
    """Nothing lost, nothing added, nothing changed that quantization does not change."""
    faults, family = [], family_of(source_config)
    orphans = [n for n in table if n.endswith(PACKED) and not is_packed(_base(n), table) and f"{_base(n)}.weight" not in table]
    if orphans:
        faults.append(Fault(orphans[0], f"has no packed weight beside it ({len(orphans)} such tensors)"))
    names = {f"{_base(n)}.weight" if n.endswith(PACKED) else n for n in table if n not in orphans}
    lost, added = sorted(set(original) - names), sorted(names - set(original))
    if lost:
        faults.append(Fault("tensors", f"{len(lost)} of the source's are missing: {some(lost)}"))
    if is_tied(source_config) != is_tied(config):
        faults.append(
            Fault("config.json: tie_word_embeddings", f"is {is_tied(config)}, the source says {is_tied(source_config)}")
        )
    embeddings = {t.shape for n, t in original.items() if family.part_of(n.removesuffix(".weight")) == "embeddings"}
    for name in [n for n in added if n in table and table[n].shape in embeddings]:
        faults.append(Fault(name, "a second embedding-sized tensor, which the source does not have"))
        added.remove(name)
    if added:
        faults.append(Fault("tensors", f"{len(added)} are not in the source: {some(added)}"))
    for name, tensor in original.items():
        faults += _change(name, tensor, table, family)
    return faults


def _base(name: str) -> str:
    """The module a packed Linear's tensor belongs to."""
    return name.rpartition(".")[0]


def _change(name: str, tensor: Tensor, table: dict[str, Tensor], family: Family) -> list[Fault]:
    base = name.removesuffix(".weight")
    if is_packed(base, table):
        shape = unpacked_shape(base, table) if f"{base}.weight_shape" in table else tensor.shape
        return (
            []
            if shape == tensor.shape
            else [Fault(f"{base}.weight_shape", f"says {list(shape)}, the source has {list(tensor.shape)}")]
        )
    now = table.get(name)
    if now is None:
        return []
    if now.shape != tensor.shape:
        return [Fault(name, f"has shape {list(now.shape)}, the source {list(tensor.shape)}")]
    if now.dtype != tensor.dtype and f"{base}.weight_scale" in table:
        return []  # quantized in place; its form is judged by its format
    if now.dtype != tensor.dtype:
        return [Fault(name, f"is stored as {now.dtype}, in the source as {tensor.dtype}")]
    # AWQ moves scales between the decoder layers' norms and Linears; everything else stays as it was.
    decoder = family.layer_of(base) and family.part_of(base) == "language"
    if not decoder and not np.array_equal(now.read(SLICE), tensor.read(SLICE)):
        return [Fault(name, "differs from the source's, although nothing should change it")]
    return []
