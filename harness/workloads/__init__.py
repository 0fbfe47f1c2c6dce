"""One file a workload, one interface. A new workload is one new file, one field in suite.Workloads, one line here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from harness.engine import Engine
from harness.errors import Fault
from harness.record import Metric, Noun, Sample
from harness.suite import EngineSettings

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what) while a Cell is measured."""


@dataclass
class Measurement:
    """What a workload hands back for one Cell; run.py makes the Record of it."""

    metrics: Mapping[str, Metric]
    samples: Iterable[Noun] = ()
    status: Literal["done", "invalid"] = "done"
    reason: str | None = None
    labels: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class Workload(Protocol):
    """One kind of measurement."""

    def points(self, spec: Any) -> list[dict[str, Any]]:
        """The points that `spec` asks for; raises Refused. Imports nothing heavy."""

    def identity(self, spec: Any, point: dict[str, Any]) -> dict[str, Any]:
        """Everything in `spec` and in the task that can change the outcome at `point`. Imports nothing heavy."""

    def faults(self, spec: Any, points: list[dict[str, Any]], settings: EngineSettings) -> list[Fault]:
        """What is wrong with `spec` at its points, told without loading a document."""

    def preflight(self, spec: Any, points: list[dict[str, Any]], settings: EngineSettings, model: str) -> list[Fault]:
        """What is wrong with the documents themselves; loads them, before any engine starts."""

    def measure(self, engine: Engine, spec: Any, point: dict[str, Any], progress: Progress) -> Measurement:
        """Measure one Cell against a running engine; raises CellFailed."""


@runtime_checkable
class Relative(Protocol):
    """A workload that measures every variant against what the baseline answered; its baseline is measured first."""

    reference: Mapping[str, Sequence[Sample]]
    """The baseline's samples by task; run.py fills it before `measure`."""


@runtime_checkable
class Foreseeing(Protocol):
    """A workload that prepares the Cell that comes next on the same engine while it measures one."""

    following: dict[str, Any] | None
    """Its point, or None where the next Cell is another workload's; measure.py fills it before `measure`."""


@runtime_checkable
class Timed(Protocol):
    """A workload whose figure is a time: its arms take turns on one device, and nothing else runs beside them."""

    timed: bool


@runtime_checkable
class Beside(Protocol):
    """A workload whose outcome does not hang on what else the machine does: the next engine may be made ready meanwhile."""

    beside: bool


WORKLOADS = {
    "accuracy": "harness.workloads.accuracy:Accuracy",
    "divergence": "harness.workloads.divergence:Divergence",
    "latency": "harness.workloads.load:Load",
    "throughput": "harness.workloads.load:Load",
    "memory": "harness.workloads.memory:Memory",
}


def workload(name: str) -> Workload:
    """The workload called `name`."""
    module, _, attribute = WORKLOADS[name].partition(":")
    made: Workload = getattr(importlib.import_module(module), attribute)()
    return made


def timed(name: str) -> bool:
    """Whether that workload's figure is a time."""
    return isinstance(workload(name), Timed)


def beside(name: str) -> bool:
    """Whether other work may go on while that workload is measured."""
    return isinstance(workload(name), Beside)


def start(names: Iterable[str]) -> None:
    """Start the processes that workloads keep between Cells; they get ready by themselves."""
    if not all(beside(name) for name in names):
        from harness.workloads import bench_client

        bench_client.shared()


def prepare(names: Iterable[str]) -> None:
    """What must be measured before an engine holds the device: its bandwidth and rate, for the workloads that need them."""
    if any(timed(name) for name in names):
        from harness import limits
        from harness.workloads import bench_client

        bench_client.shared().settle()
        limits.rates()


def leave() -> None:
    """Drop what was prepared for an engine that has ended."""
    _close("asking")


def close() -> None:
    """End the processes and threads that workloads keep between Cells."""
    leave()
    _close("bench_client")


def _close(name: str) -> None:
    keeper = sys.modules.get(f"harness.workloads.{name}")
    if keeper is not None:
        keeper.close()
