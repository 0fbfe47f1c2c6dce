"""What a model family is: everything about its names, tokens and files that the harness must not guess."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Part = Literal["language", "visual", "lm_head", "embeddings"]
"""Where a layer sits. `language` is the decoder layers (and whatever else is none of the others)."""


@dataclass(frozen=True)
class Smoothing:
    """An AWQ mapping as a family has it: names or "re:" patterns of modules, see quantize.recipe.Mapping."""

    smooth: str
    balance: tuple[str, ...]


Named = tuple[str, tuple[int, ...]]
"""A tensor's name and its shape."""


@dataclass(frozen=True)
class Sizes:
    """One model of a family, by what its files say beyond the defaults."""

    config: Mapping[str, Any]
    """config.json."""
    pictures: Mapping[str, Any]
    """The image processor's settings."""
    processor: Mapping[str, Any] = field(default_factory=dict)
    """The processor's own settings."""
    tiny: bool = False
    """Two layers and the demo's vocabulary: to try a family, not for its figures."""


@dataclass(frozen=True)
class Processors:
    """What makes the processor files of a family, by transformers' names."""

    processor: str
    image: str
    video: str = ""
    """Empty where it takes no videos."""
    picture: str = "<|vision_start|><|image_pad|><|vision_end|>"
    """What the chat template writes for a picture."""
    tokens: tuple[str, ...] = ()
    """Special tokens beyond Qwen's."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Those of them that the processor asks the tokenizer for, by the tokenizer's attribute."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json that hold a token's number, with the token."""


@dataclass(frozen=True)
class Family:
    """One family. The defaults are names that most families share; a family of its own says what differs."""

    name: str
    model_types: tuple[str, ...] = ()
    """`model_type` of config.json."""
    known: bool = True
    """False for the stand-in of models of no family here."""

    # -- names of modules ----------------------------------------------------------------------------------------------
    stored: tuple[tuple[str, str], ...] = ()
    """How a tensor's name on disk becomes its name in the loaded model: regular expressions that match from the start and
    what takes the place of the match (as in re.sub). The first that matches counts; a name that none matches stays."""
    visual: str = r"(^|\.)(visual|vision_tower|vision_model|multi_modal_projector|connector|image_newline)(\.|$)"
    """The vision tower and the projector: a regular expression that is searched for in a module's name."""
    lm_head: str = r"(^|\.)lm_head$"
    """The output head."""
    embeddings: str = r"(^|\.)(embed_tokens|wte|word_embeddings)$"
    """The table of token embeddings."""
    looked_up: str = r"(embed_tokens|wte|word_embeddings|pos_embed|position_embedding|embed_positions)$"
    """Tables that are looked up, never multiplied: their weight has a Linear's shape all the same."""
    decoder_layer: str = r".*?\.layers\.\d+(?=\.|$)"
    """A decoder layer: what matches from the start of a module's name is the layer it lies in."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the language model's config has where config.json, as it is published, says nothing."""

    # -- quantizing ----------------------------------------------------------------------------------------------------
    ignore: tuple[str, ...] = ("re:.*visual.*", "lm_head", "re:.*embed_tokens$")
    """Kept in high precision by default, as patterns of module names."""
    mappings: tuple[Smoothing, ...] = ()
    """AWQ's mappings by default. Always explicit: those that llm-compressor infers fail in most families."""
    scope: str = "re:.*language_model.*"
    """A pattern that keeps a mapping inside the language model, for proposals."""
    fused: tuple[tuple[str, ...], ...] = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
    """Linears that vLLM joins along their outputs before it asks for a kernel."""
    unbuilt: str = ""
    """Why no variant of it is built, in words that follow "cannot be quantized here: "; empty where they are."""

    # -- asking --------------------------------------------------------------------------------------------------------
    image_tokens: tuple[str, ...] = ()
    """Texts that stand for pictures; none may be part of a question."""
    smallest_side: int = 1
    """Pixels: pictures with a shorter side are refused or distorted by the processor."""
    most_elongated: float | None = None
    """The largest ratio of a picture's sides that the processor takes; None where it takes any."""

    published: tuple[tuple[str, str], ...] = ()
    """Where transformers' save_pretrained has other names than published checkpoints, which servers know: as in `stored`."""
    turned: str = ""
    """Names, as a regular expression, of tensors whose last two dimensions published checkpoints have the other way round."""

    # -- checkpoints of random weights ---------------------------------------------------------------------------------
    classes: tuple[str, str] = ("", "")
    """transformers' classes of its config and its model."""
    processors: Processors | None = None
    """What makes its processor files."""
    shapes: Mapping[str, Sizes] = field(default_factory=dict)
    """Models by the name that `model: {shape: NAME}` calls them."""

    def module_of(self, stored: str) -> str:
        """The name in the loaded model of a tensor (or a module) on disk."""
        return _renamed(stored, self.stored)

    def published_as(self, saved: str) -> str:
        """The name in published checkpoints of a tensor that transformers' save_pretrained calls `saved`."""
        return _renamed(saved, self.published)

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
        """Every tensor of an unquantized checkpoint of this config, by its name in the loaded model, with its shape; None
        where the family does not know them, or the config lacks what they follow from."""
        try:
            return dict(self.tensors(config, self.text_of(config), config["vision_config"]))
        except (KeyError, TypeError, AttributeError, ValueError, NotImplementedError):
            return None

    def tensors(self, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterable[Named]:
        """What `parameters` gives, one after another. Raises KeyError and its like where a config lacks something."""
        raise NotImplementedError

    def text_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The language model's part of config.json, with the family's defaults for what it does not say."""
        inner = config.get("text_config")
        text = inner if isinstance(inner, Mapping) else config
        return {**self.defaults, **{key: value for key, value in text.items() if value is not None}}

    def attended(self, text: Mapping[str, Any], context: float) -> float:
        """Tokens that one request's next token attends to, over all decoder layers, after `context` tokens. text: see
        text_of."""
        return float(text["num_hidden_layers"] * context)

    def buffer_bytes(self, config: Mapping[str, Any], batched_tokens: int) -> int:
        """Bytes that vLLM counts to the weights beside the checkpoint's tensors. batched_tokens: max_num_batched_tokens."""
        return 0


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """By the first rule whose pattern matches from the start."""
    for pattern, put in rules:
        if re.match(pattern, name):
            return re.sub(pattern, put, name, count=1)
    return name
