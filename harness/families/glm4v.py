"""GLM-4V: a vision tower with gated MLPs, gate and up of the decoder in one Linear, four norms a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.families.base import Family, Named, Processors, Sizes, Smoothing
from harness.families.parts import (
    INSIDE,
    SMOOTHED,
    TINY_QWEN_PICTURES,
    TINY_QWEN_VISION,
    decoder,
    linear,
    mrope_bytes,
    output_head,
    tiny_rope,
    tiny_text,
    weight,
)

TINY: dict[str, Any] = {
    "text_config": tiny_text(rope_parameters=tiny_rope(mrope_section=[4, 6, 6], partial_rotary_factor=0.5)),
    "vision_config": TINY_QWEN_VISION | {"image_size": 96},
    "tie_word_embeddings": False,
}


class Glm4v(Family):
    """zai-org/GLM-4.1V-9B-* and their kin, dense."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Glm4vForConditionalGeneration (transformers' modeling_glm4v.py)."""
        norms = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
        yield from decoder(text, biased=bool(text.get("attention_bias", True)), norms=norms, gated="gate_up_proj")
        yield from output_head(config, text)
        width, out, patch = vision["hidden_size"], vision["out_hidden_size"], vision["patch_size"]
        merge, inner = vision["spatial_merge_size"], vision["intermediate_size"]
        shape = (width, vision.get("in_channels", 3), vision["temporal_patch_size"], patch, patch)
        yield "model.visual.embeddings.position_embedding.weight", ((vision["image_size"] // patch) ** 2, width)
        yield from weight("model.visual.patch_embed.proj", shape)
        for name in ("post_conv_layernorm", "post_layernorm"):
            yield f"model.visual.{name}.weight", (width,)
        for number in range(vision["depth"]):
            block, biased = f"model.visual.blocks.{number}", bool(vision.get("attention_bias"))
            for name in ("norm1", "norm2"):
                yield f"{block}.{name}.weight", (width,)
            yield from linear(f"{block}.attn.qkv", 3 * width, width, biased)
            yield from linear(f"{block}.attn.proj", width, width)
            for name, rows, columns in (("gate_proj", out, width), ("up_proj", out, width), ("down_proj", width, out)):
                yield from linear(f"{block}.mlp.{name}", rows, columns)
        yield from weight("model.visual.downsample", (out, width, merge, merge))
        yield from linear("model.visual.merger.proj", out, out)
        yield from weight("model.visual.merger.post_projection_norm", (out,))
        for name, rows, columns in (("gate_proj", inner, out), ("up_proj", inner, out), ("down_proj", out, inner)):
            yield from linear(f"model.visual.merger.{name}", rows, columns)

    def buffer_bytes(self, config: Mapping[str, Any], batched_tokens: int) -> int:
        """The table of rotary positions."""
        return mrope_bytes(config)


GLM4V = Glm4v(
    name="glm4v",
    model_types=("glm4v",),
    visual=r"(^|\.)visual(\.|$)",
    # gate_up_proj's outputs are twice down_proj's inputs, so there is no mapping between them.
    mappings=(SMOOTHED[0], Smoothing(INSIDE + "post_attention_layernorm$", (INSIDE + "gate_up_proj$",))),
    fused=(("q_proj", "k_proj", "v_proj"), ("gate_up_proj",)),
    image_tokens=("<|image|>", "<|begin_of_image|>", "<|end_of_image|>", "<|video|>"),
    smallest_side=28,
    most_elongated=200,
    classes=("Glm4vConfig", "Glm4vForConditionalGeneration"),
    processors=Processors(
        "Glm4vProcessor",
        "Glm4vImageProcessor",
        "Glm4vVideoProcessor",
        picture="<|begin_of_image|><|image|><|end_of_image|>",
        tokens=(
            "<|image|>",
            "<|begin_of_image|>",
            "<|end_of_image|>",
            "<|video|>",
            "<|begin_of_video|>",
            "<|end_of_video|>",
        ),
        ids={
            "image_token_id": "<|image|>",
            "image_start_token_id": "<|begin_of_image|>",
            "image_end_token_id": "<|end_of_image|>",
            "video_token_id": "<|video|>",
            "video_start_token_id": "<|begin_of_video|>",
            "video_end_token_id": "<|end_of_video|>",
        },
    ),
    shapes={
        "glm4v_tiny": Sizes(TINY, TINY_QWEN_PICTURES | {"size": {"shortest_edge": 18432, "longest_edge": 18432}}, tiny=True)
    },
)
