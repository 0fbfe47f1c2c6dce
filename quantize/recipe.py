"""What to build: recipes, calibration data, one job of several cells, and the events a build reports.

pydantic models only. Imported by the harness in one environment and by the build in the other, so nothing heavier
than pydantic may be imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from harness.util.strict import Strict
from quantize.methods import METHODS
from quantize.methods.base import Recipe


def _method_of(given: Any) -> str:
    """The tag of a recipe's method, in brackets: pydantic puts it into the place of an error, and it is no key of a suite."""
    name = given.get("method", METHODS[0].name()) if isinstance(given, dict) else getattr(given, "method", None)
    return f"[{name}]"


def _known() -> str:
    *names, last = (repr(kind.name()) for kind in METHODS)
    return f"{', '.join(names)} or {last}" if names else last


if TYPE_CHECKING:
    AnyRecipe = Recipe
else:
    AnyRecipe = Annotated[
        Union[tuple(Annotated[kind, Tag(f"[{kind.name()}]")] for kind in METHODS)],  # noqa: UP007  # a union made of a list
        Discriminator(_method_of, custom_error_type="method", custom_error_message=f"its method is none of {_known()}"),
    ]
    """A recipe of whatever method; see quantize/methods."""


def recipe_of(fields: Mapping[str, Any]) -> Recipe:
    """The recipe that these fields describe; raises ValidationError."""
    made: Recipe = TypeAdapter(AnyRecipe).validate_python(dict(fields))
    return made


class Calibration(Strict):
    """Which samples the search sees."""

    dataset: Annotated[str, Field(min_length=1)] = "demo"
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


class Product(Strict):
    """One checkpoint to build."""

    name: Annotated[str, Field(min_length=1)]
    """What events call it."""
    recipe: AnyRecipe = Field(default_factory=METHODS[0])
    """How it is made."""
    output: Path
    """The folder it becomes; must not exist unless the job says force."""


class Job(Strict):
    """What one `python -m quantize JOB.json` builds: a grid of cells from one source."""

    source: Path
    """Folder of the BF16 checkpoint."""
    calibration: Calibration = Field(default_factory=Calibration)
    """Samples shared by all cells."""
    cells: Annotated[list[Product], Field(min_length=1)]
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
