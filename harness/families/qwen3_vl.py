"""Qwen3-VL: interleaved mrope, features of the vision tower added to the first decoder layers (deepstack)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def _parameters(
    config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor, after transformers' modeling_qwen3_vl.py."""
    hidden, mlp, head = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    language = "model.language_model"
    yield f"{language}.embed_tokens.weight", (text["vocab_size"], hidden)
    yield f"{language}.norm.weight", (hidden,)
    if not text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)):
        yield "lm_head.weight", (text["vocab_size"], hidden)
    for number in range(text["num_hidden_layers"]):
        layer = f"{language}.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}.{norm}.weight", (hidden,)
        for norm in ("q_norm", "k_norm"):
            yield f"{layer}.self_attn.{norm}.weight", (head,)
        shapes = {"q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden), "o_proj": (hidden, queries)}
        for name, shape in shapes.items():
            yield f"{layer}.self_attn.{name}.weight", shape
            if text.get("attention_bias"):
                yield f"{layer}.self_attn.{name}.bias", shape[:1]
        for name, shape in {"gate_proj": (mlp, hidden), "up_proj": (mlp, hidden), "down_proj": (hidden, mlp)}.items():
            yield f"{layer}.mlp.{name}.weight", shape
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = width * vision["spatial_merge_size"] ** 2
    yield from _biased("model.visual.patch_embed.proj",
                       (width, vision.get("in_channels", 3), vision["temporal_patch_size"], patch, patch))  # fmt: skip
    yield "model.visual.pos_embed.weight", (vision["num_position_embeddings"], width)
    for number in range(vision["depth"]):
        block = f"model.visual.blocks.{number}"
        for name, shape in {
            "norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
            "mlp.linear_fc1": (inner, width), "mlp.linear_fc2": (width, inner),
        }.items():  # fmt: skip
            yield from _biased(f"{block}.{name}", shape)
    deep = [f"deepstack_merger_list.{number}" for number in range(len(vision["deepstack_visual_indexes"]))]
    for merger in ("merger", *deep):
        yield from _biased(f"model.visual.{merger}.norm", (width if merger == "merger" else merged,))
        yield from _biased(f"model.visual.{merger}.linear_fc1", (merged, merged))
        yield from _biased(f"model.visual.{merger}.linear_fc2", (vision["out_hidden_size"], merged))


def _biased(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


class Qwen3VL(Family):
    """Qwen/Qwen3-VL-*-Instruct, dense."""

    def parameters(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
        """Of Qwen3VLForConditionalGeneration, from the sizes in config.json."""
        try:
            return dict(_parameters(config, config["text_config"], config["vision_config"]))
        except (KeyError, TypeError, AttributeError):
            return None

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
