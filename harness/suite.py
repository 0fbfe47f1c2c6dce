"""The suite: one YAML file that says what is compared, how it is built and what is measured.

Every field is a pydantic field with a one-line docstring; unknown keys are refused with file, line and the nearest key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness import axes, yaml_faults
from harness.axes import nearest
from harness.errors import Fault, Refused
from harness.policy import Policy
from quantize.recipe import Calibration, Recipe

LONGEST_NAME = 160
"""Bytes: a file's name may have 255, and a setting, a hash and an ending follow."""


def _safe_name(name: str) -> str:
    if not name or name.startswith(".") or any(c in '/\\"' or not c.isprintable() for c in name) or name != name.strip():
        raise ValueError("a name is used for files: no slash, quote, tab, line break or leading dot")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"a name is used for files: {LONGEST_NAME} bytes at most, this one has {len(name.encode())}")
    return name


Name = Annotated[str, AfterValidator(_safe_name)]


class Strict(BaseModel):
    """Refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class EngineSettings(Strict):
    """How vLLM serves every variant of the suite; both arms get the same."""

    dtype: Literal["bfloat16", "float16", "float32", "auto"] = "bfloat16"
    """Type of the activations and of the weights that are not packed."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Longest prompt plus answer in tokens; null takes the model's own limit."""
    max_num_seqs: int = Field(default=32, gt=0)
    """Requests the engine runs at once."""
    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    """Tokens the engine runs in one step; null takes vLLM's choice."""
    images_per_prompt: int = Field(default=1, ge=0)
    """Images allowed in one request. A document with more is refused before the engine starts."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that vLLM may fill. Not used on a CPU."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """KV cache in GiB, the same for every variant; null lets vLLM fill what is left (on a CPU: 1 GiB)."""
    enforce_eager: bool | None = None
    """No compilation and no graphs; null is true on a CPU, false on a GPU."""
    tensor_parallel_size: int = Field(default=1, gt=0)
    """GPUs that share one engine."""
    cpu_offload_gb: float = Field(default=0, ge=0)
    """GiB of weights kept in host memory, for cards that are too small. Makes speed meaningless."""
    seed: int = 0
    """vLLM's seed."""
    start_timeout_s: float = Field(default=900, gt=0)
    """How long a start may take, in seconds."""
    port: int | None = Field(default=None, gt=0, lt=65536)
    """Port on the loopback address; null takes a free one."""
    extra_args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, as they are."""
    env: dict[str, str] = {}
    """Environment variables of the engine's processes."""

    def outcome_fields(self) -> dict[str, Any]:
        """The fields that can change what is measured: all but where it listens and how long it may start."""
        return self.model_dump(mode="json", exclude={"start_timeout_s", "port"})


class AccuracySpec(Strict):
    """Image questions asked through lm-eval."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """lm-eval task or group names: the ones that ship (demo_vl), lm-eval's own, or those in include_path."""
    include_path: Path | None = None
    """A folder with further lm-eval task files."""
    datasets: dict[str, Path] = {}
    """Local copies that stand in for data sets of the hub: `MMMU/MMMU: data/MMMU/MMMU`, parquet in the hub's layout."""
    bad_documents: Literal["fail", "score_zero"] = "fail"
    """What becomes of documents that cannot be asked: the run is refused, or they count as wrong in every arm alike."""
    divergence: int = Field(default=0, ge=0)
    """On so many questions, how far each variant's token probabilities are from the baseline's; 0 leaves it out."""
    limit: int | None = Field(default=None, gt=0)
    """Only the first so many documents of each task."""
    concurrency: int = Field(default=32, gt=0)
    """Requests in flight at once."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest answer in tokens; null takes the task's own limit."""
    apply_chat_template: bool = True
    """Ask through the model's chat template. Image tasks need it: the template places the image tokens."""
    num_fewshot: int = Field(default=0, ge=0)
    """Examples before the question. Image tasks take none: lm-eval drops the examples' images."""


class Sampling(Strict):
    """How tokens are drawn, as vLLM names it."""

    temperature: float = Field(default=0.7, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the likeliest tokens that together come to this probability."""
    top_k: int = Field(default=0, ge=0)
    """Only so many likeliest tokens; 0: all."""


class Traffic(Strict):
    """What the requests of a speed or memory Cell look like; every prompt and every picture is made anew from the seed."""

    images: int = Field(default=1, ge=0)
    """Pictures in a request; 0 is text only."""
    image_size: tuple[int, int] = (512, 512)
    """Width and height of a picture in pixels."""
    input_len: int = Field(default=64, gt=0)
    """Text tokens of a prompt, without the pictures'."""
    output_len: int = Field(default=128, gt=1)
    """Tokens of every answer: the end token is ignored, so that all answers are alike."""
    sampling: Sampling | None = None
    """Draw tokens instead of taking the likeliest, to see what that costs."""


class LoadSpec(Strict):
    """Requests sent by `vllm bench serve`, each trial a Cell of its own."""

    loads: dict[Name, Traffic] = Field(min_length=1)
    """The kinds of traffic, by name."""
    concurrency: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Closed loop: so many requests in flight, one point each."""
    request_rates: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Open loop: requests arrive at so many a second on average (Poisson), one point each."""
    requests: int = Field(default=32, gt=0)
    """Requests of a trial; never fewer than twice the concurrency."""
    trials: int = Field(default=3, gt=0)
    """How often a point is measured. Fewer than 3 give no interval worth printing."""
    percentiles: tuple[Annotated[int, Field(gt=0, lt=100)], ...] = (50, 90, 99)
    """Percentiles of the latencies; one needs at least 100 / (100 - P) requests behind it."""
    goodput: dict[Literal["ttft", "tpot", "e2el"], Annotated[float, Field(gt=0)]] = {}
    """The objective in milliseconds that a request must meet to count in `request_goodput`."""
    seed: int = 0
    """Of the prompts, pictures and arrivals; each trial adds its number, so no prompt comes twice."""

    @model_validator(mode="after")
    def _some_point(self) -> LoadSpec:
        if not self.concurrency and not self.request_rates:
            raise ValueError("names neither concurrency nor request_rates, so nothing would be measured")
        return self


class MemorySpec(Strict):
    """What an engine takes: weights, KV cache, graphs and activations, and the device's peak under load."""

    load: Traffic = Traffic()
    """The requests that run while memory is watched."""
    concurrency: int = Field(default=8, gt=0)
    """Requests in flight meanwhile."""
    requests: int = Field(default=16, gt=0)
    """Requests in all; never fewer than twice the concurrency."""
    seed: int = 0
    """Of the prompts and pictures."""


class Workloads(Strict):
    """What is measured; a workload that is not named is not run."""

    memory: MemorySpec | None = None
    """What an engine takes of the device; measured first, when nothing else has been asked of it."""
    accuracy: AccuracySpec | None = None
    latency: LoadSpec | None = None
    """How long one request takes, at few requests at once."""
    throughput: LoadSpec | None = None
    """How much the engine gives, at many requests at once."""

    def named(self) -> Iterator[tuple[str, Any]]:
        """The workloads that are asked for, by name."""
        for name in type(self).model_fields:
            spec = getattr(self, name)
            if spec is not None:
                yield name, spec
        if self.accuracy is not None and self.accuracy.divergence:
            yield "divergence", self.accuracy


SHAPE_CALIBRATION = {"dataset": "demo", "samples": 16}


class Shape(Strict):
    """A model of random weights in the shape of a real one: for size, memory, speed and energy, never for accuracy.

    Its recipes are calibrated on a few samples of the demo, whatever `calibration` says: there is nothing to preserve.
    """

    shape: Literal["qwen3_vl_8b"]
    """Which one; `python -m harness shape NAME` makes its checkpoint."""


class Variant(Strict):
    """One checkpoint under test: the source itself, a recipe's product, a folder that exists, or what a Run measured."""

    recipe: Recipe | None = None
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
    executor: Literal["local", "ray"] = "local"
    """Who gives the work to devices: this process on this machine's own, or a Ray cluster."""
    cluster: Cluster = Cluster()
    """For executors of many machines."""
    gate: Policy | None = None
    """What `gate` asks of a Run of this suite; null takes the defaults."""
    passes: int = Field(default=1, gt=0)
    """How often the variants take turns; the trials are dealt over the passes and every second pass runs backwards (ABBA).
    More passes mean more engine starts and less that a drifting device can do to a comparison."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("model"), dict):
            data = data | {"calibration": SHAPE_CALIBRATION}
        return axes.expand_settings(axes.expand_grid(data))

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

    def compared_with(self, variant: str) -> str:
        """The variant that this one is compared with: the baseline, under the same settings."""
        setting = self.variants[variant].settings
        return f"{self.baseline.rpartition('@')[0]}@{setting}" if setting is not None else self.baseline

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
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise Refused(Fault(str(path), "is no plain file", "name a suite file, for example suites/vl_accuracy.yaml"))
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise Refused(Fault(str(path), "is a folder", "name a suite file, for example suites/vl_accuracy.yaml")) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise Refused(Fault(str(path), reason, "name a suite file, for example suites/vl_accuracy.yaml")) from None
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
