"""Nothing that was started outlives whoever asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from harness.util.environments import PACKAGE_ROOT
from tests.helpers.processes import gone

# A child that ignores SIGTERM and has a grandchild in a session of its own: the worst that a server does.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
GUARD = [sys.executable, "-S", str(PACKAGE_ROOT / "harness" / "util" / "guard.py")]


def test_closing_its_input_ends_everything():
    polite = STUBBORN.replace("signal.SIG_IGN", "signal.SIG_DFL")
    guard = subprocess.Popen([*GUARD, sys.executable, "-c", polite], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pids = [int(p) for p in guard.stdout.readline().split()]
    guard.stdin.close()
    guard.wait(timeout=30)
    assert gone(pids, 1)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_the_asking_process_ends(end):
    # The asker starts the guard as environments.start does and waits; then it is ended.
    asker = (
        f"import subprocess, sys, time\nsys.path.insert(0, {str(PACKAGE_ROOT)!r})\nfrom harness.util import environments\n"
        f"p = environments.serve().start(['-c', {STUBBORN.replace('signal.SIG_IGN', 'signal.SIG_DFL')!r}])\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", asker], stdout=subprocess.PIPE, start_new_session=True)
    pids = [int(p) for p in process.stdout.readline().split()]
    os.kill(process.pid, end)
    process.wait(timeout=30)
    assert gone(pids, 20)


def test_what_ignores_sigterm_is_killed(monkeypatch):
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE_ROOT)!r})\nfrom harness.util import guard\nguard.GRACE = 0.5\n"
        "guard.end_all.__defaults__ = (0.5,)\nsys.exit(guard.main(sys.argv[1:]))"
    )
    guard = subprocess.Popen(
        [sys.executable, "-c", code, sys.executable, "-c", STUBBORN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    pids = [int(p) for p in guard.stdout.readline().split()]
    guard.stdin.close()
    guard.wait(timeout=30)
    assert gone(pids, 1)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_its_exit_status_is_the_commands(code, status):
    guard = subprocess.Popen([*GUARD, sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert guard.wait(timeout=30) == status
