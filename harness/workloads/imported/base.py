"""What an imported Record is made of, whichever tool's file it comes from."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.record.records import SCHEMA_VERSION, CellId, Provenance, Record
from harness.record.samples import Sample
from harness.util import files

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Place:
    """Where imported Records belong."""

    variant: str
    load: str = "imported"
    """Names the traffic of a bench file."""
    workload: str | None = None
    """`latency` or `throughput` for a bench file; None takes latency for one request at a time."""
    device: str | None = None
    """The device's name, which the files do not hold."""
    by_position: bool = False
    """Whether questions are paired by their place in the task, not by their ids: for tasks whose ids repeat."""


@dataclass
class Imported:
    """One Record to be, with its rows."""

    record: Record
    samples: list[Sample] = field(default_factory=list)


def odd(error: Exception) -> str:
    """What is wrong with a file of another tool, in the words of its fields."""
    if isinstance(error, KeyError) and error.args:
        return f"it lacks {error.args[0]!r}"
    if isinstance(error, ValueError):
        return str(error)
    return "a field is of another kind than its tool writes"


def provenance_of(model: str, workload: str, measured: dict[str, Any], place: Place, **known: Any) -> Provenance:
    """Where a figure of another tool comes from, as far as its file says so."""
    identity = {
        "schema": SCHEMA_VERSION,
        "workload": workload,
        "checkpoint": model,
        "repeat": 0,
        "measured": measured,
        "engine": known.get("engine", {}),
        "versions": known.get("versions", {}),
        "device": {"kind": UNKNOWN, "name": place.device or UNKNOWN},
    }
    return Provenance(
        identity=identity,
        checkpoint=model,
        engine={"kernel": UNKNOWN, "reasons": {"weights_gib": "imported"}},
        started=known["started"],
        seconds=float(known.get("seconds") or 0),
    )


def record_of(path: Path, cell: dict[str, Any], provenance: Provenance, sha: str, **fields: Any) -> Record:
    """The Record of one Cell; sha: of the file it was read from."""
    key = files.digest([provenance.identity, cell, sha])
    return Record(
        cell=CellId(key=key, **cell),
        imported_from=files.shown(path),
        facts={"sha256": sha},
        provenance=provenance,
        **({"status": "done"} | fields),
    )


def when(date: Any) -> str:
    """ISO 8601 in UTC from lm-eval's seconds or vLLM's `20260101-120000`; the epoch when there is neither."""
    try:
        moment = datetime.datetime.fromtimestamp(float(date), datetime.UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        try:
            moment = datetime.datetime.strptime(str(date), "%Y%m%d-%H%M%S").replace(tzinfo=datetime.UTC)
        except ValueError:
            moment = datetime.datetime.fromtimestamp(0, datetime.UTC)
    return moment.isoformat(timespec="seconds")


def number(value: Any) -> float | None:
    """A number from JSON; vLLM writes an unlimited rate as "inf"."""
    try:
        return None if value is None or isinstance(value, bool | list | dict) else float(value)
    except ValueError:
        return None
