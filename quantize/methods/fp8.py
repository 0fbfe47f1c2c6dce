"""8-bit floating point for weights and activations (Micikevicius et al. 2022, arXiv 2209.05433)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from harness.checkpoints.schemes import Numbers, Scheme
from quantize.methods.base import Quantizing, Sentence

SIDE = 128
"""Rows and columns of a block, as Qwen and DeepSeek publish theirs."""
FORMAT = "float-quantized"


class Fp8(Quantizing):
    """E4M3 weights and activations."""

    tag = "fp8"

    method: Literal["fp8"] = "fp8"
    """E4M3 weights and activations."""
    scales: Literal["dynamic", "static", "block"] = "dynamic"
    """dynamic: one an output channel, activations one a token while serving; static: one a weight, activations by calibration;
    block: one for 128 x 128 weights, activations one for 128 values of a token while serving."""

    @property
    def scheme(self) -> Scheme:
        def fp8(**more: Any) -> Numbers:
            return Numbers(bits=8, kind="float", **more)

        if self.scales == "block":
            inputs = fp8(per="group", group_size=SIDE, dynamic=True)
            return Scheme(weights=fp8(per="block", block=(SIDE, SIDE)), activations=inputs, format=FORMAT)
        if self.scales == "static":
            return Scheme(weights=fp8(per="tensor"), activations=fp8(per="tensor"), format=FORMAT)
        return Scheme(weights=fp8(per="channel"), activations=fp8(per="token", dynamic=True), format=FORMAT)

    @property
    def observes_data(self) -> bool:
        return super().observes_data or self.scales == "static"

    @classmethod
    def told(cls, recipe: Mapping[str, Any], search: Mapping[str, Any]) -> Iterable[Sentence]:
        return [("Scales: {scales}.", {"scales": recipe["scales"]})]
