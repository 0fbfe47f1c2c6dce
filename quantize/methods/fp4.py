"""4-bit floating point with micro-scales: NVIDIA's NVFP4 and the Open Compute Project's MXFP4 (OCP MX v1.0)."""

from __future__ import annotations

from typing import Any, Literal

from harness.checkpoints.schemes import MX_GROUP, NVFP4_GROUP, Numbers, Scheme
from quantize.methods.base import Quantizing


def _nv(**more: Any) -> Numbers:
    return Numbers(bits=4, kind="float", per="group", group_size=NVFP4_GROUP, scaled_by="nv", **more)


def _mx(**more: Any) -> Numbers:
    return Numbers(bits=4, kind="float", per="group", group_size=MX_GROUP, scaled_by="mx", **more)


class NvFp4(Quantizing):
    """NVFP4 weights and activations: an E4M3 scale for 16 values, and one for the tensor."""

    tag = "nvfp4"

    method: Literal["nvfp4"] = "nvfp4"
    """NVFP4 weights and activations: an E4M3 scale for 16 values, and one for the tensor."""

    @property
    def scheme(self) -> Scheme:
        return Scheme(weights=_nv(), activations=_nv(dynamic=True), format="nvfp4-pack-quantized")

    @property
    def observes_data(self) -> bool:
        """The tensor's scale of the activations is found by calibration."""
        return True


class NvFp4A16(Quantizing):
    """NVFP4 weights."""

    tag = "nvfp4"

    method: Literal["nvfp4a16"] = "nvfp4a16"
    """NVFP4 weights."""

    @property
    def scheme(self) -> Scheme:
        return Scheme(weights=_nv(), format="nvfp4-pack-quantized")


class MxFp4(Quantizing):
    """MXFP4 weights and activations: a power of two for 32 values."""

    tag = "mxfp4"

    method: Literal["mxfp4"] = "mxfp4"
    """MXFP4 weights and activations: a power of two for 32 values."""

    @property
    def scheme(self) -> Scheme:
        return Scheme(weights=_mx(), activations=_mx(dynamic=True), format="mxfp4-pack-quantized")


class MxFp4A16(Quantizing):
    """MXFP4 weights."""

    tag = "mxfp4"

    method: Literal["mxfp4a16"] = "mxfp4a16"
    """MXFP4 weights."""

    @property
    def scheme(self) -> Scheme:
        return Scheme(weights=_mx(), format="mxfp4-pack-quantized")
