"""Tasks that are prepared while another is asked: order, turns, what is dropped. The real lm-eval client."""

from __future__ import annotations

import random
import threading
import time

import pytest

from harness.engine.session import Session
from harness.util.errors import CellFailed
from harness.workloads.accuracy import Accuracy, AccuracySpec
from harness.workloads.lm_eval import asking
from harness.workloads.lm_eval.questions import load
from tests.helpers.chat_server import DATA, TASK, Server, doc, engine_of, measured


@pytest.fixture
def spec(tmp_path):
    """Two tasks of twelve questions each, which say their number."""
    for task in ("first", "second"):
        folder = tmp_path / task
        folder.mkdir()
        docs = [doc(f"{i}", question=f"{task} {i}") for i in range(12)]
        (folder / "t.yaml").write_text(TASK.format(name=f"{task}_{tmp_path.name}".replace("-", "_")))
        (folder / "data.py").write_text(DATA.format(docs=docs))
    names = tuple(f"{task}_{tmp_path.name}".replace("-", "_") for task in ("first", "second"))
    return AccuracySpec(tasks=names, include_path=tmp_path, concurrency=4)


@pytest.fixture
def session():
    with Session() as made:
        yield made


@pytest.fixture
def measure(session):
    """Measures one task, with the one that follows on the same engine."""

    def go(engine, spec, name, following=None):
        coming = {"task": following} if following else None
        return measured(Accuracy(), engine, spec, {"task": name}, session, following=coming)

    return go


def asked_of(server) -> list[str]:
    return [body["messages"][-1]["content"][-1]["text"].split()[0] for body in server.bodies]


def test_the_next_task_is_sent_when_this_one_is_answered_and_gives_what_it_gives_alone(spec, measure, tmp_path):
    server = Server(lambda colour, _: (time.sleep(0.02), (colour, "stop"))[1])
    engine = engine_of(server, tmp_path)
    first, second = spec.tasks
    one = measure(engine, spec, first, following=second)
    other = measure(engine, spec, second)
    assert asked_of(server) == ["first"] * 12 + ["second"] * 12
    assert one.metrics["score"].value == other.metrics["score"].value == 1.0
    alone = measure(engine, spec, second)
    assert list(alone.samples) == list(other.samples)
    assert [s.doc_id for s in other.samples] == [str(i) for i in range(12)]


def test_it_is_ready_before_its_turn_and_waits_for_it(spec, session, measure, tmp_path):
    hold = threading.Event()
    server = Server(lambda colour, _: (hold.wait(10), (colour, "stop"))[1])
    engine, (first, second) = engine_of(server, tmp_path), spec.tasks
    thread = threading.Thread(target=measure, args=(engine, spec, first, second))
    thread.start()
    while session._prepared is None:
        time.sleep(0.01)
    assert session._prepared.is_for(engine, second) and not session._prepared.sent.is_set()
    hold.set()
    thread.join(20)
    assert not thread.is_alive() and asked_of(server)[:12] == ["first"] * 12


def test_what_was_started_for_another_engine_or_task_is_dropped_and_sends_nothing(spec, session, measure, tmp_path):
    server, other = Server(lambda colour, _: (colour, "stop")), Server(lambda *_: ("blue", "stop"))
    second = spec.tasks[1]
    stale = asking.Asking(engine_of(other, tmp_path), load(second, spec), spec, second, range(12))
    session.keep(stale)
    assert measure(engine_of(server, tmp_path), spec, second).metrics["score"].value == 1.0
    assert stale.ended(20) and other.bodies == []
    with pytest.raises(asking.Dropped):
        stale.rows()


def test_an_engine_that_dies_between_two_tasks_fails_both(spec, measure, tmp_path):
    server = Server(lambda colour, _: (colour, "stop"))
    engine, (first, second) = engine_of(server, tmp_path), spec.tasks
    left = 1

    def metrics():
        nonlocal left
        left -= 1
        if left < 0:
            raise CellFailed("the server does not answer")
        return {}

    engine.metrics = metrics
    for name in (first, second):
        with pytest.raises(CellFailed, match="the server does not answer"):
            measure(engine, spec, name, second if name == first else None)
    assert set(asked_of(server)) == {"first"}


def test_another_threads_random_numbers_are_no_guess(spec, measure, tmp_path):
    stop = threading.Event()

    def draw():
        while not stop.is_set():
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        server = Server(lambda colour, _: (colour, "stop"))
        found = measure(engine_of(server, tmp_path), spec, spec.tasks[0])
    finally:
        stop.set()
        thread.join()
    assert found.samples and all(sample.parsed for sample in found.samples)


def test_a_next_task_that_cannot_be_loaded_fails_its_own_cell_alone(spec, measure, tmp_path):
    server = Server(lambda colour, _: (colour, "stop"))
    engine, (first, second) = engine_of(server, tmp_path), spec.tasks
    (tmp_path / "second" / "data.py").write_text("raise ConnectionError('no data here')")
    assert measure(engine, spec, first, second).metrics["score"].value == 1.0
    with pytest.raises(CellFailed, match="no data here"):
        measure(engine, spec, second)


def test_counters_that_do_not_come_between_two_tasks_cost_neither(spec, measure, tmp_path):
    server = Server(lambda colour, _: (colour, "stop"))
    engine, (first, second) = engine_of(server, tmp_path), spec.tasks
    calls = 0

    def metrics():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise CellFailed("timed out")
        return {}

    engine.metrics = metrics
    assert measure(engine, spec, first, second).metrics["score"].value == 1.0
    assert measure(engine, spec, second).metrics["score"].value == 1.0
