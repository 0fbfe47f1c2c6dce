"""Folders for a while: removed by their owner, by the guard, or by whoever comes next, and by nobody while they are held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.util import scratch
from harness.util.scratch import Scratch
from tests.helpers.records import ROOT


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A temporary folder of the test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def there() -> list[str]:
    return sorted(p.name for p in scratch.base_folder().iterdir() if p.is_dir())


def test_a_folder_goes_with_its_block_and_with_its_owner(own):
    with Scratch("one") as folder:
        (folder / "x").write_text("1")
        assert folder.is_relative_to(own) and there() == [folder.name]
    assert there() == []
    kept = Scratch("two")
    assert len(there()) == 1
    del kept
    assert there() == []


def test_what_a_killed_process_left_is_swept_and_what_is_held_stays(own):
    code = (
        "import time; from harness.util.scratch import Scratch; s = Scratch('left'); print(s.path, flush=True); time.sleep(60)"
    )
    left = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert left.stdout is not None
    place = Path(left.stdout.readline().strip())
    mine = Scratch("mine")
    assert place.is_dir() and mine.path.is_dir()
    left.send_signal(signal.SIGKILL)
    left.wait()
    with Scratch("next") as folder:
        assert there() == sorted([mine.path.name, folder.name])
    mine.remove()
    assert there() == []


def test_the_guard_removes_the_folder_when_its_asker_is_killed(own):
    folder = own / "engine-1"
    folder.mkdir()
    (folder / "socket").write_text("")
    asker = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, 'harness/util/guard.py', 'sleep', '60'], stdin=subprocess.PIPE)\n"
        "print('up', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", asker],
        cwd=ROOT,
        env=os.environ | {scratch.VARIABLE: str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()
