"""Verdicts before the last question: valid however often one looks, the same whatever is counted, and on a Run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from harness.cli.main import main
from harness.compare import sequential
from tests.helpers.records import ROOT

ONES = np.ones(3000)


def arms(rng, n: int, accuracy: float, changed: float, recovery: float):
    """Two arms' answers to single questions; the candidate keeps `recovery` of the baseline's accuracy."""
    loss = (1 - recovery) * accuracy
    lost, gained = ((max(changed, loss) + sign * loss) / 2 for sign in (1, -1))
    draw, before = rng.random(n), rng.random(n) < accuracy
    after = np.where(before, draw >= lost / accuracy, draw < gained / (1 - accuracy))
    return before.astype(float), after.astype(float), np.ones(n)


def test_the_capital_is_a_fair_game_at_the_limit_and_beyond_it():
    # All sequences of four questions, by their probabilities: the mean capital is 1 where the mean of the gains is 0.
    gains, chances = np.array([-0.98, 0.02, 1.0]), np.array([0.02, 0.9604, 0.0196])
    chances[1] = 1 - chances[0] - chances[2]
    gains[1] = -(gains[0] * chances[0] + gains[2] * chances[2]) / chances[1]
    total = 0.0
    for sequence in itertools.product(range(3), repeat=4):
        total += chances[list(sequence)].prod() * np.exp(sequential.capital(gains[list(sequence)], 0.98))[-1]
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("recovery", "outcome", "most"), [(1.0, "pass", 1500), (0.9, "fail", 400)])
def test_a_clear_case_is_decided_long_before_the_end(recovery, outcome, most):
    (found,) = sequential.decided([arms(np.random.default_rng(3), 3000, 0.885, 0.025, recovery)], 0.98)
    assert found.outcome == outcome and found.questions == found.units < most
    low, high = found.recovery.low, found.recovery.high
    assert (low > 0.979) if outcome == "pass" else (high < 0.981)
    assert low < found.recovery.value < high and found.recovery.level == pytest.approx(0.98)


def test_at_the_limit_a_false_verdict_is_rare_however_often_one_looks():
    rng, shown = np.random.default_rng(5), {"pass": 0, "fail": 0}
    for _ in range(300):
        above, below = sequential.bets(*arms(rng, 1500, 0.885, 0.03, 0.98), 0.98)
        shown["pass"] += bool((above >= -np.log(sequential.ALPHA)).any())
        shown["fail"] += bool((below >= -np.log(sequential.ALPHA)).any())
    # 1 % each are allowed: more than 9 of 300 have a probability of 0.0008.
    assert max(shown.values()) <= 9, shown


def test_questions_on_one_picture_are_bet_on_together():
    before, after, ones = arms(np.random.default_rng(7), 3000, 0.885, 0.025, 1.0)
    pictures = [np.add.reduceat(one, np.arange(0, 3000, 5)) for one in (before, after, ones)]
    (alone,), (together,) = sequential.decided([(before, after, ones)], 0.98), sequential.decided([tuple(pictures)], 0.98)
    assert together.questions == together.units * 5 and alone.outcome == together.outcome == "pass"
    assert together.questions > alone.questions


def test_nothing_changed_and_nothing_right():
    (same,) = sequential.decided([(ONES, ONES, ONES)], 0.98)
    assert same.outcome == "pass" and same.recovery.low < 1 < same.recovery.high
    (short,) = sequential.decided([(ONES[:20], ONES[:20], ONES[:20])], 0.98)
    assert short.outcome is None and short.questions == 20 and short.recovery.low < 0.9
    (none,) = sequential.decided([(0 * ONES, 0 * ONES, ONES)], 0.98)
    assert none.outcome is None and np.isnan(none.recovery.value)


def test_several_candidates_share_the_error_by_holm():
    rising = np.arange(0, 10, 0.01)  # 1 / alpha at 4.605, two open 5.298, three open 5.704
    flat = 0 * rising
    assert sequential.stops([rising, flat], 0.01) == [530, None]
    assert sequential.stops([rising, rising + 1, flat], 0.01) == [530, 471, None]
    assert sequential.stops([flat + 4.7, flat + 9], 0.01) == [0, 0] and sequential.stops([], 0.01) == []


def test_compare_tells_how_many_questions_would_have_been_enough(capsys):
    run = str(ROOT / "results" / "demo_schemes_cpu")
    assert main(["compare", run, "--early", "--markdown", "--variants", "bf16", "fp8-dynamic"]) == 0
    said = capsys.readouterr().out
    (row,) = [line for line in said.splitlines() if line.startswith("| fp8-dynamic | 98.00 |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == "pass" and int(cells[3].split()[0]) < int(cells[4]) == 600
    assert main(["compare", run, "--early", "--markdown", "--variants", "bf16", "fp8-dynamic", "--limit", "0.999"]) == 0
    assert "| fp8-dynamic | 99.90 | not decided | N/A | 600 |" in capsys.readouterr().out
    assert main(["compare", run, "--early", "--limit", "98"]) == 2
    assert "refused: --limit: is 98; a share between 0 and 1, for example 0.98" in capsys.readouterr().err
