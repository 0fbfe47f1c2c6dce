"""8-bit integers for weights and activations, with SmoothQuant or without (Xiao et al. 2023, arXiv 2211.10438)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.checkpoints.headers import Linear
from harness.checkpoints.schemes import Numbers, Scheme
from harness.families import Family
from harness.util.errors import Fault
from quantize.methods.awq import Smoothing
from quantize.methods.base import MappingFacts, Quantizing, Sentence


class Int8(Quantizing):
    """W8A8: one scale an output channel, activations one a token while serving."""

    tag = "int8"

    method: Literal["int8"] = "int8"
    """W8A8: one scale an output channel, activations one a token while serving."""
    smoothing: Annotated[float, Field(gt=0, lt=1)] | None = None
    """SmoothQuant's strength: how much of the activations' range moves into the weights; null: none."""
    mappings: list[Smoothing] | None = None
    """Which norms are smoothed into which Linears; null: those of the model's family."""

    def resolved(self, family: Family) -> Int8:
        whole = super().resolved(family)
        assert isinstance(whole, Int8)
        if whole.mappings is not None or whole.smoothing is None:
            return whole
        # SmoothQuant moves ranges out of norms; a Linear before another has no range of its own to give away.
        made = [Smoothing(smooth=m.smooth, balance=list(m.balance)) for m in family.mappings if "norm" in m.smooth]
        return whole.model_copy(update={"mappings": made})

    @property
    def scheme(self) -> Scheme:
        return Scheme(
            weights=Numbers(bits=8, per="channel"),
            activations=Numbers(bits=8, per="token", dynamic=True),
            format="int-quantized",
        )

    @property
    def observes_data(self) -> bool:
        return super().observes_data or self.smoothing is not None

    @property
    def changes_weights(self) -> bool:
        return self.smoothing is not None

    def faults(
        self, family: Family, known: dict[str, tuple[int, ...]], packed: list[Linear]
    ) -> tuple[list[Fault], list[MappingFacts]]:
        from quantize.mappings import resolve_mappings

        return resolve_mappings(self.mappings or [], family, known, {one.name for one in packed})

    def roundings(self) -> list[Any]:
        if self.smoothing is None:
            return super().roundings()
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

        pairs = [(list(one.balance), one.smooth) for one in self.mappings or []]
        return [SmoothQuantModifier(smoothing_strength=self.smoothing, mappings=pairs), *super().roundings()]

    @classmethod
    def told(cls, recipe: Mapping[str, Any], search: Mapping[str, Any]) -> Iterable[Sentence]:
        if recipe["smoothing"] is not None:
            yield "SmoothQuant of strength {smoothing}.", {"smoothing": recipe["smoothing"]}
