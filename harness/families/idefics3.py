"""Idefics3 and SmolVLM: SigLIP's vision tower, one Linear over shuffled pixels as the connector, a Llama decoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.families.base import Family, Named, Processors, Sizes, Smoothing
from harness.families.parts import SMOOTHED, TINY_PICTURES, TINY_TOWER, decoder, output_head, siglip, tiny_text

INSIDE = "re:.*text_model.*"


def _here(pattern: str) -> str:
    return pattern.replace("language_model", "text_model")


TINY: dict[str, Any] = {
    "text_config": tiny_text(model_type="llama"),
    "vision_config": dict(TINY_TOWER),
    "scale_factor": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


class Idefics3(Family):
    """HuggingFaceM4/Idefics3-8B-Llama3, HuggingFaceTB/SmolVLM*."""

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """Of Idefics3ForConditionalGeneration and SmolVLM's (transformers' modeling_idefics3.py, modeling_smolvlm.py)."""
        yield from decoder(text, "model.text_model")
        yield from output_head(config, text)
        yield from siglip(vision, "model.vision_model")
        inputs = vision["hidden_size"] * config["scale_factor"] ** 2
        yield "model.connector.modality_projection.proj.weight", (text["hidden_size"], inputs)


IDEFICS3 = Idefics3(
    name="idefics3",
    model_types=("idefics3", "smolvlm"),
    ignore=("re:.*vision_model.*", "re:.*connector.*", "lm_head", "re:.*embed_tokens$"),
    mappings=tuple(Smoothing(_here(one.smooth), tuple(map(_here, one.balance))) for one in SMOOTHED),
    scope=INSIDE,
    image_tokens=("<image>", "<fake_token_around_image>", "<global-img>"),
    classes=("Idefics3Config", "Idefics3ForConditionalGeneration"),
    processors=Processors(
        "Idefics3Processor",
        "Idefics3ImageProcessor",
        picture="<image>",
        tokens=("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
        ids={"image_token_id": "<image>"},
    ),
    shapes={
        "idefics3_tiny": Sizes(
            TINY,
            TINY_PICTURES | {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 64}, "do_image_splitting": False},
            {"image_seq_len": 16},
            tiny=True,
        )
    },
)
