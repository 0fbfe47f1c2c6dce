"""The suite: one YAML file that says what is compared, how it is built and what is measured.

Every field is a pydantic field with a one-line docstring; unknown keys are refused with file, line and the nearest key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, ValidationError, create_model, model_validator

from harness.checkpoints.shape import Shape
from harness.engine.settings import EngineSettings
from harness.suite import grids, yaml_faults
from harness.suite.gate_policy import Policy
from harness.util.errors import Fault, Refused, nearest
from harness.util.strict import Name, Strict
from harness.workloads import WORKLOADS, Workload
from quantize.recipe import AnyRecipe, Calibration


class _Workloads(Strict):
    """What is measured; a workload that is not named is not run."""

    def asked(self) -> Iterator[tuple[str, Any]]:
        """The workloads that are asked for, by name, with what is asked of them."""
        for kind in WORKLOADS:
            spec = kind.spec_of(self)
            if spec is not None:
                yield kind.name, spec


def _section(kind: type[Workload]) -> Any:
    """A workload's section as pydantic wants it: type, and default with the description."""
    about = (kind.__doc__ or "").partition("\n")[0]
    return (kind.Spec | None, Field(default=None, description=about))  # type: ignore[operator]


if TYPE_CHECKING:
    Workloads = _Workloads
else:
    Workloads = create_model(
        "Workloads",
        __base__=_Workloads,
        __doc__=_Workloads.__doc__,
        **{kind.name: _section(kind) for kind in WORKLOADS if kind.Spec},
    )


SHAPE_CALIBRATION = {"dataset": "demo", "samples": 16}


class Variant(Strict):
    """One checkpoint under test: the source itself, a recipe's product, a folder that exists, or what a Run measured."""

    recipe: AnyRecipe | None = None
    """How it is built from the source."""
    checkpoint: Path | None = None
    """A checkpoint made elsewhere."""
    run: Path | None = None
    """A Run that measured the variant of this name, perhaps on a larger card: its Records are taken over."""
    repeat: int = Field(default=0, ge=0)
    """Above 0: the same checkpoint measured once more, for the noise floor."""
    engine: dict[str, Any] = {}
    """Engine settings of this variant alone. Arms that differ in them are not compared, but for `settings` below."""
    settings: str | None = Field(default=None, exclude=True)
    """Set for the variants that the suite's `settings` axis makes: which of them this is."""

    @model_validator(mode="after")
    def _one_origin(self) -> Variant:
        given = [key for key in ("recipe", "checkpoint", "run") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"a variant has one of recipe, checkpoint and run, not {' and '.join(given)}")
        if self.run and (self.engine or self.repeat or self.settings):
            raise ValueError("a variant of another run is as it was measured there: no engine, repeat or settings here")
        return self


EXECUTORS = {
    "local": "harness.run.executors.local:Local",
    "ray": "harness.run.executors.ray:Ray",
}
"""Who gives work to devices, by name: the class, imported when a suite asks for it."""
if TYPE_CHECKING:
    ExecutorName = str
else:
    ExecutorName = Literal[tuple(EXECUTORS)]


class Cluster(Strict):
    """What an executor of many machines must know. Nothing here can change what is measured."""

    address: str = "auto"
    """Where Ray's head listens, `host:port`; `auto` is the cluster this machine belongs to, or $RAY_ADDRESS."""
    device: str | None = None
    """Part of the name of the device to measure on, its driver included, where a cluster has several kinds."""
    store: str | None = None
    """An address that every machine reaches by fsspec (`s3://bucket/folder`), where they share no folder."""
    beside: bool = False
    """Speed Cells may share their machine with other work. Needs processor cores to spare for every card."""
    retries: int = Field(default=3, ge=0)
    """How often a piece of work is given to another machine when its own dies."""
    quantize_memory_gib: float | None = Field(default=None, gt=0)
    """Host memory that a build asks for, in GiB; null is three times the source's weights."""


class Suite(Strict):
    """A whole suite file."""

    name: Name
    """Names the Run's folder."""
    model: str | Shape
    """`demo` (the model that ships), a checkpoint folder, a hub id whose files lie under models/, or `{shape: NAME}`."""
    baseline: Name = "bf16"
    """The variant all others are compared with."""
    variants: dict[Name, Variant] = Field(min_length=1)
    """The checkpoints under test, by name, in the order of the tables."""
    calibration: Calibration = Calibration()
    """What the recipes are calibrated on."""
    workloads: Workloads
    """What is measured."""
    engine: EngineSettings = EngineSettings()
    """How the variants are served."""
    executor: ExecutorName = "local"
    """Who gives the work to devices: this process on this machine's own, or a Ray cluster."""
    cluster: Cluster = Cluster()
    """For executors of many machines."""
    gate: Policy | None = None
    """What `gate` asks of a Run of this suite; null takes the defaults."""
    passes: int = Field(default=1, gt=0)
    """How often the variants take turns; the trials are dealt over the passes and every second pass runs backwards (ABBA).
    Each pass starts every engine anew: only what was measured on several starts shows how much starts differ."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("model"), dict):
            data = data | {"calibration": SHAPE_CALIBRATION}
        return grids.expand_settings(grids.expand_grid(data))

    @model_validator(mode="after")
    def _engines_are_settings(self) -> Suite:
        for name in self.variants:
            try:
                self.engine_of(name)
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(p) for p in first["loc"])
                what = (
                    f"unknown key{nearest(key, EngineSettings.model_fields)}"
                    if first["type"] == "extra_forbidden"
                    else first["msg"]
                )
                raise ValueError(f"the engine settings of {name}: {key}: {what}") from None
        return self

    def engine_of(self, variant: str) -> EngineSettings:
        """How one variant is served: the suite's settings with its own over them."""
        own = self.variants[variant].engine
        return EngineSettings.model_validate(self.engine.model_dump() | own) if own else self.engine

    @property
    def in_one_order(self) -> list[str]:
        """The workloads whose questions are asked in one shuffled order over their tasks, see accuracy.order."""
        return [name for name, spec in self.workloads.asked() if getattr(spec, "order", None) == "shuffled"]

    def compared_with(self, variant: str) -> str:
        """The variant that this one is compared with: the baseline, under the same settings."""
        setting = self.variants[variant].settings
        if setting is None:
            return self.baseline
        return f"{self.baseline.removesuffix(f'@{self.variants[self.baseline].settings}')}@{setting}"

    @model_validator(mode="after")
    def _baseline_is_a_variant(self) -> Suite:
        if self.baseline not in self.variants:
            near = nearest(self.baseline, self.variants)
            raise ValueError(f"baseline {self.baseline!r} is not among the variants{near}")
        return self


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read and check a suite file; `overrides` are `key.key=value` with the value in YAML.

    Raises Refused with one fault for each thing that is wrong, each with its line.
    """
    text = yaml_faults.read(path, "suite", "name a suite file, for example suites/vl_accuracy.yaml")
    data, tree = yaml_faults.parsed(text, str(path)), yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(data, dict):
        raise Refused(Fault(str(path), "holds no mapping of keys to values"))
    try:
        Refused.if_any(yaml_faults.duplicate_keys(tree, path))
    except RecursionError:
        raise Refused(Fault(str(path), "holds an anchor that refers to itself")) from None
    for override in overrides:
        _apply(data, override)
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        raise Refused(*(yaml_faults.fault(e, tree, path, Suite) for e in error.errors())) from None


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one `key.key=value` in the raw data."""
    keys, equals, value = override.partition("=")
    if not equals or not keys:
        raise Refused(Fault(f"--set {override}", "is not key=value", "for example --set engine.max_num_seqs=8"))
    *parents, last = keys.split(".")
    place = data
    for key in parents:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise Refused(Fault(f"--set {override}", f"{key!r} is not a section of the suite"))
    place[last] = yaml_faults.parsed(value, f"--set {override}")
