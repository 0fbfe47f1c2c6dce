"""The statistics against scipy, statsmodels and plain resampling on random tables."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar

from harness.compare import stats


@pytest.mark.parametrize("seed", range(20))
def test_mcnemar_equals_scipy_and_statsmodels(seed):
    lost, gained = (int(x) for x in np.random.default_rng(seed).integers(0, 60, 2))
    p = stats.mcnemar_exact(lost, gained)
    if lost + gained:
        assert p == pytest.approx(scipy_stats.binomtest(lost, lost + gained, 0.5).pvalue, abs=1e-12)
    assert p == pytest.approx(mcnemar([[100, lost], [gained, 100]], exact=True).pvalue, abs=1e-9)


def test_mcnemar_without_discordant_pairs():
    assert stats.mcnemar_exact(0, 0) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_equals_resampling_of_indices(seed):
    rng = np.random.default_rng(seed)
    before = (rng.random(800) < 0.9).astype(float)
    after = np.where(rng.random(800) < 0.03, 1 - before, before)
    difference, recovery = stats.paired_bootstrap(before, after, resamples=20_000)
    index = rng.integers(0, 800, (20_000, 800))
    plain = after[index].mean(1) - before[index].mean(1)
    assert difference.value == pytest.approx(after.mean() - before.mean())
    assert difference.low == pytest.approx(np.quantile(plain, 0.025), abs=0.0015)
    assert difference.high == pytest.approx(np.quantile(plain, 0.975), abs=0.0015)
    ratio = after[index].sum(1) / before[index].sum(1)
    assert recovery.low == pytest.approx(np.quantile(ratio, 0.025), abs=0.002)


def test_questions_on_one_image_widen_the_interval():
    rng = np.random.default_rng(0)
    flips = np.repeat(rng.random(100) < 0.1, 8)
    before, after = np.ones(800), np.where(flips, 0.0, 1.0)
    alone, _ = stats.paired_bootstrap(before, after)
    clustered, _ = stats.paired_bootstrap(before, after, clusters=np.repeat(np.arange(100), 8).tolist())
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_scores_between_0_and_1_and_a_baseline_of_0():
    difference, _recovery = stats.paired_bootstrap([0.2, 0.8, 0.5], [0.3, 0.8, 0.1])
    assert difference.value == pytest.approx(-0.1)
    assert difference.low <= difference.value <= difference.high
    _, none = stats.paired_bootstrap([0, 0], [0, 1])
    assert math.isnan(none.value) and math.isnan(none.low)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1, 0], [1]), ([[1]], [[1]])])
def test_unpaired_scores_are_refused(before, after):
    with pytest.raises(ValueError, match="paired scores"):
        stats.paired_bootstrap(before, after)


def test_the_interval_covers_what_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        before = (rng.random(400) < 0.9).astype(float)
        after = np.where(rng.random(400) < 0.05, 1 - before, before)
        true = 0.05 * (0.1 - 0.9)
        interval, _ = stats.paired_bootstrap(before, after, resamples=1000, seed=trial)
        hits += interval.low <= true <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_power_and_its_inverse_agree():
    for discordant in (0.015, 0.05, 0.2):
        for difference in (0.005, 0.01):
            n = stats.questions_needed(difference, discordant)
            assert stats.detectable_difference(n, discordant) == pytest.approx(difference, rel=0.01)
    assert 1200 <= stats.questions_needed(0.01, 0.0175) <= 1600  # Connor's formula, as tabulated for 1 point
    assert math.isnan(stats.detectable_difference(100, 0.0))
    with pytest.raises(ValueError):
        stats.questions_needed(0.1, 0.05)


def test_holm_is_as_in_his_paper_and_never_falls():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == [] and stats.holm([0.7, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_divergence_equals_scipys_entropy_when_everything_is_known_and_is_below_it_when_not(seed):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(50)), rng.dirichlet(np.ones(50))
    whole = float(scipy_stats.entropy(p, q))
    known = stats.divergence(dict(enumerate(np.log(p))), dict(enumerate(np.log(q))))
    assert known == pytest.approx(whole, abs=1e-4)
    top_p, top_q = (np.argsort(x)[-5:].tolist() for x in (p, q))
    given = 0
    some = stats.divergence(
        {t: float(np.log(p[t])) for t in {*top_p, given}}, {t: float(np.log(q[t])) for t in {*top_q, given}}
    )
    assert 0 <= some <= whole + 1e-9


def test_divergence_of_equal_arms_is_0_and_rounding_does_no_harm():
    arm = {1: -0.01, 2: -5.2, 3: -7.0}
    assert stats.divergence(arm, arm) == 0
    assert stats.divergence({1: -1e-8, 2: -100.0}, {1: -1e-7, 2: -100.0}) < 1e-6
    # A model that is sure, and one that is not: the divergence is what the sure one lost.
    assert stats.divergence({1: 0.0}, {1: -0.7, 2: -0.7}) == pytest.approx(0.7)
    # Mass that only one arm has outside is compared as one outcome, and stays finite.
    assert 0 < stats.divergence({1: -0.7}, {1: 0.0}) < 10


def test_that_many_questions_show_that_nothing_was_lost():
    """The planned number of questions gives the planned power, by simulation."""
    margin, discordant = 0.02, 0.04
    n = stats.questions_for_noninferiority(margin, discordant)
    assert n == 785
    rng = np.random.default_rng(0)
    kinds = rng.multinomial(n, [1 - discordant, discordant / 2, discordant / 2], size=4000)
    difference = (kinds[:, 2] - kinds[:, 1]) / n
    spread = np.sqrt((kinds[:, 1] + kinds[:, 2]) / n - difference**2) / math.sqrt(n)
    assert np.mean(difference - 1.96 * spread > -margin) == pytest.approx(0.8, abs=0.03)
    for bad in ((0, 0.1), (0.1, 0)):
        with pytest.raises(ValueError):
            stats.questions_for_noninferiority(*bad)


def test_pairs_that_all_agree_leave_room_for_those_that_do_not():
    """The adjusted interval is the published one, and covers where the bootstrap has no width."""
    lost, gained, n = 3, 1, 80
    p12, p21 = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    found = stats.adjusted_difference([-1] * lost + [1] * gained + [0] * (n - lost - gained))
    assert (found.low, found.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half))
    none = stats.adjusted_difference([0] * 100)
    assert none.low == pytest.approx(-none.high) and 0.02 < none.high < 0.035
    rng = np.random.default_rng(0)
    kinds = rng.multinomial(100, [0.98, 0.015, 0.005], size=2000)
    covered = 0
    for same, down, up in kinds:
        one = stats.adjusted_difference(np.repeat([0, -1, 1], [same, down, up]))
        covered += one.low <= -0.01 <= one.high
    assert covered / 2000 > 0.94
    assert stats.wider(stats.Interval(0, -1, 1), stats.Interval(5, -2, 0)) == stats.Interval(0, -2, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_flipped_signs_of_single_questions_are_mcnemars_test(lost, gained):
    differences = {d: n for d, n in ((-1.0, lost), (1.0, gained)) if n}
    assert stats.sign_flips(differences) == pytest.approx(stats.mcnemar_exact(lost, gained), abs=1e-15) if differences else True


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([-3, -2, -1, 1, 2, 5]), min_size=1, max_size=10))
def test_flipped_signs_are_counted_exactly(values):
    signs = itertools.product((-1, 1), repeat=len(values))
    sums = [abs(sum(s * v for s, v in zip(some, values, strict=True))) for some in signs]
    exact = sum(one >= abs(sum(values)) for one in sums) / len(sums)
    assert stats.sign_flips(Counter(map(float, values))) == pytest.approx(exact, abs=1e-12)
    # Fractions are simulated: the same differences in another unit come close.
    assert stats.sign_flips(Counter(v / 7 for v in values)) == pytest.approx(exact, abs=0.02)


def test_the_adjusted_interval_over_pictures_of_one_question_is_that_over_questions():
    kinds = Counter({(1.0, 1.0, 1): 80, (1.0, 0.0, 1): 7, (0.0, 1.0, 1): 3, (0.0, 0.0, 1): 10})
    found, p = stats.adjusted_groups(kinds)
    middle, n = -4 / 102, 102
    reach = 1.959964 * math.sqrt((12 / n - middle**2) / n)
    assert (found.low, found.value, found.high) == pytest.approx((middle - reach, middle, middle + reach), rel=1e-5)
    assert 0.2 < p < 0.4
    # The same counts on pictures of ten are wider.
    wide, _ = stats.adjusted_groups(Counter({(10.0, 10.0, 10): 8, (10.0, 3.0, 10): 1, (0.0, 3.0, 10): 1}))
    assert wide.high - wide.low > 1.5 * (found.high - found.low)


def test_a_score_is_above_chance_as_the_binomial_test_says():
    for right, n, chance in ((260, 1000, 0.25), (300, 1000, 0.25), (5, 10, 0.5)):
        expected = scipy_stats.binomtest(right, n, chance, alternative="greater").pvalue
        assert stats.above_chance(right / n, n, chance) == pytest.approx(expected)
