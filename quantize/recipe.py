"""What to build: recipes, calibration data, one job of several cells, and the events a build reports.

pydantic models only. Imported by the harness in one environment and by the build in the other, so nothing heavier
than pydantic may be imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.util.strict import Strict

IGNORE = ("re:.*visual.*", "lm_head", "re:.*embed_tokens$")
"""Kept in high precision by default: the vision tower, the output head, the embeddings."""


class Mapping(Strict):
    """One AWQ mapping: the layer whose output channels are divided by the scales, and those that are multiplied."""

    smooth: str
    """Name or "re:" pattern of the layer (a norm or a Linear) that absorbs the inverse scales."""
    balance: Annotated[list[str], Field(min_length=1)]
    """Names or "re:" patterns of the Linears that read that layer's output."""


def default_mappings() -> list[Mapping]:
    """The three mappings of a Qwen-style decoder layer, scoped to the language model.

    v_proj to o_proj is left out: under grouped-query attention their sizes differ and AWQ cannot map them.
    """
    inside = "re:.*language_model.*"
    return [
        Mapping(smooth=inside + r"input_layernorm$", balance=[inside + n for n in ("q_proj$", "k_proj$", "v_proj$")]),
        Mapping(smooth=inside + r"post_attention_layernorm$", balance=[inside + n for n in ("gate_proj$", "up_proj$")]),
        Mapping(smooth=inside + r"up_proj$", balance=[inside + r"down_proj$"]),
    ]


class Recipe(Strict):
    """How one variant is made from the source checkpoint."""

    method: Literal["awq", "rtn", "noise"] = "awq"
    """awq: activation-aware scales, then rounding; rtn: rounding alone; noise: BF16 with noise, a positive control."""
    num_bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Bits of a packed weight."""
    group_size: int = 128
    """Weights along in_features that share a scale; -1: one scale an output channel."""
    observer: str = "mse"
    """llm-compressor's observer that finds a group's range; what the installed release offers is asked of it."""
    symmetric: bool = True
    """True: no zero points."""
    n_grid: Annotated[int, Field(ge=3, le=200)] = 20
    """Points of AWQ's search for the scales of each mapping."""
    duo_scaling: bool | Literal["both"] = True
    """Scales from activations and weights (true), from activations alone (false), or half of the search each."""
    ignore: list[str] = Field(default_factory=lambda: list(IGNORE))
    """Names or "re:" patterns of modules that stay in high precision."""
    mappings: list[Mapping] = Field(default_factory=default_mappings)
    """AWQ's mappings."""
    noise_std: Annotated[float, Field(gt=0, le=10)] | None = None
    """Standard deviation of the noise as a share of each weight matrix's own; only for method noise."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise."""

    @model_validator(mode="after")
    def _fields_fit_the_method(self) -> Recipe:
        if self.group_size != -1 and self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} is neither positive nor -1 (one scale an output channel)")
        if self.method == "noise" and self.noise_std is None:
            raise ValueError("method noise needs noise_std, for example 0.1")
        if self.method != "noise" and self.noise_std is not None:
            raise ValueError(f"noise_std belongs to method noise, not to {self.method}")
        if self.method == "awq" and not self.mappings:
            raise ValueError("method awq needs at least one mapping; method rtn is rounding without mappings")
        return self

    @property
    def calibrates(self) -> bool:
        """Whether building it reads calibration samples."""
        return self.method == "awq" or (self.method == "rtn" and "imatrix" in self.observer)

    def search_key(self) -> dict[str, Any]:
        """What decides AWQ's scales. The observer does not: llm-compressor searches with min-max always
        (AWQModifier._compute_best_scale patches memoryless_minmax in), so cells that differ in it share a search."""
        return self.model_dump(mode="json", exclude={"observer", "noise_std", "seed"})


class Calibration(Strict):
    """Which samples the search sees."""

    dataset: str = "demo"
    """"demo", a folder or a .jsonl or .parquet file, or a hub data set such as neuralmagic/calibration, which lies in data/."""
    subset: str | None = None
    """The data set's configuration, such as LLM or VLM: on disk the subfolder of that name."""
    split: str | None = None
    """Its split (default: train): on disk the files whose names begin with it, where there are any; the demo has one."""
    samples: Annotated[int, Field(ge=1)] = 128
    """Samples to use."""
    max_seq_length: Annotated[int, Field(ge=8)] = 2048
    """Longest sample in tokens, images included; a longer one is dropped whole."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice and the order."""
    images: bool = True
    """False leaves the samples' images out: text-only calibration."""


class Cell(Strict):
    """One checkpoint to build."""

    name: Annotated[str, Field(min_length=1)]
    """What events call it."""
    recipe: Recipe = Field(default_factory=Recipe)
    """How it is made."""
    output: Path
    """The folder it becomes; must not exist unless the job says force."""


class Job(Strict):
    """What one `python -m quantize JOB.json` builds: a grid of cells from one source."""

    source: Path
    """Folder of the BF16 checkpoint."""
    calibration: Calibration = Field(default_factory=Calibration)
    """Samples shared by all cells."""
    cells: Annotated[list[Cell], Field(min_length=1)]
    """Built in the order given, except that cells which share a search are built together."""
    force: bool = False
    """Replace outputs that exist."""
    offload: bool = False
    """Keep the search's cached activations in host memory, for a card too small to hold them."""

    @model_validator(mode="after")
    def _cells_are_apart(self) -> Job:
        for what in ("name", "output"):
            values = [str(getattr(cell, what)) for cell in self.cells]
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"two cells have the {what} {twice[0]}")
        return self


class Event(Strict):
    """One JSON line on a build's standard output."""

    kind: Literal["progress", "cell_done", "cell_failed", "warning"]
    """What happened."""
    message: str
    """One line for people."""
    cell: str | None = None
    """The cell it is about; null when about the whole job."""
    step: int | None = None
    """Steps done of the present stage (decoder layers, samples), with `steps`."""
    steps: int | None = None
    """Steps of the present stage."""
    seconds: float | None = None
    """Since the job started, in seconds."""
    output: Path | None = None
    """cell_done: the finished checkpoint."""
