"""Parts that many families share: tensors of a decoder, mappings of AWQ, tokens that a picture takes.

Shapes are those of transformers' modules, [out_features, in_features] of a Linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.families.base import Named, Smoothing

LANGUAGE = "model.language_model"
INSIDE = "re:.*language_model.*"
SMOOTHED = (
    # v_proj to o_proj is left out: under grouped-query attention their sizes differ and AWQ cannot map them.
    Smoothing(INSIDE + "input_layernorm$", tuple(INSIDE + name for name in ("q_proj$", "k_proj$", "v_proj$"))),
    Smoothing(INSIDE + "post_attention_layernorm$", tuple(INSIDE + name for name in ("gate_proj$", "up_proj$"))),
    Smoothing(INSIDE + "up_proj$", (INSIDE + "down_proj$",)),
)
"""AWQ's mappings of a decoder with two norms a layer and a gated MLP."""
LLAVA_NAMES = (
    (r"language_model\.model\.", "model.language_model."),
    (r"language_model\.lm_head(?=\.|$)", "lm_head"),
    (r"(vision_tower|multi_modal_projector|image_newline)(?=\.|$)", r"model.\1"),
)
"""Names on disk of LLaVA and its kin, whose language model was once a whole model with a head of its own."""
LLAVA_IGNORE = ("re:.*vision_tower.*", "re:.*multi_modal_projector.*", "lm_head", "re:.*embed_tokens$")
"""What stays in high precision of the same."""


def linear(name: str, outputs: int, inputs: int, biased: bool = False) -> Iterator[Named]:
    """A Linear's tensors."""
    return weight(name, (outputs, inputs), biased)


def weight(name: str, shape: tuple[int, ...], biased: bool = True) -> Iterator[Named]:
    """A module's weight, and its bias of as many values as the weight has rows."""
    yield f"{name}.weight", shape
    if biased:
        yield f"{name}.bias", shape[:1]


def head_size(text: Mapping[str, Any]) -> int:
    """Values of one attention head."""
    return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])


def decoder(
    text: Mapping[str, Any],
    stem: str = LANGUAGE,
    *,
    biased: bool = False,
    head_norms: bool = False,
    norms: Iterable[str] = ("input_layernorm", "post_attention_layernorm"),
    gated: str = "",
    mlp: bool = True,
    attention: Iterable[int] | None = None,
    gate: bool = False,
) -> Iterator[Named]:
    """Embeddings, decoder layers and the last norm. text: the language model's config.

    biased: q, k and v have a bias. head_norms: q_norm and k_norm. gated: one Linear of gate and up, under this name. mlp:
    whether there is one. attention: the layers with softmax attention (default: all). gate: q_proj gives a gate as well.
    """
    hidden, inner, head = text["hidden_size"], text["intermediate_size"] if mlp else 0, head_size(text)
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    yield f"{stem}.embed_tokens.weight", (text["vocab_size"], hidden)
    yield f"{stem}.norm.weight", (hidden,)
    attending = set(range(text["num_hidden_layers"]) if attention is None else attention)
    for number in range(text["num_hidden_layers"]):
        layer = f"{stem}.layers.{number}"
        for norm in norms:
            yield f"{layer}.{norm}.weight", (hidden,)
        if number in attending:
            for name, outputs in (("q_proj", queries * (2 if gate else 1)), ("k_proj", keys), ("v_proj", keys)):
                yield from linear(f"{layer}.self_attn.{name}", outputs, hidden, biased)
            yield f"{layer}.self_attn.o_proj.weight", (hidden, queries)
            for norm in ("q_norm", "k_norm") if head_norms else ():
                yield f"{layer}.self_attn.{norm}.weight", (head,)
        if mlp:
            for name, rows in ((gated, 2 * inner),) if gated else (("gate_proj", inner), ("up_proj", inner)):
                yield f"{layer}.mlp.{name}.weight", (rows, hidden)
            yield f"{layer}.mlp.down_proj.weight", (hidden, inner)


def output_head(config: Mapping[str, Any], text: Mapping[str, Any]) -> Iterator[Named]:
    """lm_head, where it is not the embedding table."""
    if not text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)):
        yield "lm_head.weight", (text["vocab_size"], text["hidden_size"])


def siglip(vision: Mapping[str, Any], stem: str) -> Iterator[Named]:
    """SigLIP's vision transformer without its pooling head."""
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    yield from weight(f"{stem}.embeddings.patch_embedding", (width, vision.get("num_channels", 3), patch, patch))
    yield f"{stem}.embeddings.position_embedding.weight", ((vision["image_size"] // patch) ** 2, width)
    for number in range(vision["num_hidden_layers"]):
        layer = f"{stem}.encoder.layers.{number}"
        for norm in ("layer_norm1", "layer_norm2"):
            yield from weight(f"{layer}.{norm}", (width,))
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{name}", width, width, True)
        yield from linear(f"{layer}.mlp.fc1", inner, width, True)
        yield from linear(f"{layer}.mlp.fc2", width, inner, True)
    yield from weight(f"{stem}.post_layernorm", (width,))


def most_tokens_by_area(processor: Mapping[str, Any]) -> int | None:
    """The most tokens of a picture for Qwen's image processors, whose `longest_edge` is an area in pixels: the largest area
    over that of one token."""
    area = (processor.get("size") or {}).get("longest_edge") or processor.get("max_pixels")
    patch, merge = processor.get("patch_size"), processor.get("merge_size")
    if not str(processor.get("image_processor_type", "")).startswith("Qwen2VL") or not (area and patch and merge):
        return None
    return int(area) // (int(patch) * int(merge)) ** 2


def mrope_bytes(config: Mapping[str, Any]) -> int:
    """vLLM's table of rotary positions: four times the longest, cosine and sine, in the weights' type
    (vllm/model_executor/layers/rotary_embedding/mrope.py)."""
    text = config.get("text_config", config)
    return 4 * int(text.get("max_position_embeddings") or 0) * head_size(text) * 2


def tiny_text(**more: Any) -> dict[str, Any]:
    """A language model of two layers for a tiny shape; more: what the family has beside it."""
    return {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "vocab_size": 832,
        "bos_token_id": None,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    } | more


def tiny_rope(**more: Any) -> dict[str, Any]:
    """Rotary positions of the same, with what the family has beside it."""
    return {"rope_type": "default", "rope_theta": 10000.0, **more}


TINY_QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_heads": 4,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 256,
}
TINY_QWEN_PICTURES: dict[str, Any] = {
    "patch_size": 8,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"shortest_edge": 9216, "longest_edge": 9216},
}
TINY_TOWER: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "image_size": 64,
    "patch_size": 8,
}
TINY_PICTURES: dict[str, Any] = {
    "size": {"height": 64, "width": 64},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
