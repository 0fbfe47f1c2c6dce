"""AWQ: scales that protect the channels with large activations, then rounding (Lin et al. 2023, arXiv 2306.00978)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.checkpoints.headers import Linear
from harness.families import Family
from harness.util.errors import Fault
from harness.util.strict import Strict
from quantize.methods.base import MappingFacts, Rounding, Sentence, Workbench, Written


class Smoothing(Strict):
    """One AWQ mapping: the layer whose output channels are divided by the scales, and those that are multiplied."""

    smooth: str
    """Name or "re:" pattern of the layer (a norm or a Linear) that absorbs the inverse scales."""
    balance: Annotated[list[str], Field(min_length=1)]
    """Names or "re:" patterns of the Linears that read that layer's output."""


class Awq(Rounding):
    """Activation-aware scales, then rounding."""

    of_earlier_versions = True
    tag = "awq"

    method: Literal["awq"] = "awq"
    """Activation-aware scales, then rounding."""
    n_grid: Annotated[int, Field(ge=3, le=200)] = 20
    """Points of the search for the scales of each mapping."""
    duo_scaling: bool | Literal["both"] = True
    """Scales from activations and weights (true), from activations alone (false), or half of the search each."""
    mappings: list[Smoothing] | None = None
    """Which layers are smoothed; null: those of the model's family."""

    @model_validator(mode="after")
    def _some_mapping(self) -> Awq:
        if self.mappings == []:
            raise ValueError("method awq needs at least one mapping; method rtn is rounding without mappings")
        return self

    def resolved(self, family: Family) -> Awq:
        whole = super().resolved(family)
        assert isinstance(whole, Awq)
        if whole.mappings is not None:
            return whole
        made = [Smoothing(smooth=mapping.smooth, balance=list(mapping.balance)) for mapping in family.mappings]
        return whole.model_copy(update={"mappings": made})

    @property
    def calibrates(self) -> bool:
        return True

    def search_key(self) -> dict[str, Any]:
        """The observer does not count: llm-compressor searches with min-max always (AWQModifier._compute_best_scale patches
        memoryless_minmax in), so products that differ in it share a search."""
        return self.model_dump(mode="json", exclude={"observer"})

    def faults(
        self, family: Family, known: dict[str, tuple[int, ...]], packed: list[Linear]
    ) -> tuple[list[Fault], list[MappingFacts]]:
        from quantize.mappings import resolve_mappings

        return resolve_mappings(self.mappings or [], family, known, {one.name for one in packed})

    def modifiers(self, offload: bool = False) -> list[Any]:
        import torch
        from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier

        search = AWQModifier(
            mappings=[AWQMapping(one.smooth, list(one.balance)) for one in self.mappings or []],
            duo_scaling=self.duo_scaling,
            n_grid=self.n_grid,
            offload_device=torch.device("cpu") if offload else None,
        )
        return [search, *super().modifiers(offload)]

    def build(self, bench: Workbench, folder: Path) -> Written:
        from quantize import llm_compressor

        with bench.timed("search"):
            smoothed = bench.searched(
                self.search_key(),
                lambda progress: llm_compressor.search(bench.source, self.modifiers(bench.offload), bench.batches, progress),
            )
        return self.rounded(bench, folder, smoothed)

    @classmethod
    def told(cls, recipe: Mapping[str, Any], search: Mapping[str, Any]) -> Iterable[Sentence]:
        sentence = "Observer {observer}; {n_grid} points of the search for each of {mappings} mappings; duo_scaling {duo}."
        filled = {
            "observer": recipe["observer"],
            "n_grid": recipe["n_grid"],
            "mappings": search.get("mappings", len(recipe["mappings"])),
            "duo": str(recipe["duo_scaling"]).lower(),
        }
        return [(sentence, filled)]
