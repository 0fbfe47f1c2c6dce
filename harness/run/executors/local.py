"""This machine. One device: tasks run in this process, one after the other. Several GPUs: a process a share of the cards."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.engine import device
from harness.run.executors import Work, WorkResult, in_order
from harness.suite.schema import Cluster
from harness.util import environments
from harness.util.errors import Fault
from harness.util.processes import die_with_parent
from harness.util.progress import Reporter


class Local:
    """See executors.Executor."""

    shares = False

    def __init__(self, cluster: Cluster, cards: Sequence[str] | None = None):
        """cards: what CUDA_VISIBLE_DEVICES may name, one each; None asks NVML."""
        self._cards = list(cards) if cards is not None else None

    def __enter__(self) -> Local:
        if self._cards is None:
            found = () if environments.is_cpu() else device.cards()[0]
            # Figures of two models do not compare: those like the first, which the plan is made for.
            self._cards = [card.uuid for card in found if card.name == found[0].name]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    @property
    def cards(self) -> list[str]:
        """The names of the cards, none on a CPU."""
        return self._cards or []

    @property
    def slots(self) -> int:
        return max(1, len(self.cards))

    @property
    def here(self) -> bool:
        return self.slots == 1

    def told(self) -> str:
        found = device.describe()
        return f"this machine, {len(self.cards)} × {found['name']}" if len(self.cards) > 1 else f"this machine, {found['name']}"

    def unseen(self, written: Sequence[Path], read: Sequence[Path]) -> list[Fault]:
        return []

    def faults(self, tasks: Sequence[Work]) -> list[Fault]:
        most = max((task.gpus for task in tasks), default=1)
        if self.cards and most > len(self.cards):
            what = f"is {most}, and this machine has {len(self.cards)} GPUs"
            return [Fault("engine.tensor_parallel_size", what, f"at most {len(self.cards)}")]
        return []

    def run(self, tasks: Sequence[Work], report: Reporter) -> Iterator[tuple[Work, WorkResult]]:
        width = max((task.gpus for task in tasks), default=1)
        shares = [self.cards[i : i + width] for i in range(0, len(self.cards) - width + 1, width)]
        if len(shares) > 1 and len(tasks) > 1:
            yield from _side_by_side(tasks, shares, report)
            return
        order, named = in_order(tasks)
        while order.is_active():
            for name in order.get_ready():
                yield named[name], named[name].work(named[name].argument, report)
                order.done(name)


def _side_by_side(tasks: Sequence[Work], shares: list[list[str]], report: Reporter) -> Iterator[tuple[Work, WorkResult]]:
    """A process for each share of the cards. Work that must be alone comes first, one at a time."""
    context = multiprocessing.get_context("spawn")
    free: Any = context.SimpleQueue()
    for share in shares:
        free.put(",".join(share))
    pool = ProcessPoolExecutor(len(shares), context, initializer=_begin, initargs=(free,))
    try:
        order, named = in_order(tasks)
        running: dict[Future[WorkResult], str] = {}
        ready: list[str] = []
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=lambda name: not named[name].alone)
            while ready and not any(named[name].alone for name in running.values()):
                if named[ready[0]].alone and running:
                    break
                task = named[ready.pop(0)]
                running[pool.submit(_there, task.work, task.argument)] = task.name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                yield named[name], _outcome(named[name], future)
                order.done(name)
    finally:
        # A task that is under way would be waited for; its guard ends its engine when its process is gone.
        for child in multiprocessing.active_children():
            child.terminate()
        pool.shutdown(cancel_futures=True)


def _outcome(task: Work, future: Future[WorkResult]) -> WorkResult:
    try:
        return future.result()
    except BrokenProcessPool:
        return WorkResult([f"{task.name}: its process was killed; the same command goes on from there"])


def _begin(free: Any) -> None:
    """A new process of the pool: takes cards, dies with the run, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    os.environ["CUDA_VISIBLE_DEVICES"] = free.get()


def _there(work: Any, given: Any) -> WorkResult:
    outcome: WorkResult = work(given, Reporter())
    return outcome
