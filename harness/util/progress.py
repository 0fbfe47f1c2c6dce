"""Progress on stderr: a live line on a terminal, one plain line a stage elsewhere. Results go to stdout, never here."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness.util.printable import printable


def results() -> Console:
    """Standard output for tables. A log has no width of its own, and 80 columns would break every cell into pieces."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 220)


class Reporter:
    """Shows what is being done now; a context manager."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._live.add_task("", total=None, visible=False)
        self._last, self._began = "", time.monotonic()

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._live.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Draw nothing for the block, in which something is asked on the terminal."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def stage(self, what: str) -> None:
        """A new stage begins; `what` names it."""
        if self.console.is_terminal:
            self._live.reset(self._task, description=printable(what), total=None, visible=True)
        elif what != self._last:
            self.line(what)
        self._last = what

    def update(self, done: int, total: int, what: str) -> None:
        """`done` of `total` of the present stage."""
        if self.console.is_terminal:
            self._live.update(self._task, description=printable(what), completed=done, total=total, visible=True)
        elif done == total:
            self.line(f"{what}: {done}/{total}")

    def line(self, text: str) -> None:
        """One line that stays."""
        self.console.print(printable(f"[{time.monotonic() - self._began:6.1f} s] {text}"))
        sys.stderr.flush()
