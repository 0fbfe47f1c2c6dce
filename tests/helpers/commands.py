"""The command line of this checkout, and the engines that it left running."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.records import ROOT

LIMIT = 60


FEW = (
    "workloads.accuracy.divergence=200",
    "workloads.latency.trials=2",
    "workloads.latency.requests=6",
    "workloads.throughput.trials=1",
    "workloads.throughput.concurrency=[8]",
)


def command(*arguments: str, results: Path) -> list[str]:
    return [sys.executable, "-m", "harness", *arguments, "--checkpoints", str(results / "checkpoints")]


def harness(*arguments: str, results: Path, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, results=results), capture_output=True, text=True, cwd=ROOT, timeout=timeout)


def suite(name: str, output: Path, *overrides: str) -> list[str]:
    sets = [part for o in (f"workloads.accuracy.limit={LIMIT}", *overrides) for part in ("--set", o)]
    return ["run", f"suites/{name}.yaml", "--output", str(output), *sets]


def engines() -> list[int]:
    """Process ids of living vLLM processes that were started from this checkout; the guard is none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            vllm = b"vllm_serve.py" in command or command.startswith(b"VLLM::")
            if vllm and b"guard.py" not in command and (process / "cwd").resolve() == ROOT:
                found.append(int(process.name))
    return found


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while (not log.exists() or text not in log.read_text()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    assert text in log.read_text(), log.read_text()


def everything_gone(seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while engines() and time.monotonic() < deadline:
        time.sleep(0.2)
    return engines() == []
