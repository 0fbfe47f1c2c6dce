"""Which kernel serves which scheme on which card, and what it computes in: the table of docs/schemes.md, made from
harness/checkpoints/kernels.py by `python -m reports.schemes`."""

from __future__ import annotations

import argparse

from harness.checkpoints.kernels import TARGETS, computed_as, kernel_for, kernel_short
from harness.checkpoints.schemes import Scheme
from quantize.methods.base import Quantizing
from quantize.recipe import recipe_of
from reports.formats import markdown
from reports.table import Table, frame

RECIPES: dict[str, dict[str, object]] = {
    "awq, gptq, rtn: INT4": {"method": "rtn"},
    "gptq, rtn: INT8 weights": {"method": "gptq", "num_bits": 8},
    "fp8 (dynamic)": {"method": "fp8"},
    "fp8, scales: static": {"method": "fp8", "scales": "static"},
    "fp8, scales: block": {"method": "fp8", "scales": "block"},
    "int8": {"method": "int8"},
    "nvfp4a16": {"method": "nvfp4a16"},
    "nvfp4": {"method": "nvfp4"},
    "mxfp4a16": {"method": "mxfp4a16"},
    "mxfp4": {"method": "mxfp4"},
}
"""A recipe of each scheme that the harness makes, by what the table calls it."""
SIZE = 4096
"""A Linear of so many inputs and outputs is asked for."""


def table() -> Table:
    """A row a scheme, a column a generation of cards."""
    rows = []
    for name, fields in RECIPES.items():
        recipe = recipe_of(fields)
        assert isinstance(recipe, Quantizing)
        rows.append({"method": name, "asks for": recipe.scheme.name} | {t: _cell(t, recipe.scheme) for t in TARGETS})
    return Table("Kernels", frame(rows))


def _cell(target: str, scheme: Scheme) -> str:
    kernel, _ = kernel_for(target, scheme, SIZE, SIZE)
    if kernel is None:
        return "none"
    computed = computed_as(kernel, scheme)
    return kernel_short(kernel) + ("" if computed == scheme.name else f" ({computed})")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(markdown.table(table()))
