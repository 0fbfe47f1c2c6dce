"""Qwen3-VL: interleaved mrope, features of the vision tower added to the first decoder layers (deepstack)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.families.base import Family, Named, Processors, Sizes
from harness.families.parts import (
    SMOOTHED,
    decoder,
    linear,
    most_tokens_by_area,
    mrope_bytes,
    output_head,
    weight,
)

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

QWEN3_VL_4B: dict[str, Any] = QWEN3_VL_8B | {
    "text_config": QWEN3_VL_8B["text_config"] | {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    "vision_config": QWEN3_VL_8B["vision_config"]
    | {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "out_hidden_size": 2560,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    "tie_word_embeddings": True,
}
"""Qwen/Qwen3-VL-4B-Instruct's: 4.44 B parameters."""

PICTURES: dict[str, Any] = {
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}
IMAGE_TOKENS = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def vision_tower(vision: Mapping[str, Any], deepstack: Iterable[int] = ()) -> Iterator[Named]:
    """Qwen3-VL's, after transformers' modeling_qwen3_vl.py. deepstack: layers whose features go to the decoder's first."""
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = width * vision["spatial_merge_size"] ** 2
    shape = (width, vision.get("in_channels", 3), vision["temporal_patch_size"], patch, patch)
    yield from weight("model.visual.patch_embed.proj", shape)
    yield "model.visual.pos_embed.weight", (vision["num_position_embeddings"], width)
    for number in range(vision["depth"]):
        block = f"model.visual.blocks.{number}"
        for name, size in {
            "norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
            "mlp.linear_fc1": (inner, width), "mlp.linear_fc2": (width, inner),
        }.items():  # fmt: skip
            yield from weight(f"{block}.{name}", size)
    deep = [f"deepstack_merger_list.{number}" for number, _ in enumerate(deepstack)]
    for merger in ("merger", *deep):
        yield from weight(f"model.visual.{merger}.norm", (width if merger == "merger" else merged,))
        yield from linear(f"model.visual.{merger}.linear_fc1", merged, merged, True)
        yield from linear(f"model.visual.{merger}.linear_fc2", vision["out_hidden_size"], merged, True)


class Qwen3VL(Family):
    """Qwen/Qwen3-VL-*-Instruct, dense."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Qwen3VLForConditionalGeneration."""
        yield from decoder(text, biased=bool(text.get("attention_bias")), head_norms=True)
        yield from output_head(config, text)
        yield from vision_tower(vision, vision["deepstack_visual_indexes"])

    def most_picture_tokens(self, processor: Mapping[str, Any]) -> int | None:
        """See parts.most_tokens_by_area."""
        return most_tokens_by_area(processor)

    def buffer_bytes(self, config: Mapping[str, Any], batched_tokens: int) -> int:
        """The table of rotary positions and the vision tower's features for the first decoder layers, one row a batched token
        in the weights' type (vllm/model_executor/models/qwen3_vl.py)."""
        hidden = int(config.get("text_config", config)["hidden_size"])
        levels = len(config.get("vision_config", {}).get("deepstack_visual_indexes", []))
        return mrope_bytes(config) + levels * batched_tokens * hidden * 2


QWEN3_VL = Qwen3VL(
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    visual=r"(^|\.)visual(\.|$)",
    mappings=SMOOTHED,
    image_tokens=IMAGE_TOKENS,
    smallest_side=28,
    most_elongated=200,
    classes=("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
    processors=Processors("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor", ids=IDS),
    shapes={"qwen3_vl_8b": Sizes(QWEN3_VL_8B, PICTURES), "qwen3_vl_4b": Sizes(QWEN3_VL_4B, PICTURES)},
)
