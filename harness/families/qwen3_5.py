"""Qwen3.5: three of four decoder layers with linear attention (gated delta rule), Qwen3-VL's vision tower without deepstack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.families.base import Family, Named, Processors, Sizes, Smoothing
from harness.families.parts import (
    INSIDE,
    LANGUAGE,
    SMOOTHED,
    TINY_QWEN_PICTURES,
    TINY_QWEN_VISION,
    decoder,
    most_tokens_by_area,
    mrope_bytes,
    output_head,
    tiny_rope,
    tiny_text,
)
from harness.families.qwen3_vl import IDS, IMAGE_TOKENS, vision_tower

TINY: dict[str, Any] = {
    "text_config": tiny_text(
        num_hidden_layers=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        linear_conv_kernel_dim=4,
        rope_parameters=tiny_rope(mrope_interleaved=True, mrope_section=[3, 3, 2], partial_rotary_factor=0.25),
    ),
    "vision_config": TINY_QWEN_VISION | {"num_position_embeddings": 144},
    "tie_word_embeddings": False,
}


def _attending(text: Mapping[str, Any]) -> list[int]:
    return [number for number, kind in enumerate(text["layer_types"]) if kind == "full_attention"]


def _linear_attention(text: Mapping[str, Any]) -> Iterator[Named]:
    hidden, heads = text["hidden_size"], text["linear_num_value_heads"]
    keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    values = heads * text["linear_value_head_dim"]
    for number in set(range(text["num_hidden_layers"])) - set(_attending(text)):
        layer = f"{LANGUAGE}.layers.{number}.linear_attn"
        yield f"{layer}.dt_bias", (heads,)
        yield f"{layer}.A_log", (heads,)
        yield f"{layer}.conv1d.weight", (2 * keys + values, 1, text["linear_conv_kernel_dim"])
        yield f"{layer}.norm.weight", (text["linear_value_head_dim"],)
        yield f"{layer}.out_proj.weight", (hidden, values)
        for name, rows in (("qkv", 2 * keys + values), ("z", values), ("b", heads), ("a", heads)):
            yield f"{layer}.in_proj_{name}.weight", (rows, hidden)


class Qwen35(Family):
    """Qwen/Qwen3.5-*, dense."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Qwen3_5ForConditionalGeneration (transformers' modeling_qwen3_5.py)."""
        yield from decoder(text, head_norms=True, attention=_attending(text), gate=True)
        yield from _linear_attention(text)
        yield from output_head(config, text)
        yield from vision_tower(vision)

    def attended(self, text: Mapping[str, Any], context: float) -> float:
        """Of the layers with softmax attention; the others keep a state of one size."""
        return len(_attending(text)) * context

    def most_picture_tokens(self, processor: Mapping[str, Any]) -> int | None:
        """See parts.most_tokens_by_area."""
        return most_tokens_by_area(processor)

    def buffer_bytes(self, config: Mapping[str, Any], batched_tokens: int) -> int:
        """The table of rotary positions."""
        return mrope_bytes(config)


QWEN3_5 = Qwen35(
    name="qwen3_5",
    model_types=("qwen3_5",),
    visual=r"(^|\.)visual(\.|$)",
    # What a linear attention keeps adds up over all tokens before, so its Linears stay as they are.
    ignore=("re:.*visual.*", "lm_head", "re:.*embed_tokens$", "re:.*linear_attn.*"),
    # input_layernorm feeds linear attention in most layers, so it is left alone in all.
    mappings=(SMOOTHED[1], Smoothing(INSIDE + "up_proj$", (INSIDE + "down_proj$",))),
    image_tokens=IMAGE_TOKENS,
    smallest_side=28,
    most_elongated=200,
    classes=("Qwen3_5Config", "Qwen3_5ForConditionalGeneration"),
    processors=Processors("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor", ids=IDS),
    shapes={"qwen3_5_tiny": Sizes(TINY, TINY_QWEN_PICTURES, tiny=True)},
)
