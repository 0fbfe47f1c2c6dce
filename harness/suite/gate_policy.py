"""What a gate asks for: the suite's `gate:` section, or a file of its own. Every figure has a default."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from harness.suite.yaml_faults import duplicate_keys, parsed, read
from harness.util.errors import Fault, Refused, nearest
from harness.util.strict import Strict


class AccuracyPolicy(Strict):
    """What a variant may lose in accuracy."""

    min_recovery: float = Field(default=0.98, gt=0, lt=1)
    """The share of the baseline's score that must be kept: the lower bound of the recovery's 95 % interval lies above it.
    At 1 no number of questions could ever show it."""
    tasks: tuple[str, ...] = ("all",)
    """Tasks for which that must be shown. Others fail only where more than that is shown to be lost; `all` is the total."""
    max_unparsed: float = Field(default=0.1, ge=0, le=1)
    """Share of answers in which none was found, in either arm; above it there is no verdict."""
    max_cut_by_length: float = Field(default=0.1, ge=0, le=1)
    """Share of answers that were cut, in either arm; above it there is no verdict."""
    may_compute_as: tuple[str, ...] = ()
    """What a kernel may compute with though the variant's scheme asks for other bits, for example W4A16 for NVFP4 on a card
    without FP4; for any other there is no verdict, since the scores are not the scheme's."""
    max_divergence: float | None = Field(default=None, gt=0)
    """Largest mean divergence per token from the baseline, nats; null judges none."""


class SpeedPolicy(Strict):
    """What speed may do between a baseline Run and this one, and what a variant must win against the baseline variant."""

    max_slowdown: float = Field(default=0.05, ge=0, lt=1)
    """Largest slow-down against the same variant in the baseline Run, a share."""
    min_speedup: float | None = Field(default=None, gt=0)
    """Least speed-up over the baseline variant of the same Run, at each point; null judges none."""
    metrics: tuple[str, ...] = ("output_throughput", "mean_e2el_ms")
    """What is judged: vLLM's bench keys."""


class MemoryPolicy(Strict):
    """What memory may do between a baseline Run and this one."""

    max_growth: float = Field(default=0.05, ge=0, lt=1)
    """Largest growth of weights and processes, and largest loss of KV cache, a share."""
    metrics: tuple[str, ...] = ("weights_gib", "kv_cache_tokens", "pss_peak_gib")
    """What is judged."""


class Policy(Strict):
    """A whole policy. `speed` and `memory` need a baseline Run once they are named."""

    accuracy: AccuracyPolicy = AccuracyPolicy()
    """Variants against the baseline variant, and against themselves in a baseline Run."""
    speed: SpeedPolicy | None = None
    """Null judges no speed."""
    memory: MemoryPolicy | None = None
    """Null judges no memory."""
    may_differ: tuple[str, ...] = ()
    """Fields in which this Run may differ from the baseline Run, for example `versions` where a new vLLM is what is
    judged; the device never may."""


def load_policy(path: Path) -> Policy:
    """Read and check a policy file, with or without `gate:` around it; raises Refused."""
    text = read(path, "policy", "name a policy file, see docs/ci.md")
    data = parsed(text, str(path))
    Refused.if_any(duplicate_keys(yaml.compose(text, Loader=yaml.SafeLoader), path))
    if isinstance(data, dict) and set(data) == {"gate"}:
        data = data["gate"]
    if not isinstance(data, dict):
        raise Refused(Fault(str(path), "holds no mapping of keys to values", "for example accuracy: {min_recovery: 0.98}"))
    return policy_of(data, path)


def policy_of(data: object, path: Path) -> Policy:
    """The policy that `path` holds; raises Refused with a fault for each thing that is wrong with it."""
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise Refused(*(_fault(path, one) for one in error.errors())) from None


def _fault(path: Path, error: object) -> Fault:
    assert isinstance(error, dict)
    dotted = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        sections: dict[str, type[Strict]] = {"accuracy": AccuracyPolicy, "speed": SpeedPolicy, "memory": MemoryPolicy}
        known = (sections.get(str(error["loc"][0]), Policy) if len(error["loc"]) > 1 else Policy).model_fields
        close = nearest(str(error["loc"][-1]), known).lstrip("; ")
        return Fault(str(path), f"unknown key {dotted!r}", close or f"known here: {', '.join(known)}")
    message = str(error["msg"])
    return Fault(str(path), f"{dotted} is {error.get('input')!r}: {message[0].lower()}{message[1:]}")
