"""All tasks in one order: units of one picture, blocks that grow, what a Cell's key knows of it, what is refused."""

from __future__ import annotations

import pytest

from harness.record.order import place
from harness.run.until_decided import blocks
from harness.workloads.accuracy import Accuracy, AccuracySpec
from harness.workloads.shuffled import Shuffled
from tests.helpers.records import sample

TASKS = ["demo_vl_digits", "demo_vl_count"]


@pytest.fixture(scope="module")
def shuffled() -> Shuffled:
    return Shuffled(TASKS, AccuracySpec(tasks=("demo_vl",), stop="decided", limit=40))


def test_every_question_has_one_place_and_tasks_are_mixed(shuffled):
    every = [question for unit in shuffled.units for question in unit]
    assert sorted(every) == [(name, i) for name in sorted(TASKS) for i in range(40)]
    assert shuffled.counts == dict.fromkeys(TASKS, 40) and shuffled.questions(len(shuffled.units)) == 80
    assert len({name for name, _ in every[:20]}) == 2, "the first questions are of both tasks"
    assert shuffled.most == max(map(len, shuffled.units))


def test_the_order_is_the_one_that_a_reader_of_the_samples_finds(shuffled):
    from harness.workloads.accuracy import pixels_hash

    found = []
    for unit in shuffled.units[:10]:
        name, index = unit[0]
        questions = shuffled.tasks[name]
        found.append(place(name, questions.ids(None)[index], pixels_hash(questions.pictures(questions.rows[index]))))
    assert found == sorted(found)


def test_what_was_answered_is_a_whole_number_of_units(shuffled):
    known: dict[str, set[int]] = {name: set() for name in TASKS}
    for unit in shuffled.units[:7]:
        for name, index in unit:
            known[name].add(index)
    assert shuffled.units_of(known) == 7
    assert shuffled.units_of({}) == 0
    assert shuffled.units_of({name: set(range(40)) for name in TASKS}) == len(shuffled.units)


def test_answers_that_were_kept_are_known_by_their_place_with_what_was_guessed(shuffled):
    ids = shuffled.tasks[TASKS[0]].ids(None)
    kept = shuffled.known(TASKS[0], [sample(ids[5], 1.0), sample(ids[2], 0.0)], {"guessed": [ids[2]]})
    assert list(kept.samples) == [5, 2] and kept.guessed == {2}
    found = shuffled.measured(TASKS[0], kept)
    assert found.facts == {"guessed": [ids[2]]} and found.metrics["guessed"].value == 0.5
    places = [index for unit in shuffled.units[:9] for name, index in unit if name == TASKS[0]]
    every = shuffled.known(TASKS[0], [sample(doc_id, 1.0) for doc_id in ids[:40]], {"guessed": ids[:40]})
    cut = shuffled.first(9, TASKS[0], every)
    assert list(cut.samples) == places and cut.guessed == set(places)


def test_blocks_grow_and_end_at_the_last_unit():
    assert list(blocks(1000, 100, 50, 1.5)) == [100, 150, 225, 338, 507, 761, 1000]
    assert list(blocks(10, 100, 50, 1.5)) == [10]
    assert list(blocks(0, 1, 1, 2.0)) == [0]


def test_a_stop_brings_the_order_and_the_key_knows_the_order_alone():
    plain, stops = AccuracySpec(tasks=("demo_vl",)), AccuracySpec(tasks=("demo_vl",), stop="decided")
    rest = AccuracySpec(tasks=("demo_vl",), order="shuffled")
    assert (plain.order, stops.order) == ("tasks", "shuffled")
    keys = [Accuracy().identity(spec, {"task": TASKS[0]}) for spec in (plain, stops, rest)]
    assert keys[1] == keys[2] != keys[0]
    assert set(keys[1]) - set(keys[0]) == {"shuffled_with"} and TASKS[1] in keys[1]["shuffled_with"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"stop": "decided", "order": "tasks"}, "needs order: shuffled"),
        ({"order": "shuffled", "divergence": 5}, "divergence needs"),
        ({"stop": "soon"}, "decided"),
    ],
)
def test_what_does_not_go_together_is_said(asked, told):
    with pytest.raises(ValueError, match=told):
        AccuracySpec.model_validate({"tasks": ["demo_vl"]} | asked)
