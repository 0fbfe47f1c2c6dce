"""LLaVA-OneVision: SigLIP's vision tower over crops of a picture, a two-layer projector, Qwen2."""

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
    siglip,
    tiny_text,
)

STORED = ((r"(?:model\.)?vision_tower\.vision_model\.", "model.vision_tower."), *LLAVA_NAMES)
"""SigLIP once had a model inside its model."""
PUBLISHED = ((r"vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),)
CROPS = [[64, 64], [64, 128], [128, 64]]
TINY: dict[str, Any] = {
    "text_config": tiny_text(model_type="qwen2"),
    "vision_config": TINY_TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False},
    "image_grid_pinpoints": CROPS,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "multimodal_projector_bias": True,
    "tie_word_embeddings": False,
}


class LlavaOnevision(Family):
    """llava-hf/llava-onevision-qwen2-*-ov-hf."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of LlavaOnevisionForConditionalGeneration with Qwen2 (transformers' modeling_llava_onevision.py)."""
        if text.get("model_type") != "qwen2":
            raise NotImplementedError
        yield from decoder(text, biased=True)
        yield from output_head(config, text)
        yield from siglip(vision, "model.vision_tower")
        hidden, biased = text["hidden_size"], bool(config.get("multimodal_projector_bias", True))
        yield "model.image_newline", (hidden,)
        yield from linear("model.multi_modal_projector.linear_1", hidden, vision["hidden_size"], biased)
        yield from linear("model.multi_modal_projector.linear_2", hidden, hidden, biased)


LLAVA_ONEVISION = LlavaOnevision(
    name="llava_onevision",
    model_types=("llava_onevision",),
    stored=STORED,
    published=PUBLISHED,
    ignore=LLAVA_IGNORE,
    mappings=SMOOTHED,
    image_tokens=("<image>", "<video>"),
    classes=("LlavaOnevisionConfig", "LlavaOnevisionForConditionalGeneration"),
    processors=Processors(
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessor",
        "LlavaOnevisionVideoProcessor",
        picture="<image>",
        tokens=("<image>", "<video>"),
        ids={"image_token_index": "<image>", "video_token_index": "<video>"},
    ),
    shapes={
        "llava_onevision_tiny": Sizes(
            TINY,
            TINY_PICTURES | {"image_grid_pinpoints": CROPS},
            {"num_image_tokens": 64, "vision_feature_select_strategy": "full"},
            tiny=True,
        )
    },
)
