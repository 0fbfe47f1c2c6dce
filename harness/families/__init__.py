"""Model families, one file each: names, mappings, placeholders, files. Other rooms take `family_of` and `Family`.

A new family is one file with a `Family` (or a subclass where it computes something), and its line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.families.base import Family, Part, Smoothing
from harness.families.qwen3_vl import QWEN3_VL

__all__ = ["FAMILIES", "Family", "Part", "Smoothing", "family_of"]

FAMILIES: list[Family] = [QWEN3_VL]

COMMON = replace(QWEN3_VL, name="unknown", model_types=(), visual=Family.visual, classes=("", ""), shapes={}, pixels={})
"""For a model of no family here: the names that most share. What it guesses wrong is told by the plan's own checks."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint, by its config.json; `COMMON` for one that is not known."""
    kind = config.get("model_type")
    return next((family for family in FAMILIES if kind in family.model_types), COMMON)
