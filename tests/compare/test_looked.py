"""What paired scores say where one looked between the questions: valid at every look, and the gate's own reading."""

from __future__ import annotations

import numpy as np
import pytest

from harness.compare import gate, sequential
from harness.compare.looked import FIXED_LEVEL, Looked, both
from harness.compare.runs import compare_run
from harness.compare.stats import Interval
from harness.record.order import place
from harness.record.records import Asked
from harness.suite.gate_policy import AccuracyPolicy, Policy
from tests.helpers.records import record, run_of, sample

POLICY = Policy()


def in_order(task: str, ids: range) -> list[str]:
    return sorted(map(str, ids), key=lambda i: place(task, i, f"i{i}"))


def stopped(path, n: int, of: int, lost: int, more: int = 0, decided: bool = True, limit: float = 0.98):
    """A Run of two arms that were asked `n` of `of` questions, in order; the baseline `more` than the candidate."""
    order = in_order("t", range(of))
    about = Asked(of=of, most=1, limit=limit, decided=decided)
    base = [sample(i, 1.0) for i in order[: n + more]]
    other = [sample(i, 0.0 if k < lost else 1.0) for k, i in enumerate(order[:n])]
    marked = [record(name, str(k)).model_copy(update={"asked": about}) for k, name in enumerate("ab")]
    return run_of(path, (marked[0], base), (marked[1], other))


def test_the_interval_is_the_sequences_own_in_the_order_of_asking(tmp_path):
    (c,), faults = compare_run(stopped(tmp_path / "r", 800, 3000, 3), "a")
    after = np.ones(800)
    after[:3] = 0
    assert not faults and c.stopped and (c.n, c.of) == (800, 3000)
    assert c.recovery == sequential.interval(np.ones(800), after, 1.0)
    assert c.recovery.level == c.difference.level == pytest.approx(0.98)
    assert c.difference.low < -3 / 800 < c.difference.high and c.p_value > 0.05


def test_an_arm_that_was_asked_less_is_compared_on_what_both_were_asked(tmp_path):
    (c,), faults = compare_run(stopped(tmp_path / "r", 500, 3000, 2, more=300), "a")
    assert not faults and c.n == 500 and c.lost == 2


def test_a_gate_judges_a_stopped_run_by_that_interval(tmp_path):
    (verdict,) = gate.judge(stopped(tmp_path / "good", 800, 3000, 0), POLICY)
    assert verdict.outcome == "pass" and "asking stopped after 800 of 3,000 questions" in verdict.reason
    (verdict,) = gate.judge(stopped(tmp_path / "bad", 300, 3000, 60), POLICY)
    assert verdict.outcome == "fail"


def test_a_run_that_ended_before_anything_was_decided_is_blocked(tmp_path):
    verdicts = gate.judge(stopped(tmp_path / "r", 100, 3000, 0, decided=False), POLICY)
    assert gate.status(verdicts) == 3
    assert any("was asked 100 of 3,000 questions, and nothing is decided" in v.reason for v in verdicts)


def test_what_is_settled_is_what_the_policy_requires(tmp_path):
    found, _ = compare_run(stopped(tmp_path / "r", 800, 3000, 0), "a")
    assert gate.settled(found, AccuracyPolicy()) == {"b": "pass"}
    assert gate.settled(found, AccuracyPolicy(min_recovery=0.999)) == {"b": "inconclusive"}
    assert gate.settled(found, AccuracyPolicy(tasks=("another",))) == {}


def test_at_the_last_question_the_fixed_rule_is_read_as_well(tmp_path):
    (c,), _ = compare_run(stopped(tmp_path / "r", 1500, 1500, 8, decided=False), "a")
    after = np.ones(1500)
    after[:8] = 0
    alone = sequential.interval(np.ones(1500), after, 1.0)
    assert not c.stopped and c.of == 1500
    assert alone.low < c.recovery.low < c.recovery.value < c.recovery.high <= alone.high
    assert c.recovery.level == 0.95 and pytest.approx(0.97) == FIXED_LEVEL
    assert both(Interval(1, 0.9, 1.1), Interval(1, 0.95, 1.2)) == Interval(1, 0.95, 1.1, 0.95)


def test_candidates_share_the_error(tmp_path):
    run = stopped(tmp_path / "r", 800, 3000, 3)
    alone = compare_run(run, "a")[0][0].recovery
    for one in run.records():
        run.add(
            one.model_copy(update={"asked": one.asked.model_copy(update={"candidates": 4})}), list(run.samples(one.cell.key))
        )
    shared = compare_run(run, "a")[0][0].recovery
    assert shared.low < alone.low and shared.level == pytest.approx(1 - 0.02 / 4)


def test_questions_of_two_tasks_on_one_picture_are_one_unit():
    about = Asked(of=2, most=2, limit=0.98)
    one = Looked(about, ("a", "b"), np.array([1.0, 1.0]), np.array([1.0, 0.0]), np.ones(2))
    two = Looked(about, ("b", "c"), np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.ones(2))
    whole = Looked.total([one, two])
    assert whole.places == ("a", "b", "c") and whole.asked.of == 4
    assert whole.before.tolist() == [1, 2, 0] and whole.after.tolist() == [1, 1, 0] and whole.sizes.tolist() == [1, 2, 1]


def test_however_often_one_looks_an_equal_mean_is_seldom_called_different():
    rng, wrong = np.random.default_rng(1), 0
    about = Asked(of=400, most=1, limit=0.98)
    names = tuple(f"{i:04}" for i in range(400))
    for _ in range(200):
        before = (rng.random(400) < 0.8).astype(float)
        after = np.where(rng.random(400) < 0.1, (rng.random(400) < 0.8).astype(float), before)
        # Stops at the worst of ten looks.
        p = min(Looked(about, names[:n], before[:n], after[:n], np.ones(n)).p_value() for n in range(40, 401, 40))
        wrong += p < 0.05
    assert wrong <= 12, "5 % of 200, with three standard errors to spare above what bets give"


def test_the_order_follows_from_the_pictures_alone():
    assert place("t", "1", "abc") == place("u", "2", "abc") != place("t", "1", "abd")
    assert place("t", "1", "") != place("u", "1", "") != place("u", "2", "")
