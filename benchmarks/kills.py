"""SIGKILLs at random moments: `python -m benchmarks.kills OUT.json [--kills 200] [--suite FILE] [--only PATTERN]`.

A Run is started again and again and killed at a moment between its start and the time an undisturbed one takes: the main
process, one of the engine's, or the whole process group. After each kill every process must go and nothing may stay below
the temporary folder but what the next start sweeps. When the kills are used up the Run goes on to its end, and its Records
must be those of the undisturbed Run: none lost, none doubled, the same documents, the same answers. The seed is fixed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.record.folder import RunFolder
from harness.util import environments, files, scratch
from harness.util.progress import Reporter

GONE_S = 60
"""Within so many seconds after a kill every process must have ended."""
VICTIMS = ("main", "engine", "group")


def engines() -> list[int]:
    """Process ids of living vLLM processes of this checkout; the guard is none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            mine = b"vllm_serve.py" in command or command.startswith(b"VLLM::") or b"bench_client.py" in command
            if mine and b"guard.py" not in command and (process / "cwd").resolve() == environments.PACKAGE_ROOT:
                found.append(int(process.name))
    return found


def answers(run: RunFolder) -> dict[str, dict[str, str]]:
    """What was answered to each document, by the Cell's key."""
    return {
        record.cell.key: {sample.doc_id: sample.response for sample in run.samples(record.cell.key)}
        for record in run.records()
        if record.status == "done" and record.samples and "score" in record.metrics
    }


def campaign(
    command: Sequence[str], output: Path, wanted: dict[str, dict[str, str]], kills: int, span_s: float
) -> dict[str, Any]:
    """Kill so many times within `span_s` of a start, let it end, and tell what differs from `wanted`.

    command: starts or goes on with the Run at `output`.
    """
    draw = random.Random(20261130)
    told: dict[str, Any] = {"kills": dict.fromkeys(VICTIMS, 0), "ended_before": 0, "processes_left": 0, "folders_left": 0}
    log, here = output.with_suffix(".log"), environments.PACKAGE_ROOT
    done = 0
    while done < kills:
        with log.open("ab") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=here, start_new_session=True)
        try:
            process.wait(draw.uniform(0.5, span_s))
        except subprocess.TimeoutExpired:
            done += 1
            told["kills"][_kill(process, draw)] += 1
        else:
            told["ended_before"] += 1
            if process.returncode == 0:
                told |= _differences(RunFolder(output), wanted, told)
                shutil.rmtree(output)
        told["processes_left"] += 0 if _all_gone(process) else 1
    last = subprocess.run(command, capture_output=True, text=True, cwd=environments.PACKAGE_ROOT, check=False)
    told["last_status"] = last.returncode
    told |= _differences(RunFolder(output), wanted, told)
    told["folders_left"] = len([p for p in scratch.base_folder().iterdir() if p.is_dir() and not _held(p)])
    return told


def _kill(process: subprocess.Popen[bytes], draw: random.Random) -> str:
    """Kill one of the victims; returns which. Where there is no engine yet the main process stands in for it."""
    victim, served = draw.choice(VICTIMS), engines()
    with contextlib.suppress(ProcessLookupError):
        if victim == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "engine" and served:
            os.kill(draw.choice(served), signal.SIGKILL)
        else:
            victim = "main"
            process.kill()
    return victim


def _all_gone(process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + GONE_S
    while time.monotonic() < deadline:
        # Whose engine was killed ends by itself, with its other Cells measured or told.
        if process.poll() is not None and not engines():
            return True
        time.sleep(0.1)
    process.kill()
    return False


def _differences(run: RunFolder, wanted: dict[str, dict[str, str]], so_far: dict[str, Any]) -> dict[str, Any]:
    found = answers(run)
    return {
        "records_lost": so_far.get("records_lost", 0) + len(wanted.keys() - found.keys()),
        "records_doubled": so_far.get("records_doubled", 0) + len(found.keys() - wanted.keys()),
        "documents_differ": so_far.get("documents_differ", 0)
        + sum(found[key].keys() != wanted[key].keys() for key in found.keys() & wanted.keys()),
        "answers_differ": so_far.get("answers_differ", 0)
        + sum(wanted[key].get(i) != said for key in found.keys() & wanted.keys() for i, said in found[key].items()),
        "answers": so_far.get("answers", 0) + sum(map(len, found.values())),
    }


def _held(folder: Path) -> bool:
    """Whether a scratch folder has an owner that lives."""
    import fcntl

    try:
        owner = os.open(folder / scratch.OWNER, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(owner)
    return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT.json", help="the file to write")
    parser.add_argument("--kills", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--suite", default="suites/vl_accuracy.yaml", help="what is run (default: %(default)s)")
    parser.add_argument("--only", default="bf16/accuracy/*", help="its Cells (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=60, help="documents a task (default: %(default)s)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as place, Reporter() as report:
        base = [sys.executable, "-m", "harness", "run", asked.suite, "--only", asked.only]
        base += ["--set", f"workloads.accuracy.limit={asked.limit}"]
        report.stage("an undisturbed Run")
        began = time.monotonic()
        subprocess.run([*base, "--output", f"{place}/calm"], check=True, capture_output=True, cwd=environments.PACKAGE_ROOT)
        span = time.monotonic() - began
        calm = answers(RunFolder(Path(place) / "calm"))
        report.stage(f"killing {asked.kills} times within {span:.0f} s")
        outcome = campaign([*base, "--output", f"{place}/killed"], Path(place) / "killed", calm, asked.kills, span)
    files.write_json(asked.output, outcome | {"span_s": round(span, 1)})
    print(outcome)
