"""`python -m quantize`: exit status, events, folders that are whole or absent. The noise method needs no torch, so
these run in seconds and in any environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.util.files import lock
from quantize.finish import replaced
from tests.helpers import shapes

ROOT = Path(__file__).resolve().parents[2]
NOISE = {"method": "noise", "noise_std": 0.1}


def run(folder: Path, job: Any, text: str | None = None) -> subprocess.CompletedProcess[str]:
    path = folder / "job.json"
    path.write_text(json.dumps(job) if text is None else text)
    return subprocess.run([sys.executable, "-m", "quantize", str(path)], capture_output=True, text=True, cwd=ROOT)


def noise_job(source: Path, folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "source": str(source),
        "cells": [{"name": "control", "recipe": NOISE, "output": str(folder / "out" / "control")}],
        **more,
    }


def test_a_build_reports_events_and_leaves_a_manifest(source: Path, tmp_path: Path):
    done = run(tmp_path, noise_job(source, tmp_path))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["kind"] == "cell_done" and Path(events[-1]["output"]).is_dir()
    manifest = json.loads((tmp_path / "out/control/manifest.json").read_text())
    assert manifest["recipe"]["noise_std"] == 0.1 and manifest["calibration"] is None
    assert len(manifest["source"]["sha256"]) == 64 and len(manifest["content_sha256"]) == 64
    assert set(manifest["files"]) == {p.name for p in source.iterdir()}
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == ["control"]


def test_an_existing_output_stays_unless_forced(source: Path, tmp_path: Path):
    old = tmp_path / "out" / "control"
    old.mkdir(parents=True)
    (old / "mine").write_text("x")
    refused = run(tmp_path, noise_job(source, tmp_path))
    assert refused.returncode == 2 and "exists already" in refused.stderr and refused.stdout == ""
    assert (old / "mine").is_file()
    assert run(tmp_path, noise_job(source, tmp_path, force=True)).returncode == 0
    assert not (old / "mine").exists() and (old / "manifest.json").is_file()
    assert [p.name for p in old.parent.iterdir() if p.is_dir()] == ["control"]


def test_what_a_killed_build_left_is_removed(source: Path, tmp_path: Path):
    stale, other = tmp_path / "out" / ".control.ab12_xyz", tmp_path / "out" / ".control2.ab12_xyz"
    stale.mkdir(parents=True)
    other.mkdir()
    assert run(tmp_path, noise_job(source, tmp_path)).returncode == 0
    assert not stale.exists() and other.exists()


def test_two_builds_of_one_output_do_not_meet(source: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    with lock(tmp_path / "out" / ".control.lock"):
        done = run(tmp_path, noise_job(source, tmp_path))
    assert done.returncode == 2 and f"is being built by process {os.getpid()}" in done.stderr


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({}, "source: Field required"),
        ({"source": "/nowhere", "cells": [{"name": "a", "output": "/x/y"}]}, "no config.json"),
        ({"source": "/nowhere", "cells": []}, "cells: List should have at least 1"),
        ({"source": "/s", "cells": [{"name": "a", "output": "/x/y", "recipe": {"gruop_size": 1}}]}, "gruop_size"),
    ],
)
def test_bad_jobs_are_lines_and_status_2(tmp_path: Path, job: Any, said: str):
    done = run(tmp_path, job)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_no_json_and_no_file(tmp_path: Path):
    assert "Invalid JSON" in run(tmp_path, None, "{").stderr
    done = subprocess.run([sys.executable, "-m", "quantize", "/nowhere/job.json"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "cannot be read" in done.stderr and "Traceback" not in done.stderr


def test_all_faults_of_all_cells_come_before_anything_is_loaded(source: Path, tmp_path: Path):
    cells = [
        {"name": n, "recipe": r, "output": str(tmp_path / "out" / n)}
        for n, r in (("a", {"group_size": 96}), ("b", {"ignore": ["re:visual.*", "lm_head"]}), ("c", {}))
    ]
    start = time.monotonic()
    done = run(tmp_path, {"source": str(source), "cells": cells})
    assert time.monotonic() - start < 5
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "out").exists()
    assert "cell a: group_size 96" in done.stderr and "cell b: ignore 're:visual.*'" in done.stderr
    assert "cell c" not in done.stderr


def test_an_output_whose_parent_is_a_file(source: Path, tmp_path: Path):
    (tmp_path / "out").write_text("")
    done = run(tmp_path, noise_job(source, tmp_path))
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_build_that_ends_early_leaves_no_folder_and_the_old_one(tmp_path: Path, error: type[BaseException]):
    output = tmp_path / "c"
    with pytest.raises(error), replaced(output, False) as folder:
        (folder / "config.json").write_text("{}")
        raise error
    assert list(tmp_path.iterdir()) == []
    output.mkdir()
    (output / "old").write_text("")
    with pytest.raises(error), replaced(output, True) as folder:
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["c"] and (output / "old").is_file()


def test_the_build_dies_with_the_process_that_started_it(tmp_path: Path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'from harness.util.processes import die_with_parent;"
        "die_with_parent(); print(1, flush=True); import time; time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} outlived its parent")


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status


def test_help_says_how(tmp_path: Path):
    done = subprocess.run([sys.executable, "-m", "quantize", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "JOB.json" in done.stderr


def test_noise_on_shapes_only_checkpoint_verifies(source: Path, tmp_path: Path):
    from harness.checkpoints.verify import verify

    assert run(tmp_path, noise_job(source, tmp_path)).returncode == 0
    assert verify(tmp_path / "out/control", source).faults == []
    assert shapes.SIDE_FILES.keys() <= {p.name for p in (tmp_path / "out/control").iterdir()}
