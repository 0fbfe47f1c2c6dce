"""What a run does between its engines. The engine is a stand-in here; tests/e2e starts real ones."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from harness import workloads
from harness.engine import device
from harness.engine.log import EngineFacts
from harness.engine.session import Session
from harness.record.folder import RunFolder
from harness.record.records import Metric
from harness.run import measure
from harness.run.execute import run_suite
from harness.suite.schema import load_suite
from harness.util.errors import CellFailed
from harness.workloads import Measurement, Workload

SUITE = """
name: s
model: demo
variants:
  bf16: {}
  bf16-again: {repeat: 1}
workloads:
  memory: {}
engine: {max_model_len: 512}
"""


class Lines:
    """A Reporter that keeps what it is told."""

    def __init__(self):
        self.told: list[str] = []

    def line(self, text: str) -> None:
        self.told.append(text)

    def stage(self, *_: object) -> None:
        pass

    update = stage


class Measured(Workload):
    """A workload that measures nothing and is done at once."""

    name = "memory"
    status, reason = "done", None

    def points(self, spec):
        return [{"load": "x"}]

    def identity(self, spec, point):
        return point

    def measure(self, cell):
        return Measurement({"weights_gib": Metric(value=1.0, unit="GiB")}, status=self.status, reason=self.reason)


@pytest.fixture
def card(monkeypatch):
    """A card of 24 GiB whose first engine keeps `left` GiB after it has ended."""
    state = SimpleNamespace(left=0.0, held=0.0, started=[], dead=False)

    @contextlib.contextmanager
    def serving(session, checkpoint, settings, log, name, progress=None):
        state.started.append(name.partition("-")[0] if "again" not in name else "again")
        yield SimpleNamespace(facts=EngineFacts(vllm="0", arguments=[], start_s=1.0), alive=lambda *_: not state.dead)
        state.held += state.left

    monkeypatch.setattr(Session, "serving", serving)
    monkeypatch.setattr(device, "describe", lambda: {"kind": "gpu", "name": "Card", "memory_gib": 24.0, "count": 1})
    monkeypatch.setattr(device, "memory_free", lambda: int((24 - state.held) * 2**30))
    monkeypatch.setattr(device, "holders", lambda: ["python (pid 4711), 9.0 GiB"] if state.held else [])
    monkeypatch.setattr(workloads, "WORKLOADS", [Measured])
    monkeypatch.setattr("harness.suite.schema.WORKLOADS", [Measured])
    monkeypatch.setattr(measure, "make_ready", lambda chain, session: None)
    return state


def test_memory_that_does_not_come_back_stops_the_second_engine_and_names_who_holds_it(card, write_suite, tmp_path):
    card.left = 9.0
    folder, said = RunFolder(tmp_path / "run"), Lines()
    _, failures = run_suite(load_suite(write_suite(SUITE)), folder, tmp_path / "checkpoints", said)
    assert card.started == ["bf16"], "the second engine was not started"
    assert len(failures) == 1 and "bf16-again/memory" in failures[0] and "the engine was not started" in failures[0]
    assert "python (pid 4711), 9.0 GiB" in failures[0] and any("15.0 GiB are free" in line for line in said.told)
    assert [r.cell.variant for r in folder.records()] == ["bf16"], "what was measured stays"
    # Freed, the same command goes on with the one that is missing.
    card.held = card.left = 0.0
    _, failures = run_suite(load_suite(write_suite(SUITE)), folder, tmp_path / "checkpoints", Lines())
    assert failures == [] and card.started == ["bf16", "again"]
    assert [r.cell.variant for r in folder.records()] == ["bf16", "bf16-again"]


def test_memory_that_comes_back_lets_the_second_start(card, write_suite, tmp_path):
    _, failures = run_suite(load_suite(write_suite(SUITE)), RunFolder(tmp_path / "run"), tmp_path / "checkpoints", Lines())
    assert failures == [] and card.started == ["bf16", "again"]


def test_a_cell_whose_engine_died_says_so_before_what_its_client_saw(card, write_suite, tmp_path, monkeypatch):
    def die(*_):
        card.dead = True
        raise CellFailed("ClientResponseError: 500")

    monkeypatch.setattr(Measured, "measure", die)
    folder = RunFolder(tmp_path / "run")
    _, failures = run_suite(load_suite(write_suite(SUITE)), folder, tmp_path / "checkpoints", Lines())
    assert next(r.reason for r in folder.records()).startswith("the engine died (log: ")
    assert "ClientResponseError: 500" in failures[0] and "its other Cells were not measured" in failures[1]


def test_an_invalid_cell_fails_the_run_and_is_measured_again_by_the_next(card, write_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(Measured, "status", "invalid")
    monkeypatch.setattr(Measured, "reason", "12 tokens came from the prefix cache")
    suite, folder = load_suite(write_suite(SUITE)), RunFolder(tmp_path / "run")
    _, failures = run_suite(suite, folder, tmp_path / "checkpoints", Lines())
    assert len(failures) == 2 and "invalid: 12 tokens came from the prefix cache" in failures[0]
    assert {r.status for r in folder.records()} == {"invalid"}
    monkeypatch.setattr(Measured, "status", "done")
    monkeypatch.setattr(Measured, "reason", None)
    _, failures = run_suite(suite, folder, tmp_path / "checkpoints", Lines())
    assert failures == [] and {r.status for r in folder.records()} == {"done"} and len(card.started) == 4
