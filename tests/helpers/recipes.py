"""Recipes as a suite gives them, for the family of the fixtures."""

from __future__ import annotations

from typing import Any

from harness.families import FAMILIES
from quantize.methods.base import Recipe
from quantize.recipe import recipe_of


def recipe(**fields: Any) -> Any:
    """The recipe of these fields, with what Qwen3-VL adds to it."""
    made: Recipe = recipe_of(fields)
    return made.resolved(FAMILIES[0])
