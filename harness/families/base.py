"""What a model family is: everything about its names, tokens and files that the harness must not guess."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Part = Literal["language", "visual", "lm_head", "embeddings"]
"""Where a layer sits. `language` is the decoder layers (and whatever else is none of the others)."""


@dataclass(frozen=True)
class Smoothing:
    """An AWQ mapping as a family has it: names or "re:" patterns of modules, see quantize.recipe.Mapping."""

    smooth: str
    balance: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One family. The defaults are names that most families share; a family of its own says what differs."""

    name: str
    model_types: tuple[str, ...] = ()
    """`model_type` of config.json."""

    # -- names of modules, as the checkpoint's tensors have them -------------------------------------------------------
    visual: str = r"(^|\.)(visual|vision_tower|vision_model|multi_modal_projector)(\.|$)"
    """The vision tower and the projector: a regular expression that is searched for in a module's name."""
    lm_head: str = r"(^|\.)lm_head$"
    """The output head."""
    embeddings: str = r"(^|\.)(embed_tokens|wte|word_embeddings)$"
    """The table of token embeddings."""
    looked_up: str = r"(embed_tokens|wte|word_embeddings|pos_embed|position_embedding|embed_positions)$"
    """Tables that are looked up, never multiplied: their weight has a Linear's shape all the same."""
    decoder_layer: str = r".*?\.layers\.\d+(?=\.|$)"
    """A decoder layer: what matches from the start of a module's name is the layer it lies in."""

    # -- quantizing ----------------------------------------------------------------------------------------------------
    ignore: tuple[str, ...] = ("re:.*visual.*", "lm_head", "re:.*embed_tokens$")
    """Kept in high precision by default, as patterns of module names."""
    mappings: tuple[Smoothing, ...] = ()
    """AWQ's mappings by default. Always explicit: those that llm-compressor infers fail in most families."""
    scope: str = "re:.*language_model.*"
    """A pattern that keeps a mapping inside the language model, for proposals."""
    fused: tuple[tuple[str, ...], ...] = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
    """Linears that vLLM joins along their outputs before it asks for a kernel."""

    # -- asking --------------------------------------------------------------------------------------------------------
    image_tokens: tuple[str, ...] = ()
    """Texts that stand for pictures; none may be part of a question."""
    smallest_side: int = 1
    """Pixels: pictures with a shorter side are refused or distorted by the processor."""
    most_elongated: float | None = None
    """The largest ratio of a picture's sides that the processor takes; None where it takes any."""

    # -- checkpoints of random weights ---------------------------------------------------------------------------------
    classes: tuple[str, str] = ("", "")
    """transformers' classes of its config and its model."""
    shapes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Real models by the name that `model: {shape: NAME}` calls them: what their config.json says beyond the defaults."""
    pixels: Mapping[str, int] = field(default_factory=dict)
    """Fewest and most pixels of a picture, as the real models' processor has them."""

    def part_of(self, module: str) -> Part:
        """The part that a module belongs to, told from its name."""
        if re.search(self.visual, module):
            return "visual"
        if re.search(self.lm_head, module):
            return "lm_head"
        return "embeddings" if re.search(self.embeddings, module) else "language"

    def is_looked_up(self, module: str) -> bool:
        """See `looked_up`."""
        return re.search(self.looked_up, module) is not None

    def layer_of(self, module: str) -> str:
        """The decoder layer that a module lies in, or nothing."""
        match = re.match(self.decoder_layer, module)
        return match.group(0) if match else ""

    def size_fault(self, width: int, height: int) -> str | None:
        """Why the processor does not take a picture of so many pixels, or distorts it; None when it does take it."""
        if min(width, height) < self.smallest_side:
            return f"an image is {width}x{height} pixels, sides below {self.smallest_side} are not taken"
        if self.most_elongated is not None and max(width, height) > self.most_elongated * min(width, height):
            return (
                f"an image is {width}x{height} pixels, a side of more than {self.most_elongated:g} times the other is not taken"
            )
        return None

    def most_picture_tokens(self, processor: Mapping[str, Any]) -> int | None:
        """The most tokens that one picture takes, from the image processor's settings; None where they do not tell."""
        return None

    def parameters(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
        """Every tensor of an unquantized checkpoint of this config, by its name on disk, with its shape; None where the
        family does not know them, or the config lacks what they follow from."""
        return None

    def buffer_bytes(self, config: Mapping[str, Any], batched_tokens: int) -> int:
        """Bytes that vLLM counts to the weights beside the checkpoint's tensors. batched_tokens: max_num_batched_tokens."""
        return 0
