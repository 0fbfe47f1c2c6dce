"""The positive control: the source with Gaussian noise on its language Linears, everything else byte for byte.

A comparison that does not call this a loss cannot be believed when it calls something else harmless.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from harness.checkpoints.headers import Tensor, header, matches, read_config, weight_files
from harness.families import Family, family_of
from quantize.methods.base import Recipe, Sentence, Workbench, Written

FLOATS = {"BF16", "F16", "F32"}


class Noise(Recipe):
    """BF16 with noise: a positive control, not a quantization."""

    needs_model = False
    of_earlier_versions = True

    method: Literal["noise"] = "noise"
    """BF16 with noise, a positive control."""
    noise_std: Annotated[float, Field(gt=0, le=10)] | None = None
    """Standard deviation of the noise as a share of each weight matrix's own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise."""

    @model_validator(mode="after")
    def _some_noise(self) -> Noise:
        if self.noise_std is None:
            raise ValueError("method noise needs noise_std, for example 0.1")
        return self

    def build(self, bench: Workbench, folder: Path) -> Written:
        return {}, partial(write, bench.source_path, self, folder)

    @classmethod
    def told(cls, recipe: Mapping[str, Any], search: Mapping[str, Any]) -> Iterable[Sentence]:
        sentence = "Noise of {noise} standard deviations: a control, not a quantization."
        return [(sentence, {"noise": recipe["noise_std"]})]


def write(source: Path, recipe: Noise, folder: Path) -> None:
    """Copy `source` to `folder` and add noise to the weights of the language Linears that no ignore pattern names.

    Each weight w becomes w + noise_std * std(w) * N(0, 1), drawn per tensor from the recipe's seed and the tensor's
    name, so neither the order nor the sharding matters.
    """
    assert recipe.noise_std is not None
    family = family_of(read_config(source))
    ignore = recipe.resolved(family).ignored
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != "manifest.json":
            shutil.copyfile(path, folder / path.name)
    for file in weight_files(folder):
        for tensor in header(file).values():
            if _is_target(tensor, family, ignore):
                _disturb(tensor, recipe.noise_std, recipe.seed)


def _is_target(tensor: Tensor, family: Family, ignore: list[str]) -> bool:
    name = family.module_of(tensor.name).removesuffix(".weight")
    return (
        tensor.name.endswith(".weight")
        and len(tensor.shape) == 2
        and tensor.dtype in FLOATS
        and bool(family.layer_of(name))
        and family.part_of(name) == "language"
        and not any(matches(pattern, name) for pattern in ignore)
    )


def _disturb(tensor: Tensor, share: float, seed: int) -> None:
    """Rewrite one tensor's bytes in place."""
    key = hashlib.sha256(json.dumps([seed, tensor.name]).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(key[:8], "little"))
    values = tensor.read().astype(np.float32)
    noisy = values + rng.standard_normal(values.shape, dtype=np.float32) * np.float32(share * values.std())
    with tensor.file.open("r+b") as raw:
        raw.seek(tensor.begin)
        raw.write(_encode(noisy, tensor.dtype))


def _encode(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view(np.uint32)
    # To the nearest BF16, ties to even: add half of the last kept bit's weight, and that bit itself.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
