"""Which process measures which Cell, where several may write one Run: each Cell once.

A claim is a file under the Run's claims/ that is made if it is not there and locked in the same breath. It names its holder
for people to read; whether the holder lives is told by the lock, which the kernel (on a network file system, its server)
drops with the process, however it ends. So no claim is ever stale, and nobody has to send signs of life.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
from collections.abc import Iterable
from pathlib import Path

from harness.util.errors import CellFailed


class Claims:
    """The Cells that this process has taken. A context manager: leaving it gives them back."""

    def __init__(self, run: Path):
        self.folder = run / "claims"
        self._held: dict[str, int] = {}

    def __enter__(self) -> Claims:
        # An open file each; many systems allow 1,024 unless they are asked for more.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(list(self._held))
        with contextlib.suppress(OSError):  # others have some still, or another has removed it
            self.folder.rmdir()

    def take(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that are ours from now on; the others are somebody else's."""
        return [key for key in keys if key in self._held or self._take(self.folder / key)]

    def give_back(self, keys: Iterable[str]) -> None:
        """They are nobody's from now on."""
        for key in keys:
            # The name goes before the lock: whoever opened the file in between sees that it is gone, see _take.
            with contextlib.suppress(OSError):
                os.unlink(self.folder / key)
            os.close(self._held.pop(key))

    def elsewhere(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that somebody else has, at this moment."""
        wanted = [key for key in keys if key not in self._held]
        free = self.take(wanted)
        self.give_back(free)
        return [key for key in wanted if key not in free]

    def holder(self, key: str) -> str:
        """Who has a claim, as it was written; "another run" where that cannot be read."""
        with contextlib.suppress(OSError):
            return (self.folder / key).read_text(encoding="utf-8") or "another run"
        return "another run"

    def _take(self, path: Path) -> bool:
        while True:
            try:
                handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):  # made and removed by others meanwhile
                    path.parent.mkdir(parents=True, exist_ok=True)
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            except OSError as error:
                os.close(handle)
                raise CellFailed(f"{path}: this file system has no locks ({error.strerror}); see docs/cluster.md") from None
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(handle).st_ino == path.stat().st_ino:
                    with contextlib.suppress(OSError):  # on a full disk the claim has no name, and holds
                        os.ftruncate(handle, 0)
                        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    self._held[path.name] = handle
                    return True
            os.close(handle)  # its last holder removed it between our opening and our locking
