"""Qwen2-VL: Qwen2.5-VL's names, with a plain vision transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.families.base import Named, Processors, Sizes
from harness.families.parts import (
    SMOOTHED,
    TINY_QWEN_PICTURES,
    decoder,
    output_head,
    tiny_rope,
    tiny_text,
    weight,
)
from harness.families.qwen2_5_vl import STORED, Qwen25VL, merger
from harness.families.qwen3_vl import IDS, IMAGE_TOKENS

TINY: dict[str, Any] = {
    "text_config": tiny_text(rope_parameters=tiny_rope(mrope_section=[12, 10, 10])),
    "vision_config": {
        "depth": 2,
        "embed_dim": 128,
        "hidden_size": 256,
        "num_heads": 4,
        "mlp_ratio": 3,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "tie_word_embeddings": False,
}


class Qwen2VL(Qwen25VL):
    """Qwen/Qwen2-VL-*-Instruct."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Qwen2VLForConditionalGeneration (transformers' modeling_qwen2_vl.py)."""
        yield from decoder(text, biased=True)
        yield from output_head(config, text)
        width, patch = vision["embed_dim"], vision["patch_size"]
        inner = int(width * vision["mlp_ratio"])
        shape = (width, vision.get("in_channels", 3), vision.get("temporal_patch_size", 2), patch, patch)
        yield from weight("model.visual.patch_embed.proj", shape, False)
        for number in range(vision["depth"]):
            block = f"model.visual.blocks.{number}"
            for name, size in {
                "norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
                "mlp.fc1": (inner, width), "mlp.fc2": (width, inner),
            }.items():  # fmt: skip
                yield from weight(f"{block}.{name}", size)
        # Here hidden_size is what the tower gives, embed_dim what it works with.
        yield from merger({**vision, "hidden_size": width}, vision["hidden_size"], True)


QWEN2_VL = Qwen2VL(
    name="qwen2_vl",
    model_types=("qwen2_vl",),
    stored=STORED,
    visual=r"(^|\.)visual(\.|$)",
    mappings=SMOOTHED,
    image_tokens=IMAGE_TOKENS,
    smallest_side=28,
    most_elongated=200,
    classes=("Qwen2VLConfig", "Qwen2VLForConditionalGeneration"),
    processors=Processors("Qwen2VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor", ids=IDS),
    shapes={"qwen2_vl_tiny": Sizes(TINY, TINY_QWEN_PICTURES, tiny=True)},
)
