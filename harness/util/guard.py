"""Starts one command and makes sure that nothing of it outlives the process that asked for it.

`python harness/util/guard.py COMMAND...` runs COMMAND in a session of its own. When standard input closes (the harness is
done with it, was interrupted, or was killed in any way, SIGKILL included) every process that COMMAND started is ended:
SIGTERM first, SIGKILL for what is left after GRACE seconds. vLLM needs this: a killed API server leaves its engine core
and workers, which hold the device memory. Standard library only, so it starts in milliseconds.

It is two processes. The one that the asker knows passes the exit status on; its child does the guarding. Whoever ends its
own children with SIGKILL when it ends (a worker of a cluster does) hits the first; the second is told by the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE = 15.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def descendants(root: int) -> list[int]:
    """Process ids of all living descendants of `root`, from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, queue = [], [root]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def end_all(grace: float = GRACE) -> None:
    """End every descendant of this process, gently first; orphans are ours too, as we are their subreaper."""
    for sign, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not descendants(os.getpid()):
                return
            time.sleep(0.05)


def _terminated(*_: object) -> None:
    end_all()
    _sweep()
    os._exit(143)


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; return its exit status (128 + n for signal n)."""
    # Ctrl-C goes to the whole foreground group; the harness decides what it means and closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    front = os.getpid()
    guard = os.fork()
    if not guard:
        os._exit(_guard(command, front))
    # Nobody else may hold our input: the guard alone waits for its end.
    os.close(0)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(guard, signal.SIGTERM))
    return _shown(os.waitstatus_to_exitcode(os.waitpid(guard, 0)[1]))


def _guard(command: list[str], front: int) -> int:
    signal.signal(signal.SIGTERM, _terminated)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != front:
        return 143  # it ended before we asked to be told
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    status = None
    while status is None:
        ready, _, _ = select.select([0], [], [], 0.2)
        if ready and not os.read(0, 4096):
            break
        status = child.poll()
    end_all()
    if status is None:
        # Of a command that ended by itself the asker may want to read what it left.
        _sweep()
    return _shown(child.wait() if status is None else status)


def _sweep() -> None:
    """Remove the folder that belongs to the command alone, see scratch.py: its owner may have been killed."""
    if folder := os.environ.get("HARNESS_SCRATCH"):
        shutil.rmtree(folder, ignore_errors=True)


def _shown(status: int) -> int:
    """An exit status as a shell shows it."""
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
