"""Mistral Small 3.1 and its kin: Pixtral's vision tower, a projector that merges patches, a Mistral decoder."""

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
    head_size,
    linear,
    output_head,
    tiny_text,
    weight,
)

TINY: dict[str, Any] = {
    "text_config": tiny_text(model_type="mistral"),
    "vision_config": TINY_TOWER | {"model_type": "pixtral", "head_dim": 32, "rope_theta": 10000.0},
    "spatial_merge_size": 2,
    "multimodal_projector_bias": False,
    "vision_feature_layer": -1,
    "tie_word_embeddings": False,
}


class Mistral3(Family):
    """mistralai/Mistral-Small-3.*-24B-Instruct and Ministral-3-*, in transformers' form."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Mistral3ForConditionalGeneration (transformers' modeling_mistral3.py, modeling_pixtral.py)."""
        yield from decoder(text)
        yield from output_head(config, text)
        tower, width, inner = "model.vision_tower", vision["hidden_size"], vision["intermediate_size"]
        patch, attention = vision["patch_size"], vision["num_attention_heads"] * head_size(vision)
        yield from weight(f"{tower}.patch_conv", (width, vision.get("num_channels", 3), patch, patch), False)
        yield f"{tower}.ln_pre.weight", (width,)
        for number in range(vision["num_hidden_layers"]):
            layer = f"{tower}.transformer.layers.{number}"
            for name in ("attention_norm", "ffn_norm"):
                yield f"{layer}.{name}.weight", (width,)
            for name in ("q_proj", "k_proj", "v_proj"):
                yield from linear(f"{layer}.attention.{name}", attention, width)
            yield from linear(f"{layer}.attention.o_proj", width, attention)
            for name, rows, columns in (("gate_proj", inner, width), ("up_proj", inner, width), ("down_proj", width, inner)):
                yield from linear(f"{layer}.feed_forward.{name}", rows, columns)
        projector, hidden = "model.multi_modal_projector", text["hidden_size"]
        biased = bool(config.get("multimodal_projector_bias"))
        yield f"{projector}.norm.weight", (width,)
        yield from linear(f"{projector}.patch_merger.merging_layer", width, width * config["spatial_merge_size"] ** 2)
        yield from linear(f"{projector}.linear_1", hidden, width, biased)
        yield from linear(f"{projector}.linear_2", hidden, hidden, biased)


MISTRAL3 = Mistral3(
    name="mistral3",
    model_types=("mistral3",),
    stored=LLAVA_NAMES,
    ignore=LLAVA_IGNORE,
    mappings=SMOOTHED,
    image_tokens=("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    classes=("Mistral3Config", "Mistral3ForConditionalGeneration"),
    processors=Processors(
        "PixtralProcessor",
        "PixtralImageProcessor",
        picture="[IMG]",
        tokens=("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        ids={"image_token_index": "[IMG]"},
    ),
    shapes={
        "mistral3_tiny": Sizes(
            TINY,
            TINY_PICTURES | {"patch_size": 8, "size": {"longest_edge": 64}},
            {"patch_size": 8, "spatial_merge_size": 2},
            tiny=True,
        )
    },
)
