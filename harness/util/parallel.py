"""Work that is spread over the cores of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MOST = 4
"""Processes at most, this one among them: each holds what the work needs."""


def spread(work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
    """`work(items)`, one result for each item in their order, with shares of the items given to forked processes.

    A forked process begins with everything that was imported and read here, which a fresh one would take a second to do
    again. A share that does not come back, for whatever reason, is worked on here, and raises here what it raises.
    """
    # Beside other threads a fork can be left with a lock that nobody gives back.
    alone = threading.active_count() > 1 or "fork" not in multiprocessing.get_all_start_methods()
    count = 1 if alone else max(1, min(MOST, len(os.sched_getaffinity(0)), len(items)))
    shares = [items[number::count] for number in range(count)]
    helpers = [_Helper(work, share) for share in shares[1:]]
    try:
        results = [work(shares[0]), *(helper.results() or work(helper.share) for helper in helpers)]
    finally:
        for helper in helpers:
            helper.end()
    return [results[number % count][number // count] for number in range(len(items))]


class _Helper(Generic[T, R]):
    """A forked process with its share of the work."""

    def __init__(self, work: Callable[[Sequence[T]], list[R]], share: Sequence[T]):
        self.share = share
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.get_context("fork").Process(target=_send, args=(sender, work, share), daemon=True)
        self._process.start()
        sender.close()

    def results(self) -> list[R] | None:
        """What it found; None when it ended without."""
        with contextlib.suppress(EOFError, OSError):
            found: list[R] = self._receiver.recv()
            return found
        return None

    def end(self) -> None:
        """Leave nothing behind."""
        self._receiver.close()
        self._process.kill()
        self._process.join()


def _send(sender: Connection, work: Callable[[Sequence[T]], list[R]], share: Sequence[T]) -> None:
    with contextlib.suppress(Exception):  # whoever waits works on the share itself, and raises it where it is seen
        sender.send(work(share))
