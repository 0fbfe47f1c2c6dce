"""Being a child process: die with the parent, keep standard output for events."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TextIO


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies, however it dies (Linux, prctl PR_SET_PDEATHSIG = 1).

    The kernel counts the parent's thread that started this process, so a caller starts it from a thread that lives on.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died in between
        sys.exit(143)


def own_stdout() -> TextIO:
    """The process's standard output, for events alone: whatever libraries print goes to standard error from now on."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def ended(returncode: int) -> str:
    """How a process ended, in words; returncode as subprocess has it, negative for a signal."""
    if returncode == -signal.SIGKILL:
        return "was killed by SIGKILL, as the system does when memory runs out,"
    return f"was killed by {signal.Signals(-returncode).name}" if returncode < 0 else f"ended with status {returncode}"
