"""Speed trial by trial: above 1 is better whatever the metric, what is not alike is named, what crosses is told."""

from __future__ import annotations

import math

import pytest

from harness.compare.arms import Arms
from harness.compare.trials import compare_speed, compare_trials, crossovers, direction
from harness.record.folder import RunFolder
from harness.record.records import Metric
from harness.record.run_facts import RunFacts
from tests.helpers.arms import trial, trials

ARMS = Arms("a", "b")


def only(before, after, **more):
    (found,), faults = compare_trials(before, after, ARMS, **more)
    assert faults == []
    return found


def test_more_tokens_and_less_time_are_both_above_1():
    rate = only(trials("a", [100, 101, 99]), trials("b", [150, 151, 149], start=30))
    time = only(trials("a", [30, 31, 29], "mean_tpot_ms"), trials("b", [20, 21, 19], "mean_tpot_ms"))
    joule = only(trials("a", [3, 3.1], "energy_per_output_token_j"), trials("b", [2, 2.1], "energy_per_output_token_j"))
    for c in (rate, time, joule):
        assert c.speedup.value == pytest.approx(1.5, rel=0.03) and c.verdict == "faster"
    assert (rate.baseline_mean, rate.candidate_mean, rate.baseline_n, rate.unit) == (100, 150, 3, "tokens/s")
    assert rate.baseline_cv == pytest.approx(0.01) and rate.method == "Welch over starts"


def test_noise_is_no_verdict_and_half_the_speed_is_slower():
    assert only(trials("a", [100, 120, 80]), trials("b", [105, 85, 125])).verdict == "none shown"
    assert only(trials("a", [100, 101, 99]), trials("b", [50, 51, 49])).verdict == "slower"


def test_trials_that_take_turns_are_paired():
    """A machine that slows down over the trials hides nothing when the arms alternate."""
    slowing = [100, 80, 60, 40]
    before = trials("a", slowing, start=0, step=2)
    after = trials("b", [1.1 * v for v in slowing[:3]] + [44.1], start=1, step=2)
    paired = only(before, after)
    assert paired.method == "paired starts" and paired.verdict == "faster"
    one_after_the_other = only(before, trials("b", [1.1 * v for v in slowing], start=30))
    assert one_after_the_other.method == "Welch over starts" and one_after_the_other.verdict == "none shown"


def test_one_start_cannot_tell_what_differs_between_starts():
    """Trials that agree to 1 % on one start of each engine are no two levels of 5 %; 50 % are more than starts differ by."""
    near = only(trials("a", [100, 101, 99], engine_start=1), trials("b", [95, 96, 94], engine_start=2))
    assert near.one_start and (near.method, near.verdict) == ("one start", "none shown")
    far = only(trials("a", [100, 101, 99], engine_start=1), trials("b", [150, 151, 149], engine_start=2))
    assert far.verdict == "faster" and far.speedup.low < 1.5 * 0.93
    assert only(trials("a", [100, 101, 99]), trials("b", [95, 96, 94])).verdict == "slower"


def test_one_trial_has_no_interval_and_no_verdict():
    c = only(trials("a", [100]), trials("b", [300]))
    assert c.speedup.value == pytest.approx(3) and math.isnan(c.speedup.low)
    assert (c.method, c.verdict, c.baseline_cv) == ("N/A (one trial)", "none shown", None)


def test_a_metric_of_0_has_no_ratio():
    c = only(trials("a", [0, 0], "mean_tpot_ms"), trials("b", [1, 2], "mean_tpot_ms"))
    assert c.method == "N/A (a trial gave 0)" and c.verdict == "none shown"


def test_invalid_cells_give_no_speedup():
    bad = trials("b", [500, 510], status="invalid", reason="cache hits: 12")
    found, faults = compare_trials(trials("a", [100, 101]), bad, ARMS)
    assert found == [] and len(faults) == 2
    assert "cache hits: 12" in str(faults[0]) and "no speed-up" in str(faults[0])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"identity": {"engine": {"max_num_seqs": 32, "enforce_eager": None}}}, "engine.max_num_seqs: 8 and 32"),
        ({"total_output_tokens": 900}, "did not do the same work: total_output_tokens 1000 and 900"),
    ],
)
def test_arms_that_are_not_alike_are_left_out_and_named(fields, told):
    before, after = (
        trials("a", [1, 2], total_output_tokens=1000),
        trials("b", [1, 2], **({"total_output_tokens": 1000} | fields)),
    )
    found, faults = compare_trials(before, after, ARMS)
    assert found == [] and len(faults) == 1 and told in str(faults[0])


def test_a_point_of_one_arm_alone_is_told():
    found, faults = compare_trials(trials("a", [1, 2]), trials("b", [1, 2], level=9), ARMS)
    assert found == []
    assert [str(f) for f in faults] == [
        "a and b on throughput/image512-concurrency8: was measured for a alone",
        "a and b on throughput/image512-concurrency9: was measured for b alone",
    ]


def test_a_caller_says_what_may_differ():
    after = trials("b", [2, 3], identity={"engine": {"max_num_seqs": 32, "enforce_eager": None}})
    found, faults = compare_trials(trials("a", [1, 2]), after, ARMS, may_differ=("checkpoint", "engine.max_num_seqs"))
    assert len(found) == 1 and faults == []


def test_figures_of_two_sources_are_not_compared():
    after = [
        r.model_copy(update={"metrics": {"output_throughput": Metric(value=2, unit="tokens/s", source="server")}})
        for r in trials("b", [1, 2])
    ]
    found, faults = compare_trials(trials("a", [1, 2]), after, ARMS)
    assert found == [] and "by client in one arm" in str(faults[0])


def test_int4_that_wins_at_1_and_8_and_loses_at_64_makes_three_rows_and_a_crossover():
    before = [r for level in (64, 1, 8) for r in trials("a", [100, 101, 99], level=level)]
    after = [r for level, v in ((1, 180), (8, 130), (64, 80)) for r in trials("b", [v, v + 1, v - 1], level=level)]
    found, _ = compare_trials(before, after, ARMS)
    assert {c.point["concurrency"]: c.verdict for c in found} == {1: "faster", 8: "faster", 64: "slower"}
    (told,) = crossovers(found)
    assert told == (
        "throughput/image512, output_throughput: b is faster than a up to concurrency 8 (1.30x) and slower from 64 (0.80x)."
    )
    assert crossovers(found[:1]) == []


def test_a_variant_is_compared_with_what_run_json_names(tmp_path):
    run = RunFolder(tmp_path / "r")
    every = [r for name, v in (("a", 1), ("b", 2), ("c", 4)) for r in trials(name, [v, v * 1.01])]
    for one in every:
        run.add(one)
    run.write(
        RunFacts.model_validate(
            {
                "suite": {},
                "baseline": "a",
                "variants": {"a": {}, "b": {}, "c": {"compared_with": "b"}},
                "cells": [r.cell.key for r in every],
            }
        )
    )
    found, faults = compare_speed(run, "a")
    assert [(c.baseline, c.candidate, round(c.speedup.value)) for c in found] == [("a", "b", 2), ("b", "c", 2)]
    assert faults == []


def test_memory_has_one_record_and_directions_of_its_own():
    assert direction("weights_gib", "GiB") == -1 and direction("kv_cache_tokens", "tokens") == 1
    assert direction("device_peak_gib", "GiB") == 0 == direction("std_ttft_ms", "ms")
    assert direction("p99_ttft_ms", "ms") == -1 and direction("request_goodput", "requests/s") == 1
    before, after = (trial(v, 1, workload="memory", weights_gib=w, device_peak_gib=70.0) for v, w in (("a", 16.0), ("b", 8.0)))
    c = only([before], [after])
    assert c.metric == "weights_gib" and c.speedup.value == pytest.approx(2)
