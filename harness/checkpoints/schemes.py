"""What a checkpoint is quantized to, whoever made it: the numbers of its weights and activations, and how they are stored.

Words are those of the field: W4A16 is 4-bit weights with 16-bit activations. compressed-tensors' section is read group by
group; AutoAWQ's, GPTQ's, AutoRound's and block FP8's say one scheme for all their Linears.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.util.strict import Strict

NVFP4_GROUP, MX_GROUP = 16, 32
"""Values that share a scale in NVIDIA's and in the Open Compute Project's 4-bit formats."""
FULL = 16
"""Bits of BF16 and FP16."""


class Numbers(Strict):
    """Numbers of one kind, and what shares a scale."""

    bits: Annotated[int, Field(strict=True, ge=1, le=16)]
    kind: Literal["int", "float"] = "int"
    per: Literal["tensor", "channel", "token", "group", "block"] = "group"
    """What shares a scale: a tensor, an output channel, a token, `group_size` values of a channel, a block of a matrix."""
    group_size: Annotated[int, Field(strict=True, ge=1)] | None = None
    block: tuple[int, int] | None = None
    """Rows and columns of a block."""
    symmetric: bool = True
    """No zero points."""
    dynamic: bool = False
    """Scales are found for each token while serving (activations); False: they are stored."""
    scaled_by: Literal["real", "nv", "mx"] = "real"
    """What a scale is: a 16-bit number, or one of the micro-scaling formats' 8-bit ones."""

    @property
    def name(self) -> str:
        """INT4, FP8, NVFP4, MXFP4."""
        if self.kind == "int":
            return f"INT{self.bits}"
        return {"real": "", "nv": "NV", "mx": "MX"}[self.scaled_by] + f"FP{self.bits}"

    @property
    def grouped(self) -> str:
        """What shares a scale, in words."""
        if self.per == "group":
            return f"group {self.group_size}"
        if self.per == "block" and self.block:
            return f"blocks of {self.block[0]} x {self.block[1]}"
        return f"per {self.per}"

    def arguments(self) -> dict[str, Any]:
        """As compressed-tensors' QuantizationArgs take them."""
        made: dict[str, Any] = {
            "num_bits": self.bits,
            "type": self.kind,
            "symmetric": self.symmetric,
            "dynamic": self.dynamic,
            "strategy": self.per,
        }
        if self.per == "group":
            made["group_size"] = self.group_size
        if self.block:
            made["block_structure"] = list(self.block)
        if self.scaled_by == "nv":
            scale = "torch.float8_e4m3fn"
            made |= {"strategy": "tensor_group", "scale_dtype": scale, "zp_dtype": scale}
            made["dynamic"] = "local" if self.dynamic else False
        if self.scaled_by == "mx":
            made |= {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
        return made


class Scheme(Strict):
    """What Linears are quantized to."""

    weights: Numbers
    activations: Numbers | None = None
    """None: they stay as the model's precision has them."""
    format: str = ""
    """compressed-tensors' name of how they are stored; another maker's name for its own."""

    @property
    def bits(self) -> tuple[int, int]:
        """Bits of weights and activations, as the scheme asks for them."""
        return self.weights.bits, self.activations.bits if self.activations else FULL

    @property
    def name(self) -> str:
        """W4A16, W8A8, W4A4."""
        return "W{}A{}".format(*self.bits)

    @property
    def words(self) -> str:
        """For tables: INT4, group 128, symmetric; FP8, per channel, activations FP8 per token."""
        parts = [self.weights.name, self.weights.grouped]
        if self.weights.kind == "int" and not self.activations:
            parts.append("symmetric" if self.weights.symmetric else "asymmetric")
        if self.activations:
            how = "" if self.activations.dynamic else " (stored scales)"
            parts.append(f"activations {self.activations.name} {self.activations.grouped}{how}")
        return ", ".join(parts)

    @property
    def kind(self) -> str:
        """What decides which of vLLM's kernels are asked; see kernels.py."""
        weights, inputs = self.weights, self.activations
        if weights.kind == "int":
            if inputs is None:
                return "wna16"
            return {(8, "int"): "int8", (4, "int"): "w4a8"}.get((weights.bits, inputs.kind), "other")
        if weights.scaled_by != "real":
            return weights.name.lower() + ("" if inputs else "a16")
        if weights.per == "block":
            return "fp8_block"
        return "fp8" if inputs else "fp8_w8a16"


# -- what a config says ------------------------------------------------------------------------------------------------


def numbers_of(args: Mapping[str, Any]) -> Numbers:
    """compressed-tensors' QuantizationArgs; raises ValueError for what is none."""
    strategy, group, dtype = args.get("strategy"), args.get("group_size"), str(args.get("scale_dtype") or "")
    default = "channel" if group in (None, -1) else "group"
    per: Any = {None: default, "tensor_group": "group", "attn_head": "tensor"}.get(strategy, strategy)
    scaled_by: Any = "nv" if strategy == "tensor_group" else "mx" if "uint8" in dtype else "real"
    block = args.get("block_structure")
    return Numbers(
        bits=args.get("num_bits") or 8,
        kind=args.get("type") or "int",
        per=per,
        group_size=group if per == "group" else None,
        block=tuple(block) if per == "block" and block else None,
        symmetric=args.get("symmetric", True),
        dynamic=bool(args.get("dynamic")),
        scaled_by=scaled_by,
    )


def section_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The section of quantization, in the text model's config where some makers put it; empty where there is none."""
    text = config.get("text_config")
    section = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    return section if isinstance(section, dict) else {}


def maker_of(config: Mapping[str, Any]) -> str | None:
    """Whose section it is: `quant_method`, such as compressed-tensors, awq, gptq, fp8; None for a plain checkpoint."""
    section = section_of(config)
    return str(section.get("quant_method") or "compressed-tensors") if section else None


def schemes_of(config: Mapping[str, Any]) -> list[Scheme]:
    """The schemes of a checkpoint, one a group; empty for a plain one, and for a maker that is not known here.

    Raises ValueError for a section that holds other values than belong there.
    """
    section = section_of(config)
    maker = maker_of(config)
    if maker == "compressed-tensors":
        groups = section.get("config_groups") or {}
        made = [scheme_of(group, section) for group in groups.values() if isinstance(group, dict) and group.get("weights")]
        return list(dict.fromkeys(made))
    read = OTHER_MAKERS.get(maker or "")
    return [read(section)] if read else []


def scheme_of(group: Mapping[str, Any], section: Mapping[str, Any]) -> Scheme:
    """The scheme of one entry of config_groups; raises ValueError for values that belong to none."""
    inputs = group.get("input_activations")
    return Scheme(
        weights=numbers_of(group["weights"]),
        activations=numbers_of(inputs) if inputs else None,
        format=str(group.get("format") or section.get("format") or ""),
    )


def _integers(section: Mapping[str, Any], symmetric: bool, form: str) -> Scheme:
    group = section.get("group_size", section.get("q_group_size", 128))
    per: dict[str, Any] = {"per": "channel"} if group in (None, -1) else {"per": "group", "group_size": group}
    bits = section.get("bits", section.get("w_bit", 4))
    return Scheme(weights=Numbers(bits=bits, symmetric=symmetric, **per), format=form)


def _awq(section: Mapping[str, Any]) -> Scheme:
    """AutoAWQ's: https://github.com/casper-hansen/AutoAWQ, awq/models/_config.py."""
    return _integers(section, not section.get("zero_point", True), f"awq {section.get('version', 'gemm')}".lower())


def _gptq(section: Mapping[str, Any]) -> Scheme:
    """AutoGPTQ's and GPTQModel's: quantize_config.py of each."""
    return _integers(section, bool(section.get("sym", True)), "gptq")


def _auto_round(section: Mapping[str, Any]) -> Scheme:
    """AutoRound's own: auto_round/export."""
    return _integers(section, bool(section.get("sym", True)), str(section.get("packing_format", "auto_round")))


def _fp8(section: Mapping[str, Any]) -> Scheme:
    """transformers' FineGrainedFP8Config, as Qwen and DeepSeek publish theirs: a scale a block, activations a token's group."""
    block = section.get("weight_block_size")
    dynamic = section.get("activation_scheme", "dynamic") == "dynamic"
    if not block:
        per_tensor = Numbers(bits=8, kind="float", per="tensor")
        return Scheme(weights=per_tensor, activations=per_tensor.model_copy(update={"dynamic": dynamic}), format="fp8")
    weights = Numbers(bits=8, kind="float", per="block", block=tuple(block))
    return Scheme(
        weights=weights,
        activations=Numbers(bits=8, kind="float", per="group", group_size=block[1], dynamic=True),
        format="fp8",
    )


OTHER_MAKERS = {
    "awq": _awq,
    "gptq": _gptq,
    "auto-round": _auto_round,
    "intel/auto-round": _auto_round,
    "fp8": _fp8,
}
"""Sections of other makers by their `quant_method`, as vLLM takes them (model_executor/layers/quantization)."""


# -- how it is stored --------------------------------------------------------------------------------------------------

BYTES = {"I64": 8, "I32": 4, "F32": 4, "BF16": 2, "U8": 1, "I8": 1, "F8_E4M3": 1}
Stored = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of the tensors that stand for a Linear's weight, by the ending of their names."""


def stored(scheme: Scheme, n: int, k: int) -> Stored | None:
    """How compressed-tensors stores a weight of [n, k] in the scheme's format (compressed_tensors/compressors); None for a
    format that is not known here."""
    weights, form = scheme.weights, scheme.format
    if form == "pack-quantized":
        words = -(-k * weights.bits // 32)
        parts: Stored = {"weight_packed": ((n, words), "I32"), "weight_shape": ((2,), "I64")}
        parts["weight_scale"] = (_scales(weights, n, k), "BF16")
        if not weights.symmetric:
            parts["weight_zero_point"] = ((-(-n * weights.bits // 32), _scales(weights, n, k)[1]), "I32")
    elif form in IN_PLACE:
        scale = "U8" if weights.scaled_by == "mx" else "BF16"
        parts = {"weight": ((n, k), IN_PLACE[form]), "weight_scale": (_scales(weights, n, k), scale)}
    elif form in FOUR_BIT:
        parts = {"weight_packed": ((n, k // 2), "U8"), "weight_scale": ((n, k // FOUR_BIT[form]), "U8")}
        if weights.scaled_by == "nv":
            parts["weight_global_scale"] = ((1,), "F32")
    else:
        return None
    if scheme.activations and not scheme.activations.dynamic:
        parts["input_scale"] = ((1,), "BF16")
    if scheme.activations and scheme.activations.scaled_by == "nv":
        parts["input_global_scale"] = ((1,), "F32")
    return parts


IN_PLACE = {"float-quantized": "F8_E4M3", "int-quantized": "I8", "mxfp8-quantized": "F8_E4M3"}
"""Formats that keep a Linear's `.weight`, with its dtype."""
FOUR_BIT = {"nvfp4-pack-quantized": NVFP4_GROUP, "mxfp4-pack-quantized": MX_GROUP}
"""Formats with two values a byte, and how many share a scale."""


def _scales(weights: Numbers, n: int, k: int) -> tuple[int, ...]:
    if weights.per == "block" and weights.block:
        return (-(-n // weights.block[0]), -(-k // weights.block[1]))
    if weights.per == "tensor":
        return (1,)
    return (n, -(-k // weights.group_size) if weights.per == "group" and weights.group_size else 1)


def stored_bytes(scheme: Scheme, n: int, k: int) -> int:
    """Bytes of a weight of [n, k] in a known format."""
    parts = stored(scheme, n, k) or {}
    total = 0
    for shape, dtype in parts.values():
        count = 1
        for size in shape:
            count *= size
        total += count * BYTES[dtype]
    return total
