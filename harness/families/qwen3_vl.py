"""Qwen3-VL: interleaved mrope, features of the vision tower added to the first decoder layers (deepstack)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.families.base import Family, Smoothing

INSIDE = "re:.*language_model.*"

QWEN3_VL_8B: dict[str, Any] = {
    "text_config": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
        },
    },
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 4096,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    },
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": False,
}
"""Qwen/Qwen3-VL-8B-Instruct's config.json: 8.77 B parameters."""


class Qwen3VL(Family):
    """Qwen/Qwen3-VL-*-Instruct, dense."""

    def most_picture_tokens(self, processor: Mapping[str, Any]) -> int | None:
        """The processor's largest area over the area of one token."""
        # In Qwen-VL's processors `longest_edge` is an area in pixels.
        area = (processor.get("size") or {}).get("longest_edge") or processor.get("max_pixels")
        patch, merge = processor.get("patch_size"), processor.get("merge_size")
        if not str(processor.get("image_processor_type", "")).startswith("Qwen2VL") or not (area and patch and merge):
            return None
        return int(area) // (int(patch) * int(merge)) ** 2

    def buffer_bytes(self, config: Mapping[str, Any], batched_tokens: int) -> int:
        """The table of rotary positions (four times the longest, cosine and sine, in the weights' type) and the vision tower's
        features for the first decoder layers, one row a batched token (vllm/model_executor/layers/rotary_embedding/mrope.py
        and models/qwen3_vl.py)."""
        text = config.get("text_config", config)
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        head_dim = int(text.get("head_dim") or hidden // heads)
        rotary = 4 * int(text.get("max_position_embeddings") or 0) * head_dim * 2
        levels = len(config.get("vision_config", {}).get("deepstack_visual_indexes", []))
        return rotary + levels * batched_tokens * hidden * 2


QWEN3_VL = Qwen3VL(
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    visual=r"(^|\.)visual(\.|$)",
    mappings=(
        # v_proj to o_proj is left out: under grouped-query attention their sizes differ and AWQ cannot map them.
        Smoothing(INSIDE + "input_layernorm$", tuple(INSIDE + name for name in ("q_proj$", "k_proj$", "v_proj$"))),
        Smoothing(INSIDE + "post_attention_layernorm$", tuple(INSIDE + name for name in ("gate_proj$", "up_proj$"))),
        Smoothing(INSIDE + "up_proj$", (INSIDE + "down_proj$",)),
    ),
    image_tokens=("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
    smallest_side=28,
    most_elongated=200,
    classes=("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
    shapes={"qwen3_vl_8b": QWEN3_VL_8B},
    pixels={"shortest_edge": 65536, "longest_edge": 16777216},
)
