"""Where work is done: one file an executor, one interface. A new one is one file and its entry in suite.schema.EXECUTORS.

An executor takes pieces of Work: functions of plain data that any process can import. It knows nothing of what they measure.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from harness.suite.schema import EXECUTORS, Suite
from harness.util.errors import Fault
from harness.util.progress import Reporter

PASSED_ON = ("HARNESS_", "HF_", "VLLM_", "OMP_NUM_THREADS")
"""Beginnings of the environment variables that processes on other machines get as they are here."""


@dataclass(frozen=True)
class WorkResult:
    """What became of a piece of work: a line for each thing that failed, and the keys of Cells that another run has in hand."""

    failures: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    holder: str = ""
    """Who has the first of them."""


@dataclass(frozen=True)
class Work:
    """One piece of work, and what it asks for."""

    name: str
    work: Callable[..., WorkResult]
    """Called with the argument and a Reporter. Found by its name in whatever process it runs."""
    argument: Any
    """Plain data."""
    gpus: int = 1
    """Cards it needs; on a CPU one task takes a whole machine."""
    memory: int = 0
    """Bytes of host memory it needs; 0: not told."""
    alone: bool = False
    """Nothing else may run on the same machine meanwhile."""
    after: tuple[str, ...] = ()
    """Names of tasks that must have ended before, well or not."""


class Executor(Protocol):
    """Where tasks run. A context manager: entering it finds the devices, leaving it ends what it started."""

    shares: bool
    """Whether several runs may write one folder at once."""

    @property
    def here(self) -> bool:
        """Whether tasks run in this very process."""

    def __enter__(self) -> Executor:
        """Find the devices; `device.describe` tells of them from now on. Raises Refused where there are none to use."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    @property
    def slots(self) -> int:
        """How many tasks of one card (on a CPU: of one machine) it runs side by side."""

    def told(self) -> str:
        """One line for people: what there is to measure on."""

    def unseen(self, written: Sequence[Path], read: Sequence[Path]) -> list[Fault]:
        """Folders to write into, made or not, and files to read that the machines do not share with this one."""

    def faults(self, tasks: Sequence[Work]) -> list[Fault]:
        """Work that asks for more than there is."""

    def run(self, tasks: Sequence[Work], report: Reporter) -> Iterator[tuple[Work, WorkResult]]:
        """Do all tasks, each after those it waits for, and yield them as they end.

        A task that dies is an WorkResult with a failure. Raises OSError when one cannot write (a full disk is no matter of
        one task).
        """


def executor(suite: Suite) -> Executor:
    """The executor that the suite names, not entered yet."""
    module, _, attribute = EXECUTORS[suite.executor].partition(":")
    made: Executor = getattr(importlib.import_module(module), attribute)(suite.cluster)
    return made


def in_order(tasks: Sequence[Work]) -> tuple[TopologicalSorter[str], dict[str, Work]]:
    """The tasks by name, and their order as the standard library keeps it. What is waited for and is not there is done."""
    named = {task.name: task for task in tasks}
    order = TopologicalSorter({name: [a for a in task.after if a in named] for name, task in named.items()})
    order.prepare()
    return order, named


def passed_on() -> dict[str, str]:
    """See PASSED_ON."""
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
