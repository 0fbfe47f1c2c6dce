"""InternVL in transformers' form (OpenGVLab/InternVL3-*-hf): InternViT, a two-layer projector, Qwen2 or another decoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.families.base import Family, Named, Processors, Sizes
from harness.families.parts import (
    LLAVA_IGNORE,
    LLAVA_NAMES,
    SMOOTHED,
    TINY_PICTURES,
    TINY_TOWER,
    decoder,
    linear,
    output_head,
    tiny_text,
    weight,
)

INTERNVL3_8B: dict[str, Any] = {
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 151674,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1_000_000.0},
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "attention_bias": True,
        "use_qk_norm": False,
    },
    "image_seq_length": 256,
    "downsample_ratio": 0.5,
    "tie_word_embeddings": False,
}
"""OpenGVLab/InternVL3-8B-hf's config.json: 7.94 B parameters."""
PICTURES: dict[str, Any] = {
    "size": {"height": 448, "width": 448},
    "crop_to_patches": True,
    "min_patches": 1,
    "max_patches": 12,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
TINY: dict[str, Any] = {
    "text_config": tiny_text(model_type="qwen2"),
    "vision_config": TINY_TOWER | {"image_size": [64, 64], "patch_size": [8, 8], "use_qk_norm": False},
    "image_seq_length": 16,
    "downsample_ratio": 0.5,
    "tie_word_embeddings": False,
}


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, list | tuple) else (int(value), int(value))


class InternVL(Family):
    """OpenGVLab/InternVL*-hf."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of InternVLForConditionalGeneration with Qwen2 (transformers' modeling_internvl.py)."""
        if text.get("model_type") != "qwen2":
            raise NotImplementedError
        yield from decoder(text, biased=True)
        yield from output_head(config, text)
        tower, width, inner = "model.vision_tower", vision["hidden_size"], vision["intermediate_size"]
        (high, wide), patch = _pair(vision["image_size"]), _pair(vision["patch_size"])
        yield f"{tower}.embeddings.cls_token", (1, 1, width)
        yield f"{tower}.embeddings.position_embeddings", (1, (high // patch[0]) * (wide // patch[1]) + 1, width)
        yield from weight(f"{tower}.embeddings.patch_embeddings.projection", (width, vision.get("num_channels", 3), *patch))
        for number in range(vision["num_hidden_layers"]):
            layer = f"{tower}.encoder.layer.{number}"
            yield f"{layer}.lambda_1", (width,)
            yield f"{layer}.lambda_2", (width,)
            for name in ("q_proj", "k_proj", "v_proj"):
                yield from linear(f"{layer}.attention.{name}", width, width, bool(vision.get("attention_bias")))
            yield from linear(f"{layer}.attention.projection_layer", width, width, True)
            for name in ("q_norm", "k_norm") if vision.get("use_qk_norm") else ():
                yield f"{layer}.attention.{name}.weight", (width,)
            yield from linear(f"{layer}.mlp.fc1", inner, width, True)
            yield from linear(f"{layer}.mlp.fc2", width, inner, True)
            for name in ("layernorm_before", "layernorm_after"):
                yield from weight(f"{layer}.{name}", (width,), vision.get("norm_type", "layer_norm") == "layer_norm")
        merged, hidden = int(width * (1 / config["downsample_ratio"]) ** 2), text["hidden_size"]
        yield from weight("model.multi_modal_projector.layer_norm", (merged,))
        yield from linear("model.multi_modal_projector.linear_1", hidden, merged, True)
        yield from linear("model.multi_modal_projector.linear_2", hidden, hidden, True)


INTERNVL = InternVL(
    name="internvl",
    model_types=("internvl",),
    stored=LLAVA_NAMES,
    ignore=LLAVA_IGNORE,
    mappings=SMOOTHED,
    image_tokens=("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
    classes=("InternVLConfig", "InternVLForConditionalGeneration"),
    processors=Processors(
        "InternVLProcessor",
        "GotOcr2ImageProcessor",
        "InternVLVideoProcessor",
        picture="<IMG_CONTEXT>",
        tokens=("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        ids={"image_token_id": "<IMG_CONTEXT>"},
    ),
    shapes={
        "internvl3_8b": Sizes(INTERNVL3_8B, PICTURES, {"image_seq_length": 256}),
        "internvl_tiny": Sizes(TINY, TINY_PICTURES | {"crop_to_patches": False}, {"image_seq_length": 16}, tiny=True),
    },
)
