"""A checkpoint folder read from its safetensors headers: names, shapes, parts, slices. No torch; milliseconds.

A safetensors file is 8 bytes of little-endian header length, a JSON header (name: dtype, shape, data_offsets), then
the tensors' bytes (https://huggingface.co/docs/safetensors, format).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.families import Part, family_of
from harness.util.errors import Fault, Refused

PACKED = (
    ".weight_packed",
    ".weight_scale",
    ".weight_shape",
    ".weight_zero_point",
    ".weight_g_idx",
    ".weight_global_scale",
    ".input_scale",
    ".input_global_scale",
)
"""Endings of the tensors that take a Linear's `.weight`'s place in compressed-tensors' packed formats."""

QUANTIZED = (".weight_packed", ".weight_scale", ".weight_scale_inv", ".qweight")
"""Endings of tensors that only a quantized Linear has."""

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class Tensor:
    """One tensor as its file's header describes it."""

    name: str
    """As it is stored."""
    dtype: str
    """safetensors' name, such as BF16."""
    shape: tuple[int, ...]
    file: Path
    begin: int
    """Offset of its first byte in the file."""
    nbytes: int

    def read(self, count: int | None = None) -> np.ndarray:
        """Its first `count` values, flat, or all of them in its shape. BF16 comes as float32 (exact)."""
        width = self.nbytes // max(1, int(np.prod(self.shape)))
        size = self.nbytes if count is None else min(self.nbytes, count * width)
        with self.file.open("rb") as raw:
            raw.seek(self.begin)
            data = raw.read(size)
        if self.dtype == "BF16":  # the upper half of a float32
            values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif self.dtype in DTYPES:
            values = np.frombuffer(data, DTYPES[self.dtype])
        else:
            values = np.frombuffer(data, np.uint8)
        return values.reshape(self.shape) if count is None and values.size == int(np.prod(self.shape)) else values


@dataclass(frozen=True)
class Linear:
    """A layer with a two-dimensional weight, packed or not."""

    name: str
    part: Part
    in_features: int
    out_features: int
    packed: bool = False
    """Whether it is quantized, whatever its format."""


def header(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file. Raises Refused when it is cut short or is none."""
    size = file.stat().st_size
    try:
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            if length > size:
                raise ValueError("its header is longer than the file")
            table = json.loads(raw.read(length))
        found = {}
        for name, entry in table.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end:
                raise ValueError(f"{name} lies from byte {begin} to {end}")
            if 8 + length + end > size:
                raise ValueError(f"{name} ends at byte {8 + length + end} of {size}: the file is cut short")
            found[name] = Tensor(name, entry["dtype"], tuple(entry["shape"]), file, 8 + length + begin, end - begin)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(Fault(str(file), f"not a whole safetensors file ({error})", "fetch or build it again")) from None
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by their names in the loaded model, as recipes and mappings have them; some families store
    them under others. Raises Refused when there is none or a file is broken."""
    files = weight_files(folder)
    if not files:
        raise Refused(Fault(str(folder), "holds no .safetensors file", "a folder with config.json and the weights"))
    found: dict[str, Tensor] = {}
    for file in files:
        found |= header(file)
    return as_loaded(folder, found)


def as_loaded(folder: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in the loaded model, of tensors by their names on disk."""
    try:
        family = family_of(read_config(folder))
    except Refused:
        return dict(stored)
    return {family.module_of(name): tensor for name, tensor in stored.items()}


def weight_files(folder: Path) -> list[Path]:
    """The checkpoint's safetensors files in name order; a vendor's consolidated copy of them is left out."""
    return sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("consolidated") and p.is_file())


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises Refused when it is missing or no JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise Refused(
            Fault(
                str(folder),
                "is not a checkpoint: no config.json",
                "the folder of a model, with config.json and .safetensors files",
            )
        ) from None
    except ValueError as error:
        raise Refused(Fault(str(path), f"not JSON ({error})")) from None
    if not isinstance(config, dict):
        raise Refused(Fault(str(path), "not a JSON object"))
    return config


def is_tied(config: dict[str, Any]) -> bool:
    """Whether the output head is the embedding table; composite configs say it in either place."""
    inner = config.get("text_config")
    inner = inner if isinstance(inner, dict) else {}
    return bool(inner.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))


def modules(table: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Modules with a weight of their own, and its shape (a packed one's as it was before packing)."""
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in table.items():
        if name.endswith(".weight"):
            found[name.removesuffix(".weight")] = tensor.shape
        elif name.endswith(".weight_packed"):
            base = name.removesuffix(".weight_packed")
            found[base] = unpacked_shape(base, table)
    return found


def named_modules(config: dict[str, Any], table: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Modules with a weight; a tied output head counts too, although the checkpoint stores no tensor for it."""
    found, family = modules(table), family_of(config)
    embeddings = [shape for name, shape in found.items() if family.part_of(name) == "embeddings"]
    if is_tied(config) and embeddings and not any(family.part_of(name) == "lm_head" for name in found):
        found["lm_head"] = embeddings[0]
    return found


def unpacked_shape(name: str, table: dict[str, Tensor]) -> tuple[int, ...]:
    """The shape a packed weight had, [out_features, in_features]; what the packed one has when it is not recorded."""
    recorded = table.get(f"{name}.weight_shape")
    if recorded is not None and recorded.dtype in DTYPES and recorded.shape == (2,):
        rows, columns = (int(v) for v in recorded.read())
        return rows, columns
    return table[f"{name}.weight_packed"].shape


def linears_of(config: Mapping[str, Any], table: dict[str, Tensor]) -> list[Linear]:
    """The Linears among a checkpoint's modules, in name order."""
    family = family_of(config)
    return [
        Linear(name, family.part_of(name), shape[1], shape[0], is_quantized(name, table))
        for name, shape in sorted(modules(table).items())
        if len(shape) == 2 and not family.is_looked_up(name)
    ]


def is_quantized(name: str, table: dict[str, Tensor]) -> bool:
    """Whether a Linear's tensors are those of a quantized one."""
    return any(f"{name}{ending}" in table for ending in QUANTIZED)


def matches(pattern: str, name: str) -> bool:
    """compressed-tensors' rule (utils/match.py): "re:" patterns match from the start, anything else is the name."""
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), name) is not None
    return pattern == name
