"""Quantization methods, one file each. Other rooms take `METHODS`, and `AnyRecipe` and `recipe_of` of quantize.recipe.

A new method is one file with a subclass of `Recipe` (or `Quantizing`, or `Rounding`), and its line here.
"""

from __future__ import annotations

from quantize.methods.awq import Awq
from quantize.methods.base import Recipe
from quantize.methods.fp4 import MxFp4, MxFp4A16, NvFp4, NvFp4A16
from quantize.methods.fp8 import Fp8
from quantize.methods.gptq import Gptq
from quantize.methods.int8 import Int8
from quantize.methods.noise import Noise
from quantize.methods.rtn import Rtn

__all__ = ["METHODS", "method_of"]

METHODS: list[type[Recipe]] = [Awq, Rtn, Gptq, Fp8, Int8, NvFp4A16, NvFp4, MxFp4A16, MxFp4, Noise]
"""The first is what a recipe without a method is."""


def method_of(name: object) -> type[Recipe] | None:
    """The method called `name`; None for one that is not known."""
    return next((kind for kind in METHODS if kind.name() == name), None)
