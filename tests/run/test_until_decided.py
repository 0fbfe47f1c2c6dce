"""Asking in one shuffled order until the gate's recovery is decided. Engines are chat servers that answer by rule here."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import demo
from harness.cli import main
from harness.compare import gate
from harness.engine import device
from harness.engine.session import Session
from harness.record.folder import RunFolder
from harness.run.execute import run_suite
from harness.suite.schema import load_suite
from harness.util.errors import Refused
from tests.helpers.chat_server import DATA, TASK, Server, doc, engine_of

COUNT = 60
"""Documents of each of the two tasks."""
SUITE = """
name: s
model: demo
variants:
  bf16: {}
  good: {checkpoint: good}
  bad: {checkpoint: bad}
workloads:
  accuracy: {tasks: [one, two], include_path: tasks, concurrency: 8, stop: decided}
engine: {max_model_len: 512}
gate: {accuracy: {min_recovery: 0.8}}
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


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A baseline, a candidate that answers like it and one that gets all of it wrong, and what was asked of each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    for place, name in enumerate(("one", "two")):
        text = TASK.format(name=name).replace("data.", f"{name}.")
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
        docs = [doc(f"{name}{i}", size=(32 + i, 32 + place)) for i in range(COUNT)]
        (tmp_path / "tasks" / f"{name}.py").write_text(DATA.format(docs=docs))
    for name in ("good", "bad"):
        shutil.copytree(demo.MODEL_DIR, tmp_path / name)
        about = json.loads((tmp_path / name / "generation_config.json").read_text())
        (tmp_path / name / "generation_config.json").write_text(json.dumps(about | {"_from": name}))
    (tmp_path / "suite.yaml").write_text(SUITE)
    state = SimpleNamespace(started=[], down=set(), report=Lines(), arm=lambda name: name.rpartition("-")[0])
    state.servers = {
        "bf16": Server(lambda *_: ("red", "stop")),
        "good": Server(lambda *_: 500 if "good" in state.down else ("red", "stop")),
        "bad": Server(lambda *_: ("blue", "stop")),
    }

    @contextlib.contextmanager
    def serving(session, checkpoint, settings, log, name, progress=None):
        arm = state.arm(name)
        state.started.append(arm)
        yield engine_of(state.servers[arm], tmp_path)
        state.started.append(f"end of {arm}")

    monkeypatch.setattr(Session, "serving", serving)
    monkeypatch.setattr(Session, "make_ahead", lambda *_: None)

    def run(*overrides: str, only: str | None = None):
        state.started.clear()
        suite = load_suite(tmp_path / "suite.yaml", overrides)
        return run_suite(suite, RunFolder(tmp_path / "r"), tmp_path / "checkpoints", state.report, only)[1]

    state.run = run
    state.asked = lambda: {name: len(server.bodies) for name, server in state.servers.items()}
    state.records = lambda: {(r.cell.variant, r.cell.point["task"]): r for r in RunFolder(tmp_path / "r").records()}
    return state


def of(lab, variant: str) -> int:
    """Questions that a variant's Records hold."""
    return sum(record.samples for (name, _), record in lab.records().items() if name == variant)


def test_asking_ends_for_each_candidate_when_it_is_decided(lab, tmp_path):
    assert lab.run() == []
    asked = lab.asked()
    assert 0 < asked["bad"] < asked["good"] == asked["bf16"] < 2 * COUNT
    assert {name: of(lab, name) for name in asked} == asked, "every answer is kept"
    for record in lab.records().values():
        assert record.status == "done" and record.asked.decided and not record.whole
        assert (record.asked.of, record.asked.most, record.asked.limit, record.asked.candidates) == (COUNT, 1, 0.8, 2)
    verdicts = gate.judge(RunFolder(tmp_path / "r"), load_suite(tmp_path / "suite.yaml").gate)
    whole = {v.candidate: v.outcome for v in verdicts if v.place == "all"}
    assert whole == {"good": "pass", "bad": "fail"}
    assert any(line.startswith("good: after ") and " pass, recovery 100.0 %" in line for line in lab.report.told)


def test_the_same_command_asks_nothing_more_and_to_the_end_asks_the_rest(lab):
    lab.run()
    before = lab.asked()
    assert lab.run() == [] and lab.started == [] and lab.asked() == before
    assert lab.run("workloads.accuracy.stop=null", "workloads.accuracy.order=shuffled") == []
    assert lab.asked() == dict.fromkeys(before, 2 * COUNT), "no question was asked twice"
    for record in lab.records().values():
        assert record.whole and record.samples == COUNT and record.asked is not None, "that it was looked at stays known"
    lab.run()
    assert lab.started == [], "all is more than enough for a stop"


def test_what_a_broken_run_has_asked_is_not_asked_again(lab):
    lab.down.add("good")
    (told,) = lab.run()
    assert told.startswith("good/accuracy: ") and of(lab, "bf16") > 0 and of(lab, "good") == 0
    first = lab.asked()["bf16"]
    lab.down.clear()
    lab.servers["good"].bodies.clear()
    assert lab.run() == []
    assert lab.asked()["bf16"] == of(lab, "bf16") >= first, "the baseline's first block was kept"
    assert lab.asked()["good"] == of(lab, "good")


def test_another_limit_or_another_candidate_asks_on(lab):
    lab.run()
    before = of(lab, "good")
    assert lab.run("gate.accuracy.min_recovery=0.85") == []
    assert of(lab, "good") > before
    assert {r.asked.limit for r in lab.records().values()} == {0.85}
    assert lab.run("gate.accuracy.min_recovery=0.85") == [] and lab.started == []


def test_without_a_candidate_nothing_is_ever_decided(lab):
    suite = (
        Path("suite.yaml")
        .read_text()
        .replace("  good: {checkpoint: good}\n  bad: {checkpoint: bad}\n", "  again: {repeat: 1}\n")
    )
    Path("suite.yaml").write_text(suite)
    lab.servers["again"] = lab.servers["bf16"]
    lab.arm = lambda name: "again" if "again" in name else name.rpartition("-")[0]
    assert lab.run() == []
    assert of(lab, "bf16") == of(lab, "again") == 2 * COUNT


def test_a_kill_between_the_records_of_a_block_costs_that_block_alone(lab, tmp_path):
    lab.run()
    run, before = RunFolder(tmp_path / "r"), lab.records()
    lost = before["good", "two"]
    kept = list(run.samples(lost.cell.key))[:3]
    run.add(lost.model_copy(update={"asked": lost.asked.model_copy(update={"decided": False})}), kept)
    asked = lab.asked()
    assert lab.run() == []
    assert {name: r.samples for name, r in lab.records().items()} == {name: r.samples for name, r in before.items()}
    again = lab.asked()
    assert asked["good"] < again["good"] < 2 * asked["good"] and again["bf16"] == asked["bf16"]
    for record in lab.records().values():
        assert len({s.doc_id for s in run.samples(record.cell.key)}) == record.samples
        assert record.metrics["score"].n == record.samples


@pytest.mark.parametrize("only", ["good", "one", "bf16/accuracy/two"])
def test_cells_that_are_asked_together_are_not_parted(lab, only):
    with pytest.raises(Refused, match="parts Cells that are asked in one shuffled order"):
        lab.run(only=only)


def test_engines_that_fill_a_card_take_turns_in_larger_blocks(lab, monkeypatch):
    monkeypatch.setattr("harness.run.until_decided.beside", lambda *_: False)
    assert lab.run("workloads.accuracy.concurrency=1") == []
    starts = [name for name in lab.started if not name.startswith("end")]
    assert starts == ["bf16", "good", "bad", "good", "bf16"], "every second look runs backwards"
    assert all(b == f"end of {a}" for a, b in zip(lab.started[::2], lab.started[1::2], strict=True)), "one at a time"


def test_without_a_decision_every_question_is_asked(lab):
    lab.run("gate.accuracy.min_recovery=0.999")
    assert of(lab, "good") == 2 * COUNT == of(lab, "bf16") > of(lab, "bad")
    assert [r.whole and not r.asked.decided for (name, _), r in lab.records().items() if name == "good"] == [True, True]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("settings={small: {max_num_seqs: 2}, large: {max_num_seqs: 4}}", "knows no settings axis"),
        ("variants.good={run: r}", "was asked task by task"),
    ],
)
def test_what_cannot_be_shuffled_is_refused(lab, monkeypatch, override, told):
    with pytest.raises(Refused, match=told):
        lab.run(override)


def test_plan_says_how_the_arms_are_asked(lab, capsys):
    assert main.main(["plan", "suite.yaml"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "in one shuffled order, block by block, until each candidate is decided; their engines stay up side by side" in told
    assert main.main(["plan", "suite.yaml", "--to-the-end"]) == 0
    assert "block by block, to the last question" in " ".join(capsys.readouterr().out.split())
    capsys.readouterr()
    divergence = ["--set", "workloads.accuracy.stop=null", "--set", "workloads.accuracy.divergence=9"]
    assert main.main(["plan", "suite.yaml", "--until-decided", *divergence]) == 0
    assert "accuracy.divergence is left out" in capsys.readouterr().err
    assert main.main(["plan", "suite.yaml", "--set", "workloads.accuracy.order=tasks"]) == 2
    assert "needs order: shuffled" in capsys.readouterr().err


def test_several_devices_are_refused(lab, monkeypatch):
    from harness.run.executors.local import Local

    monkeypatch.setattr(Local, "here", False)
    with pytest.raises(Refused, match="needs one device on this machine"):
        lab.run()


def test_side_by_side_needs_the_memory_of_all(lab, tmp_path, monkeypatch):
    from harness.run.until_decided import beside

    suite = load_suite(tmp_path / "suite.yaml")
    paths = {name: tmp_path / "good" for name in suite.variants}
    assert beside(suite, paths) is True
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=11 * 2**30))
    assert beside(suite, paths) is False
    monkeypatch.setattr(device, "describe", lambda: {"kind": "gpu", "name": "Card"})
    assert beside(suite, paths) is False
