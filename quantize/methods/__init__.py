"""Quantization methods, one file each. Other rooms take `METHODS`, and `AnyRecipe` and `recipe_of` of quantize.recipe.

A new method is one file with a subclass of `Recipe` (or `Rounding`), and its line here.
"""

from __future__ import annotations

from quantize.methods.awq import Awq
from quantize.methods.base import Recipe
from quantize.methods.noise import Noise
from quantize.methods.rtn import Rtn

__all__ = ["METHODS", "method_of"]

METHODS: list[type[Recipe]] = [Awq, Rtn, Noise]
"""The first is what a recipe without a method is."""


def method_of(name: object) -> type[Recipe] | None:
    """The method called `name`; None for one that is not known."""
    return next((kind for kind in METHODS if kind.name() == name), None)
