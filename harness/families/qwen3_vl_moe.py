"""Qwen3-VL with a mixture of experts: Qwen3-VL's vision tower, experts of a layer in one tensor of three dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.families.base import Named, Processors, Sizes
from harness.families.parts import LANGUAGE, TINY_QWEN_PICTURES, TINY_QWEN_VISION, decoder, output_head, tiny_rope, tiny_text
from harness.families.qwen3_vl import IDS, IMAGE_TOKENS, PICTURES, QWEN3_VL_8B, Qwen3VL, vision_tower

QWEN3_VL_30B_A3B: dict[str, Any] = QWEN3_VL_8B | {
    "text_config": QWEN3_VL_8B["text_config"]
    | {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
    },
    "vision_config": QWEN3_VL_8B["vision_config"] | {"out_hidden_size": 2048},
}
"""Qwen/Qwen3-VL-30B-A3B-Instruct's config.json: 31.1 B parameters, 3.3 B of them for a token."""
TINY: dict[str, Any] = {
    "text_config": tiny_text(
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        norm_topk_prob=True,
        rope_parameters=tiny_rope(mrope_interleaved=True, mrope_section=[12, 10, 10]),
    ),
    "vision_config": TINY_QWEN_VISION | {"num_position_embeddings": 144, "deepstack_visual_indexes": [1]},
    "tie_word_embeddings": False,
}


class Qwen3VLMoe(Qwen3VL):
    """Qwen/Qwen3-VL-*-A*B-Instruct."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Qwen3VLMoeForConditionalGeneration (transformers' modeling_qwen3_vl_moe.py)."""
        yield from decoder(text, head_norms=True, mlp=False)
        hidden, inner = text["hidden_size"], text["moe_intermediate_size"]
        experts = text.get("num_experts") or text["num_local_experts"]
        for number in range(text["num_hidden_layers"]):
            mlp = f"{LANGUAGE}.layers.{number}.mlp"
            yield f"{mlp}.gate.weight", (experts, hidden)
            yield f"{mlp}.experts.gate_up_proj", (experts, 2 * inner, hidden)
            yield f"{mlp}.experts.down_proj", (experts, hidden, inner)
        yield from output_head(config, text)
        yield from vision_tower(vision, vision["deepstack_visual_indexes"])


QWEN3_VL_MOE = Qwen3VLMoe(
    name="qwen3_vl_moe",
    model_types=("qwen3_vl_moe",),
    visual=r"(^|\.)visual(\.|$)",
    ignore=("re:.*visual.*", "lm_head", "re:.*embed_tokens$", "re:.*mlp.gate$"),
    turned=r".*\.experts\.(gate_up_proj|down_proj)$",
    unbuilt="its experts are tensors of three dimensions, which neither AWQ's mappings nor the packing here reach",
    image_tokens=IMAGE_TOKENS,
    smallest_side=28,
    most_elongated=200,
    classes=("Qwen3VLMoeConfig", "Qwen3VLMoeForConditionalGeneration"),
    processors=Processors("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor", ids=IDS),
    shapes={
        "qwen3_vl_30b_a3b": Sizes(QWEN3_VL_30B_A3B, PICTURES),
        "qwen3_vl_moe_tiny": Sizes(TINY, TINY_QWEN_PICTURES, tiny=True),
    },
)
