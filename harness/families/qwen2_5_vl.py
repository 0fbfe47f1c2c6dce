"""Qwen2.5-VL: windowed attention and a gated MLP in the vision tower, mrope in sections that are not interleaved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.families.base import Family, Named, Processors, Sizes
from harness.families.parts import (
    SMOOTHED,
    TINY_QWEN_PICTURES,
    TINY_QWEN_VISION,
    decoder,
    linear,
    most_tokens_by_area,
    mrope_bytes,
    output_head,
    tiny_rope,
    tiny_text,
    weight,
)
from harness.families.qwen3_vl import IDS, IMAGE_TOKENS

STORED = ((r"model\.(?!language_model\.|visual\.)", "model.language_model."), (r"visual(?=\.|$)", "model.visual"))
"""Published when the language model and the vision tower stood side by side."""

QWEN2_5_VL_7B: dict[str, Any] = {
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": 3584,
    },
    "tie_word_embeddings": False,
}
"""Qwen/Qwen2.5-VL-7B-Instruct's config.json: 8.29 B parameters."""
PICTURES: dict[str, Any] = {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": {"shortest_edge": 3136, "longest_edge": 12845056},
}
TINY: dict[str, Any] = {
    "text_config": tiny_text(rope_parameters=tiny_rope(mrope_section=[12, 10, 10])),
    "vision_config": TINY_QWEN_VISION | {"window_size": 48, "fullatt_block_indexes": [1], "tokens_per_second": 2},
    "tie_word_embeddings": False,
}


def merger(vision: Mapping[str, Any], out: int, biased: bool) -> Iterator[Named]:
    """The projector. vision: with the tower's width as hidden_size. biased: whether its norm has a bias."""
    width = vision["hidden_size"]
    merged = width * vision.get("spatial_merge_size", 2) ** 2
    yield from weight("model.visual.merger.ln_q", (width,), biased)
    yield from linear("model.visual.merger.mlp.0", merged, merged, True)
    yield from linear("model.visual.merger.mlp.2", out, merged, True)


class Qwen25VL(Family):
    """Qwen/Qwen2.5-VL-*-Instruct."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Qwen2_5_VLForConditionalGeneration (transformers' modeling_qwen2_5_vl.py)."""
        yield from decoder(text, biased=True)
        yield from output_head(config, text)
        width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
        shape = (width, vision.get("in_channels", 3), vision.get("temporal_patch_size", 2), patch, patch)
        yield from weight("model.visual.patch_embed.proj", shape, False)
        for number in range(vision["depth"]):
            block = f"model.visual.blocks.{number}"
            for norm in ("norm1", "norm2"):
                yield from weight(f"{block}.{norm}", (width,), False)
            yield from linear(f"{block}.attn.qkv", 3 * width, width, True)
            yield from linear(f"{block}.attn.proj", width, width, True)
            for name, rows, columns in (
                ("gate_proj", inner, width),
                ("up_proj", inner, width),
                ("down_proj", width, inner),
            ):
                yield from linear(f"{block}.mlp.{name}", rows, columns, True)
        yield from merger(vision, vision["out_hidden_size"], False)

    def most_picture_tokens(self, processor: Mapping[str, Any]) -> int | None:
        """See parts.most_tokens_by_area."""
        return most_tokens_by_area(processor)

    def buffer_bytes(self, config: Mapping[str, Any], batched_tokens: int) -> int:
        """The table of rotary positions."""
        return mrope_bytes(config)


QWEN2_5_VL = Qwen25VL(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    stored=STORED,
    visual=r"(^|\.)visual(\.|$)",
    mappings=SMOOTHED,
    image_tokens=IMAGE_TOKENS,
    smallest_side=28,
    most_elongated=200,
    classes=("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration"),
    processors=Processors("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor", ids=IDS),
    shapes={
        "qwen2_5_vl_7b": Sizes(QWEN2_5_VL_7B, PICTURES),
        "qwen2_5_vl_tiny": Sizes(TINY, TINY_QWEN_PICTURES, tiny=True),
    },
)
