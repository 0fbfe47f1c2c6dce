"""What a quantization method is: its part of the recipe, what it needs, its build, and its words for tables and cards.

Imported by the harness in one environment and by the build in the other, so nothing heavier than pydantic may be imported
at the top of a method's file; its build imports llm-compressor when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field, model_validator

from harness.checkpoints.headers import Linear
from harness.checkpoints.schemes import Numbers, Scheme
from harness.families import Family
from harness.util.errors import Fault
from harness.util.strict import Strict

EARLIER: dict[str, Any] = {
    "num_bits": 4,
    "group_size": 128,
    "observer": "mse",
    "symmetric": True,
    "n_grid": 20,
    "duo_scaling": True,
    "noise_std": None,
    "seed": 0,
}
"""Fields that recipes of every method had before methods had files of their own, with their defaults."""
Sentence = tuple[str, dict[str, Any]]
"""A sentence of a model card as the code writes it (reports/card), and what fills it in."""


class MappingFacts(Strict):
    """What one AWQ mapping resolves to."""

    smooth: str
    """The mapping's smooth pattern."""
    resolved: int
    """Layers that are searched."""
    skipped: int
    """Layers that match but cannot be searched."""
    reason: str = ""
    """Why those are skipped (the first's reason)."""


class Workbench(Protocol):
    """What a job gives to the method that builds one product."""

    source: Any
    """The loaded source (llm_compressor.LoadedModel); None where the method loads none."""
    source_path: Path
    batches: list[dict[str, Any]]
    """Calibration samples, as the model takes them."""
    offload: bool
    """Keep cached activations in host memory."""

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Adds the block's time to a stage of the manifest."""

    def progress(self, done: int, of: int) -> None:
        """Tell how many of the decoder layers are done."""

    def searched(self, key: Mapping[str, Any], search: Callable[[Callable[[int, int], None]], Any]) -> Any:
        """What `search` gives, done once for all products with this key. It is called with (layers done, layers in all)."""


Written = tuple[dict[str, Any], Callable[[], None]]
"""What the search said, for the manifest, and what is left to do to have the checkpoint's files in the folder."""


class Recipe(Strict):
    """How one variant is made from the source checkpoint."""

    # What a method is. A field named `method` of a Literal type with its name as the default comes first in a subclass.
    needs_model: ClassVar[bool] = True
    """Whether building it loads the source into llm-compressor."""
    of_earlier_versions: ClassVar[bool] = False
    """Whether its recipes were once written with the fields of all methods; see EARLIER."""
    tag: ClassVar[str | None] = None
    """Its tag in the front matter of a model card."""

    method: str
    """How: see quantize/methods."""
    ignore: list[str] | None = None
    """Names or "re:" patterns of modules that stay in high precision; null: those of the model's family."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, data: Any) -> Any:
        """Fields of other methods: dropped at their defaults, as earlier versions wrote them down, else refused."""
        if not isinstance(data, dict):
            return data
        from quantize.methods import METHODS

        own = cls.model_fields
        for name in [name for name in data if name not in own]:
            owners = [kind.name() for kind in METHODS if name in kind.model_fields]
            default = cls.of_earlier_versions and (name == "mappings" or (name in EARLIER and data[name] == EARLIER[name]))
            if owners and not default:
                raise ValueError(f"{name} belongs to method {' or '.join(owners)}, not to {cls.name()}")
            if default:
                data = {key: value for key, value in data.items() if key != name}
        return data

    @classmethod
    def name(cls) -> str:
        """What recipes call the method."""
        return str(cls.model_fields["method"].default)

    def resolved(self, family: Family) -> Recipe:
        """With the family's defaults where the recipe leaves something to it."""
        return self if self.ignore is not None else self.model_copy(update={"ignore": list(family.ignore)})

    @property
    def ignored(self) -> list[str]:
        """`ignore` of a recipe that is resolved."""
        assert self.ignore is not None, "a recipe is resolved before it is used"
        return self.ignore

    def identity(self, family: Family) -> dict[str, Any]:
        """What decides what is built, as earlier versions had it: a product that is there keeps its folder."""
        if not self.of_earlier_versions:
            return self.model_dump(mode="json")
        mappings = [{"smooth": mapping.smooth, "balance": list(mapping.balance)} for mapping in family.mappings]
        return EARLIER | {"mappings": mappings} | self.model_dump(mode="json")

    @property
    def calibrates(self) -> bool:
        """Whether building it reads calibration samples."""
        return False

    def search_key(self) -> dict[str, Any] | None:
        """What decides its search; products with equal keys share one. None: it searches nothing."""
        return None

    def faults(
        self, family: Family, known: dict[str, tuple[int, ...]], packed: list[Linear]
    ) -> tuple[list[Fault], list[MappingFacts]]:
        """What is wrong with it on a source, beyond patterns, shapes and kernels. known: shapes by module name."""
        return [], []

    def build(self, bench: Workbench, folder: Path) -> Written:
        """Build the product in `folder`. Raises CellFailed."""
        raise NotImplementedError

    @classmethod
    def told(cls, recipe: Mapping[str, Any], search: Mapping[str, Any]) -> Iterable[Sentence]:
        """What a model card says of it. recipe, search: as the manifest has them."""
        return []


class Quantizing(Recipe):
    """What all methods share whose product has quantized Linears."""

    observer: str = "memoryless_minmax"
    """llm-compressor's observer that finds a weight's range; what the installed release offers is asked of it."""

    @property
    def scheme(self) -> Scheme:
        """What its Linears become."""
        raise NotImplementedError

    @property
    def where(self) -> str:
        """How a refusal calls the part of the recipe that decides shapes and kernels."""
        return f"method {self.name()}"

    @property
    def calibrates(self) -> bool:
        return self.observes_data

    @property
    def observes_data(self) -> bool:
        """Whether rounding looks at activations."""
        return "imatrix" in self.observer

    @property
    def changes_weights(self) -> bool:
        """Whether `roundings` change weights beyond rounding them, so that they work on a copy."""
        return False

    def roundings(self) -> list[Any]:
        """llm-compressor's modifiers that round, and what must be done in the same pass."""
        from quantize import llm_compressor

        return [llm_compressor.quantization_modifier(self)]

    def modifiers(self, offload: bool = False) -> list[Any]:
        """llm-compressor's modifiers that make it, the rounding last. offload: see Workbench."""
        return self.roundings()

    def build(self, bench: Workbench, folder: Path) -> Written:
        return self.rounded(bench, folder)

    def rounded(self, bench: Workbench, folder: Path, smoothed: Any = None) -> Written:
        """Round, pack and lay out. smoothed: what a search left, see llm_compressor.Smoothed."""
        from functools import partial

        from harness.util.errors import CellFailed
        from quantize import llm_compressor, pack

        with bench.timed("round"):
            quantized = llm_compressor.round_weights(bench.source, self, smoothed, bench.batches, bench.progress)
        with bench.timed("pack"):
            pack.pack(quantized)
        with bench.timed("lay_out"):
            shards = pack.lay_out(bench.source, self, quantized, folder)
        saved = pack.observer_in(folder)
        if saved != self.observer:
            raise CellFailed(f"observer {self.observer} was asked, the saved config says {saved}")
        return quantized.search, partial(pack.write, shards)

    @classmethod
    def told(cls, recipe: Mapping[str, Any], search: Mapping[str, Any]) -> Iterable[Sentence]:
        return [("Observer {observer}.", {"observer": recipe["observer"]})]


class Rounding(Quantizing):
    """What all methods share that round weights to integers which share a scale."""

    num_bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Bits of a packed weight."""
    group_size: int = 128
    """Weights along in_features that share a scale; -1: one scale an output channel."""
    observer: str = "mse"
    """llm-compressor's observer that finds a group's range; what the installed release offers is asked of it."""
    symmetric: bool = True
    """True: no zero points."""

    @model_validator(mode="after")
    def _group_size(self) -> Rounding:
        if self.group_size != -1 and self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} is neither positive nor -1 (one scale an output channel)")
        return self

    @property
    def scheme(self) -> Scheme:
        per: dict[str, Any] = {"per": "channel"} if self.group_size == -1 else {"per": "group", "group_size": self.group_size}
        return Scheme(weights=Numbers(bits=self.num_bits, symmetric=self.symmetric, **per), format="pack-quantized")

    @property
    def where(self) -> str:
        return f"group_size {self.group_size}, {self.num_bits} bit" + ("" if self.symmetric else ", asymmetric")
