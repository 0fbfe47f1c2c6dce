"""The finishing of one cell beside the building of the next: overlap, failures, interrupts, kills, a full disk. Cells of
method noise, which need no torch."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.util.files import file_sha256, folder_sha256
from quantize import finish
from quantize.finish import Finisher, replaced
from quantize.job import build
from quantize.methods import noise
from quantize.recipe import Event, Job
from tests.helpers import shapes

ROOT = Path(__file__).resolve().parents[2]
WAIT = 20.0
"""Seconds after which something that should have happened has not."""


def job(source: Path, folder: Path, *names: str) -> dict[str, Any]:
    cells = [
        {"name": n, "recipe": {"method": "noise", "noise_std": 0.1, "seed": i}, "output": str(folder / "out" / n)}
        for i, n in enumerate(names)
    ]
    return {"source": str(source), "cells": cells}


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "out").iterdir() if p.is_dir())


class Gate:
    """noise.write, but cell a's waits until it is opened; says how many writes went on at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.entered, self.opened, self.at_once, self.most = threading.Event(), threading.Event(), 0, 0
        self.write = noise.write
        monkeypatch.setattr(noise, "write", self)

    def __call__(self, source: Path, recipe: Any, folder: Path) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if recipe.seed == 0:
            self.entered.set()
            assert self.opened.wait(WAIT), "the next cell was not begun while this one was finished"
        self.write(source, recipe, folder)
        self.at_once -= 1


def test_a_cell_is_finished_while_the_next_is_built_and_never_two_at_once(source: Path, tmp_path: Path, monkeypatch: Any):
    gate = Gate(monkeypatch)
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if event.message.startswith("building b"):
            gate.opened.set()

    assert build(Job.model_validate(job(source, tmp_path, "a", "b", "c")), report) == 0
    assert gate.most == 1
    assert [e.cell for e in events if e.kind == "cell_done"] == ["a", "b", "c"] == left(tmp_path)


def test_a_cell_that_fails_in_the_thread_is_recorded_and_the_others_are_built(source: Path, tmp_path: Path, monkeypatch: Any):
    write = noise.write

    def full(source: Path, recipe: Any, folder: Path) -> None:
        write(source, recipe, folder)
        if recipe.seed == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(noise, "write", full)
    events: list[Event] = []
    assert build(Job.model_validate(job(source, tmp_path, "a", "b", "c")), events.append) == 1
    assert [(e.kind, e.cell) for e in events if e.kind.startswith("cell")] == [
        ("cell_done", "a"),
        ("cell_failed", "b"),
        ("cell_done", "c"),
    ]
    assert "No space left on device" in next(e.message for e in events if e.kind == "cell_failed")
    assert left(tmp_path) == ["a", "c"]


def test_the_last_cell_failing_in_the_thread_counts_as_well(source: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("quantize.job.verify", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    assert build(Job.model_validate(job(source, tmp_path, "a")), lambda event: None) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_gives_up_the_cell_being_finished(source: Path, tmp_path: Path, monkeypatch: Any, error: Any):
    gate = Gate(monkeypatch)

    def report(event: Event) -> None:
        if event.message.startswith("building b"):
            assert gate.entered.wait(WAIT)
            gate.opened.set()
            raise error

    with pytest.raises(error):
        build(Job.model_validate(job(source, tmp_path, "a", "b")), report)
    assert left(tmp_path) == []


def test_an_interrupt_does_not_wait_for_a_write_that_hangs(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(finish, "PATIENCE", 0.1)
    hanging = threading.Event()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Finisher() as finisher:
        finisher.start(lambda: hanging.wait(WAIT) and None)
        raise KeyboardInterrupt
    assert time.monotonic() - start < WAIT / 2
    hanging.set()


def test_what_is_given_up_late_removes_its_folder(tmp_path: Path):
    finisher = Finisher()

    def work() -> None:
        with replaced(tmp_path / "c", False) as folder:
            (folder / "x").write_text("")
            finisher._given_up.set()
            finisher.go_on()

    finisher.start(work)
    finisher.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that takes a while to write, so that a signal finds the build in the middle of it."""
    folder = shapes.write_source(tmp_path_factory.mktemp("heavy") / "T")
    with (folder / "ballast.bin").open("wb") as file:
        file.truncate(1 << 29)
    return folder


def begun(folder: Path, what: dict[str, Any], **more: Any) -> subprocess.Popen[str]:
    """A build of `what` that has begun to write."""
    (folder / "job.json").write_text(json.dumps(what))
    process = subprocess.Popen(
        [sys.executable, "-m", "quantize", str(folder / "job.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        **more,
    )
    deadline = time.monotonic() + WAIT
    while not list((folder / "out").glob(".*.*/*")) if (folder / "out").is_dir() else True:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    return process


def test_a_kill_while_writing_leaves_no_half_folder_and_the_next_build_clears_up(source: Path, heavy: Path, tmp_path: Path):
    process = begun(tmp_path, job(heavy, tmp_path, "a", "b"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert all(name.startswith(".") for name in left(tmp_path))
    (tmp_path / "job.json").write_text(json.dumps(job(source, tmp_path, "a", "b")))
    done = subprocess.run([sys.executable, "-m", "quantize", str(tmp_path / "job.json")], cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and left(tmp_path) == ["a", "b"]


def only_whole(folder: Path) -> bool:
    """Whether nothing is left but cells that were finished before the signal came: a fast disk may be done with the first."""
    return left(folder) in ([], ["a"]) and all((folder / "out" / name / "manifest.json").is_file() for name in left(folder))


def test_a_termination_while_writing_leaves_nothing_half(heavy: Path, tmp_path: Path):
    process = begun(tmp_path, job(heavy, tmp_path, "a", "b"))
    process.terminate()
    process.communicate(timeout=WAIT)
    assert process.returncode == 128 + signal.SIGTERM
    assert only_whole(tmp_path)


def test_two_grids_that_share_a_folder_do_not_meet(heavy: Path, tmp_path: Path):
    first = begun(tmp_path, job(heavy, tmp_path, "a", "b"))
    (tmp_path / "other.json").write_text(json.dumps(job(heavy, tmp_path, "z", "b")))
    second = subprocess.run(
        [sys.executable, "-m", "quantize", str(tmp_path / "other.json")], cwd=ROOT, capture_output=True, text=True
    )
    assert second.returncode == 2 and f"is being built by process {first.pid}" in second.stderr
    first.terminate()
    first.communicate(timeout=WAIT)
    assert only_whole(tmp_path)


def test_files_that_cannot_be_written_fail_every_cell_and_leave_nothing(source: Path, tmp_path: Path):
    limit = max(p.stat().st_size for p in source.iterdir()) // 2
    (tmp_path / "job.json").write_text(json.dumps(job(source, tmp_path, "a", "b")))
    done = subprocess.run(
        [sys.executable, "-m", "quantize", str(tmp_path / "job.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    failed = [e for e in map(json.loads, done.stdout.splitlines()) if e["kind"] == "cell_failed"]
    assert [e["cell"] for e in failed] == ["a", "b"] and all("File too large" in e["message"] for e in failed)
    assert left(tmp_path) == []


def test_a_manifest_hashes_every_file_and_says_where_the_time_went(source: Path, tmp_path: Path):
    assert build(Job.model_validate(job(source, tmp_path, "a")), lambda event: None) == 0
    out = tmp_path / "out" / "a"
    manifest = json.loads((out / "manifest.json").read_text())
    files = [p for p in out.iterdir() if p.name != "manifest.json"]
    assert manifest["files"] == {p.name: {"sha256": file_sha256(p), "bytes": p.stat().st_size} for p in sorted(files)}
    assert manifest["content_sha256"] == folder_sha256(out, skip=("manifest.json",))
    assert manifest["source"]["sha256"] == folder_sha256(source)
    assert {"write", "verify", "hash", "wait", "cell", "hash_source"} <= manifest["seconds"].keys()
    assert manifest["peak_bytes"]["host"] > 1 << 20 and manifest["peak_bytes"]["device"] is None
