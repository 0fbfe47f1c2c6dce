"""What is measured: one file a workload. Other rooms take the registry below, the specs and `base.Workload`.

A new workload is one file with a subclass of `Workload`, and its line here. The suite's schema, the plan, comparison, gate,
summary, page, card and CI export learn of it from its class.
"""

from __future__ import annotations

from harness.workloads.accuracy import Accuracy
from harness.workloads.base import Comparer, Context, Measurement, Progress, Workload
from harness.workloads.divergence import Divergence
from harness.workloads.latency import Latency
from harness.workloads.memory import Memory
from harness.workloads.throughput import Throughput

__all__ = ["WORKLOADS", "Comparer", "Context", "Measurement", "Progress", "Workload", "kind_of", "kinds", "workload_names"]

WORKLOADS: list[type[Workload]] = [Memory, Accuracy, Latency, Throughput, Divergence]
"""In the order they are measured on an engine: memory first, when nothing else has been asked of it."""


def kinds() -> dict[str, type[Workload]]:
    """The workloads by name."""
    return {kind.name: kind for kind in WORKLOADS}


def kind_of(name: str) -> type[Workload]:
    """The workload called `name`; one that is not known (of a Run of another version) is compared by nothing."""
    return kinds().get(name, Unknown)


def workload_names(comparer: Comparer | None = None, timed: bool | None = None) -> tuple[str, ...]:
    """The names of the workloads that are compared in that way, timed or not; None: either."""
    return tuple(kind.name for kind in WORKLOADS if comparer in (None, kind.compared_by) and timed in (None, kind.timed))


class Unknown(Workload):
    """A workload of a Run that another version made."""

    name = "unknown"
    own_tables = True
