"""Ratios of two arms: equal to scipy where scipy has them, right where starts vary, and as many starts as a hint names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.compare import ratios, stats


@pytest.mark.parametrize("seed", range(5))
def test_values_give_scipys_t_intervals(seed):
    rng = np.random.default_rng(seed)
    one, two = rng.lognormal(1, 0.1, 5), rng.lognormal(0.7, 0.3, 5)
    for paired, test in ((False, scipy_stats.ttest_ind(np.log(one), np.log(two), equal_var=False)),
                         (True, scipy_stats.ttest_rel(np.log(one), np.log(two)))):  # fmt: skip
        found, known = ratios.of_values(one, two, paired), test.confidence_interval(0.95)
        assert (found.interval().low, found.interval().high) == pytest.approx((np.exp(known.low), np.exp(known.high)))
        assert found.p == pytest.approx(test.pvalue)
        assert found.interval().value == pytest.approx(scipy_stats.gmean(one) / scipy_stats.gmean(two))


def test_starts_of_one_trial_each_are_the_values():
    one, two = [101.0, 99.0, 100.5], [90.0, 92.0, 89.0]
    of_starts, method = ratios.of_starts([[v] for v in one], [[v] for v in two])
    assert (of_starts, method) == (ratios.of_values(one, two), "Welch over starts")


def test_values_without_spread_and_too_few():
    assert ratios.of_values([2, 2], [1, 1]).p == 0 and ratios.of_values([1, 1], [1, 1]).p == 1
    assert ratios.of_values([2, 2], [1, 1]).interval() == stats.Interval(2.0, 2.0, 2.0)
    for bad in (([1], [1, 2], False), ([1, 2], [1, 2, 3], True), ([0, 1], [1, 1], False)):
        with pytest.raises(ValueError):
            ratios.of_values(*bad)
    with pytest.raises(ValueError, match="2 trials"):
        ratios.of_starts([[1.0]], [[1.0, 1.1]])
    assert ratios.variation([1.0]) is None and ratios.variation([0.0, 0.0]) is None


def test_an_arm_of_one_start_takes_what_the_other_shows_if_that_is_more():
    calm, wild = [[100.0], [100.1]], [[100.0], [130.0]]
    alone = [[100.0, 100.1, 99.9]]
    assert ratios.of_starts(alone, calm)[0].error == pytest.approx(0.03 * math.sqrt(1.5), rel=0.01)
    assert ratios.of_starts(alone, wild)[0].error > 0.2


def test_the_hint_follows_the_spread_and_the_margin():
    assert ratios.spread_of([[100.0, 101.0]], [[100.0, 99.0]])[0] == pytest.approx(0.031, abs=0.001)
    assert ratios.spread_of([[100.0], [110.0]], [[100.0], [110.0]]) == pytest.approx((math.log(1.1) / math.sqrt(2), 2))
    margin = -math.log(0.95)
    few, many = (ratios.starts_needed(spread, math.inf, margin) for spread in (0.01, 0.03))
    assert 2 <= few < many < 12 and ratios.starts_needed(0.03, 2, margin) > many
    assert ratios.starts_needed(0.03, math.inf, 0.0) == ratios.MOST
