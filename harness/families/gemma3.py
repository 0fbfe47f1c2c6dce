"""Gemma 3: SigLIP's vision tower, four norms a decoder layer, a tied output head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.families.base import Family, Named, Processors, Sizes, Smoothing
from harness.families.llava_onevision import PUBLISHED, STORED
from harness.families.parts import INSIDE, LLAVA_IGNORE, TINY_PICTURES, TINY_TOWER, decoder, output_head, siglip, tiny_text

SIXTH = 6
"""Every sixth layer attends to all tokens, where config.json does not name the layers."""
TINY: dict[str, Any] = {
    "text_config": tiny_text(
        tie_word_embeddings=True,
        query_pre_attn_scalar=64,
        sliding_window=512,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters=None,
    ),
    "vision_config": TINY_TOWER | {"vision_use_head": False},
    "mm_tokens_per_image": 16,
    "tie_word_embeddings": True,
}


class Gemma3(Family):
    """google/gemma-3-*-it, from 4B on."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Gemma3ForConditionalGeneration (transformers' modeling_gemma3.py)."""
        around = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
        yield from decoder(text, head_norms=True, norms=around)
        yield from output_head(config, text)
        yield from siglip(vision, "model.vision_tower")
        yield "model.multi_modal_projector.mm_input_projection_weight", (vision["hidden_size"], text["hidden_size"])
        yield "model.multi_modal_projector.mm_soft_emb_norm.weight", (vision["hidden_size"],)

    def attended(self, text: Mapping[str, Any], context: float) -> float:
        """Five of six layers see a window alone."""
        numbers = range(1, text["num_hidden_layers"] + 1)
        named = [kind == "sliding_attention" for kind in text.get("layer_types") or ()]
        sliding = named or [number % SIXTH != 0 for number in numbers]
        window = min(context, text.get("sliding_window") or context)
        return float(sum(window if one else context for one in sliding))


GEMMA3 = Gemma3(
    name="gemma3",
    model_types=("gemma3",),
    stored=STORED,
    published=PUBLISHED,
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "tie_word_embeddings": True,
    },
    # The projector has no Linear.
    ignore=tuple(pattern for pattern in LLAVA_IGNORE if "projector" not in pattern),
    # q and k are normed after their projections; as llm-compressor has it, they are left alone.
    mappings=(
        Smoothing(INSIDE + "pre_feedforward_layernorm$", (INSIDE + "gate_proj$", INSIDE + "up_proj$")),
        Smoothing(INSIDE + "up_proj$", (INSIDE + "down_proj$",)),
    ),
    image_tokens=("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    classes=("Gemma3Config", "Gemma3ForConditionalGeneration"),
    processors=Processors(
        "Gemma3Processor",
        "Gemma3ImageProcessor",
        picture="<start_of_image>",
        # vLLM looks for line feeds in the vocabulary.
        tokens=("<start_of_image>", "<end_of_image>", "<image_soft_token>", "\n", "\n\n", "\n\n\n", "\n\n\n\n"),
        named={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        ids={
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
            "image_token_index": "<image_soft_token>",
        },
    ),
    shapes={"gemma3_tiny": Sizes(TINY, TINY_PICTURES, {"image_seq_length": 16}, tiny=True)},
)
