"""What one Cell gave: the thin Record (numbers with units, provenance, status) and the heavy Samples beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION: Literal[1] = 1


class Noun(BaseModel):
    """A stored thing: unknown keys are errors, so an old reader never misreads a newer file."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Metric(Noun):
    """One number. `value` None means it was not measured, and `reason` says why."""

    value: float | None
    unit: str
    """For example `share`, `s`, `GiB`, `tokens`, `tokens/s`."""
    n: int | None = None
    """How many observations stand behind the value."""
    stderr: float | None = None
    """Standard error, in the same unit."""
    reason: str | None = None
    """Why the value is None."""
    source: str | None = None
    """Who says so: `client` (vLLM's bench client), `server` (a delta of /metrics), `log`, `nvml`, `pss` (the kernel's
    page tables), `microbenchmark`, or `computed` from other figures. None for what the harness counts itself."""

    @classmethod
    def missing(cls, unit: str, reason: str, source: str | None = None) -> Metric:
        """A figure that could not be had, and why."""
        return cls(value=None, unit=unit, reason=reason, source=source)


def cell_label(variant: str, workload: str, point: dict[str, Any]) -> str:
    """`variant/workload/demo_vl_text` or `.../image512-concurrency4-trial1`: what --only matches and messages name."""
    parts = (value if isinstance(value, str) else f"{key}{value}" for key, value in point.items())
    return "/".join([variant, workload, "-".join(parts)])


class CellId(Noun):
    """variant × workload × point, and the hash of everything that can change the outcome."""

    variant: str
    workload: str
    point: dict[str, Any]
    key: str
    """16 hex digits; see plan.cell_identity for what is hashed."""

    @property
    def label(self) -> str:
        """See `cell_label`."""
        return cell_label(self.variant, self.workload, self.point)


class Provenance(Noun):
    """Where a Record comes from: enough to make it again and to refuse a comparison of unlike things."""

    identity: dict[str, Any]
    """What the Cell's key is the hash of."""
    checkpoint: str
    """Folder of the checkpoint."""
    engine: dict[str, Any]
    """The engine's own facts: kernel, KV cache tokens, arguments."""
    git: dict[str, Any] | None = None
    """Commit and whether the tree was changed, of the harness's checkout; None when it is not one."""
    started: str
    """UTC, ISO 8601."""
    seconds: float
    """How long the Cell took, without the engine's start."""


class Asked(Noun):
    """How an accuracy Cell came to its questions, where it was looked at between them: see harness/compare/looked.py."""

    of: int
    """Questions that there are; the Record has as many samples as were asked."""
    most: int
    """The most questions that one picture has, over all tasks: bets are scaled by it."""
    limit: float
    """The recovery that was to be shown, a share."""
    candidates: int = 1
    """How many variants share the error of the looks."""
    decided: bool = False
    """Whether asking ended because every candidate, or this one, was decided."""


class Record(Noun):
    """The outcome of one Cell."""

    schema_version: Literal[1] = 1
    cell: CellId
    status: Literal["done", "failed", "invalid"]
    """`invalid`: it ran, but broke a rule of measuring, so nothing is computed from it."""
    reason: str | None = None
    """Why it failed or is invalid."""
    metrics: dict[str, Metric] = {}
    """Numbers by name; names follow the field (lm-eval's and vLLM's keys)."""
    labels: list[str] = []
    """What must be known when it is read, for example `input-bound`."""
    facts: dict[str, Any] = {}
    """What else belongs to the figures, for example the device's measured bandwidth."""
    random_weights: bool = False
    """Whether the model was never trained: then size, memory, speed and energy are all that is real."""
    imported_from: str | None = None
    """The file it was made from, when another tool measured it."""
    taken_from: str | None = None
    """The Run it was measured in, when the suite takes the variant over from there (`variants.NAME.run`)."""
    asked: Asked | None = None
    """How far its questions were asked, where a verdict might come before the last; None: all of them, at once."""
    samples: int = 0
    """Rows in the samples file."""
    samples_bytes: int | None = None
    """Its size. None in Records of earlier versions."""
    samples_sha256: str | None = None
    """Hash of the samples file, as it was measured. None in Records of earlier versions, and without samples."""
    provenance: Provenance

    @property
    def whole(self) -> bool:
        """Whether all questions were asked."""
        return self.asked is None or self.samples == self.asked.of


def computed_otherwise(records: Iterable[Record]) -> dict[str, tuple[str, str]]:
    """Variants whose kernels compute with other bits than their scheme asks for: what it asks for, and with what they do.

    Unknown, and so left out, for Records of earlier versions.
    """
    found: dict[str, tuple[str, str]] = {}
    for record in records:
        asked, computed = (record.provenance.engine.get(name) for name in ("scheme_bits", "computed_as"))
        if asked and computed and asked != computed:
            found[record.cell.variant] = (asked, computed)
    return found
