"""Folders for a while, below the temporary folder, that go whatever becomes of who made them.

Each is held by a lock that the kernel gives back when its owner is gone, SIGKILL included; whoever makes the next folder
removes those that nobody holds. The guard of an engine removes its folder as well, so most often nothing is left to sweep.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

OWNER = ".owner"
"""The file in each folder that its owner holds locked."""
VARIABLE = "HARNESS_SCRATCH"
"""Tells the guard of a process which folder to remove when that has ended; see guard.py."""


class Scratch:
    """One folder; a context manager that gives its path."""

    def __init__(self, kind: str):
        """kind: begins its name."""
        base = base_folder()
        with _alone(base):
            sweep(base)
            self.path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=base))
            owner = os.open(self.path / OWNER, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._remove = weakref.finalize(self, _removed, self.path, owner)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it with all that it holds; a second time does nothing."""
        self._remove()


def base_folder() -> Path:
    """The user's own folder below the temporary one."""
    folder = Path(tempfile.gettempdir()) / f"vl-harness-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def sweep(base: Path) -> None:
    """Remove the folders that nobody holds any more."""
    for path in base.iterdir():
        if not path.is_dir():
            continue
        try:
            owner = os.open(path / OWNER, os.O_RDWR)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            continue
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        os.close(owner)


@contextlib.contextmanager
def _alone(base: Path) -> Iterator[None]:
    """Nobody sweeps a folder that is made and not yet held."""
    held = os.open(base / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _removed(path: Path, owner: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(owner)
