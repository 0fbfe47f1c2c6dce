"""GPTQ: rounding whose errors the weights to come make up for (Frantar et al. 2023, arXiv 2210.17323)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from quantize.methods.base import Rounding, Sentence


class Gptq(Rounding):
    """Rounding column by column, errors made up for."""

    tag = "gptq"

    method: Literal["gptq"] = "gptq"
    """Rounding column by column, errors made up for."""
    num_bits: Literal[4, 8] = 4
    """Bits of a packed weight."""
    observer: str = "memoryless_minmax"
    """llm-compressor's observer that finds a group's range; what the installed release offers is asked of it."""
    dampening: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Added to the Hessian's diagonal, as a share of its mean."""
    block_size: Annotated[int, Field(ge=1)] = 128
    """Columns between two updates of the weights to come."""
    order: Literal["static", "none"] = "static"
    """static: columns with large activations first, stored in their own order; none: from left to right."""

    @property
    def observes_data(self) -> bool:
        return True

    @property
    def changes_weights(self) -> bool:
        return True

    def roundings(self) -> list[Any]:
        from llmcompressor.modifiers.gptq import GPTQModifier

        (rounding,) = super().roundings()
        return [
            GPTQModifier(
                config_groups=rounding.config_groups,
                ignore=rounding.ignore,
                block_size=self.block_size,
                dampening_frac=self.dampening,
                actorder="static" if self.order == "static" else None,
            )
        ]

    @classmethod
    def told(cls, recipe: Mapping[str, Any], search: Mapping[str, Any]) -> Iterable[Sentence]:
        sentence = "Observer {observer}; dampening {dampening}; order of the columns: {order}."
        return [(sentence, {name: recipe[name] for name in ("observer", "dampening", "order")})]
