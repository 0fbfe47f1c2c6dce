"""Answers that are none are told from answers that are wrong."""

from __future__ import annotations

import random

import pytest

from harness.record.health import AnswerCounts, degenerate, health_of, loops
from tests.helpers.records import sample


@pytest.mark.parametrize("text", ["!!!!", "!" * 500, "the the the the the", "abcabcabcabcab", "是是是是是是"])
def test_a_unit_over_and_over_is_a_loop(text):
    assert loops(sample("1", 0, text))


@pytest.mark.parametrize("text", ["", "B", "1000", "yes, yes, no", "The answer is 42.", "aaa", "banana"])
def test_answers_are_no_loops(text):
    assert not loops(sample("1", 0, text, response=text))


def test_a_loop_that_is_the_right_answer_is_none():
    assert not loops(sample("1", 1, "1111", target="1111"))


def test_one_answer_for_all_is_degenerate_unless_it_is_right_for_all():
    many = [sample(str(i), 0, "B", target="ABCD"[i % 4]) for i in range(40)]
    assert "are one and the same ('B')" in degenerate(many)
    assert degenerate([s.model_copy(update={"target": "B"}) for s in many]) is None
    assert degenerate(many[:5]) is None and degenerate([]) is None


def test_documents_that_were_not_asked_are_no_answers():
    aside = [sample(str(i), 0, "", parsed=False, finish_reason="not asked", target=str(i)) for i in range(40)]
    good = [sample(str(i), 1, str(i), target=str(i)) for i in range(40, 44)]
    assert health_of([*aside, *good]).degenerate is None and health_of([*aside, *good]).unparsed == 0
    assert health_of(aside).degenerate is None


def test_health_counts_what_was_cut_and_not_found():
    found = health_of([sample("1", 0, "x", finish_reason="length"), sample("2", 0, "y", parsed=False)])
    assert (found.cut_by_length, found.unparsed, found.degenerate) == (0.5, 0.5, None)


def test_counts_that_follow_from_anothers_are_the_counts():
    """One answer for all before, after, both or neither; few asked; what was the commonest is gone."""
    draw = random.Random(0)
    for _ in range(300):
        arms = []
        for texts in draw.choices(["A", "B", "AB", "AAAAAAAAAAAAAAAAAAAAAAAAAB", "ABCDEFGH"], k=2):
            finish = ["stop", "not asked"] if draw.random() < 0.3 else ["stop"]
            arms.append([sample(str(i), 0, draw.choice(texts), finish_reason=draw.choice(finish)) for i in range(30)])
        before, after = ([s.model_copy(update={"target": str(i % 3)}) for i, s in enumerate(arm)] for arm in arms)
        changed = [i for i in range(30) if before[i] != after[i]]
        tally = AnswerCounts.of(before).replaced([before[i] for i in changed], [after[i] for i in changed])
        assert tally.health() == health_of(after)
        assert AnswerCounts.total([tally, AnswerCounts.of(before)]).health() == health_of([*after, *before])
