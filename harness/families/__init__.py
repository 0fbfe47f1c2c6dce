"""Model families, one file each: names, mappings, placeholders, files. Other rooms take `family_of` and `Family`.

A new family is one file with a `Family` (or a subclass where it computes something), and its line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.families.base import Family, Part, Sizes, Smoothing
from harness.families.gemma3 import GEMMA3
from harness.families.glm4v import GLM4V
from harness.families.idefics3 import IDEFICS3
from harness.families.internvl import INTERNVL
from harness.families.llava_onevision import LLAVA_ONEVISION
from harness.families.mistral3 import MISTRAL3
from harness.families.parts import SMOOTHED
from harness.families.qwen2_5_vl import QWEN2_5_VL
from harness.families.qwen2_vl import QWEN2_VL
from harness.families.qwen3_5 import QWEN3_5
from harness.families.qwen3_vl import QWEN3_VL
from harness.families.qwen3_vl_moe import QWEN3_VL_MOE

__all__ = ["FAMILIES", "Family", "Part", "Sizes", "Smoothing", "family_of"]

FAMILIES: list[Family] = [
    QWEN3_VL,
    QWEN2_5_VL,
    QWEN2_VL,
    QWEN3_VL_MOE,
    QWEN3_5,
    INTERNVL,
    MISTRAL3,
    LLAVA_ONEVISION,
    GEMMA3,
    IDEFICS3,
    GLM4V,
]

COMMON = Family(
    name="unknown",
    known=False,
    mappings=SMOOTHED,
    image_tokens=QWEN3_VL.image_tokens,
    unbuilt="no file in harness/families/ says how its layers are called, which of them stay as they are and what AWQ smooths "
    "(docs/extend.md, A model family)",
)
"""For a model of no family here: the names that most share, to read and to serve a checkpoint that was made elsewhere."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint, by its config.json; `COMMON` for one that is not known."""
    kind = config.get("model_type")
    return next((family for family in FAMILIES if kind in family.model_types), COMMON)
