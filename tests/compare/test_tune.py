"""Settings as an axis: how they become variants, which is compared with which, and which won."""

from __future__ import annotations

import pytest

from harness.compare import tune
from harness.plan.plan import make_plan
from harness.record.records import CellId, Metric, Provenance, Record
from harness.suite.schema import load_suite
from harness.util.errors import Refused

SUITE = """
name: s
model: {model}
variants: {bf16: {}, bf16-again: {repeat: 1}}
settings: {default: {}, eager: {enforce_eager: true}}
passes: 2
workloads:
  latency: {loads: {a: {images: 0, input_len: 8, output_len: 8}}, concurrency: [1], trials: 4}
"""


def test_every_variant_is_served_under_each_setting(write_suite, tmp_path):
    suite = load_suite(write_suite(SUITE))
    assert list(suite.variants) == ["bf16@default", "bf16-again@default", "bf16@eager", "bf16-again@eager"]
    assert suite.compared_with("bf16-again@eager") == "bf16@eager"
    assert suite.engine_of("bf16@eager").enforce_eager is True
    plan = make_plan(suite, tmp_path)
    assert not plan.faults
    assert len({c.id.key for c in plan.cells}) == 16


def test_the_arms_take_turns(write_suite, tmp_path):
    plan = make_plan(load_suite(write_suite(SUITE)), tmp_path)
    turns = [(variant.name, [c.point["trial"] for c in cells]) for variant, cells in plan.turns(plan.cells)]
    assert turns == [
        ("bf16@default", [1, 3]),
        ("bf16-again@default", [1, 3]),
        ("bf16@eager", [1, 3]),
        ("bf16-again@eager", [1, 3]),
        ("bf16-again@eager", [2, 4]),  # a pass is a start of its own
        ("bf16@eager", [2, 4]),
        ("bf16-again@default", [2, 4]),
        ("bf16@default", [2, 4]),
    ]


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("{a: {enforce_eagre: true}}", "enforce_eager"),
        ("{a: {max_num_seqs: -1}}", "max_num_seqs"),
        ("[a, b]", "settings"),
        ("{}", "settings"),
    ],
)
def test_settings_that_are_none(write_suite, axis, said):
    text = SUITE.replace("{default: {}, eager: {enforce_eager: true}}", axis)
    with pytest.raises(Refused) as refused:
        load_suite(write_suite(text))
    assert said in str(refused.value.faults[0])


def test_a_suite_without_two_settings_has_nothing_to_tune(write_suite):
    suite = load_suite(write_suite(SUITE.replace(", eager: {enforce_eager: true}", "")))
    with pytest.raises(Refused, match="nothing to choose"):
        tune.settings_of(suite)


def trial(variant: str, number: int, value: float, **engine: object) -> Record:
    return Record(
        cell=CellId(variant=variant, workload="latency", point={"load": "a", "concurrency": 1, "trial": number}, key="k"),
        status="done",
        metrics={"output_throughput": Metric(value=value, unit="tokens/s", source="client")},
        provenance=Provenance(
            identity={"checkpoint": "c", "workload": "latency", "engine": engine, "measured": {"trial": number}},
            checkpoint="c",
            engine={"start_s": number},
            started=f"2026-01-01T00:00:0{number}+00:00",
            seconds=1,
        ),
    )


def test_the_setting_that_won_and_by_how_much():
    records = [
        trial(f"int4@{name}", n, base + n, kernel=name)
        for name, base in (("machete", 100), ("marlin", 123), ("slow", 80))
        for n in (1, 2, 3)
    ]
    axis = {f"int4@{name}": ("int4", name) for name in ("machete", "marlin", "slow")}
    comparisons, faults = tune.compare_settings(records, axis)
    assert not faults
    (won,) = tune.winners(comparisons, axis)
    assert (won.variant, won.setting) == ("int4", "marlin")
    assert won.over.speedup.value == pytest.approx(1.225, abs=0.01) and won.over.speedup.low > 1
    # Chosen among two: each has an interval of 97.5 %.
    assert won.looks == 2 and won.speedup.level == pytest.approx(0.975)
    assert 1 < won.speedup.low < won.over.speedup.low and won.speedup.high > won.over.speedup.high


def test_the_best_of_many_that_change_nothing_is_no_winner():
    """One interval above 1 is what chance gives among twenty."""
    noise = {"a": (100.0, 101.0, 102.0), "lucky": (103.0, 105.0, 104.0)} | {f"s{i}": (100.5, 101.0, 101.5) for i in range(18)}
    records = [trial(f"m@{s}", n, v) for s, values in noise.items() for n, v in enumerate(values)]
    axis = {f"m@{name}": ("m", name) for name in noise}
    comparisons, _ = tune.compare_settings(records, axis)
    lucky = next(c for c in comparisons if c.candidate == "m@lucky")
    assert lucky.speedup.low > 1 and 0.001 < lucky.p < 0.05
    (won,) = tune.winners(comparisons, axis)
    assert won.setting == "a" and won.over is None


def test_noise_is_no_winner():
    records = [trial(f"m@{s}", n, v) for s, vs in {"a": (90, 110, 100), "b": (95, 115, 100)}.items() for n, v in enumerate(vs)]
    axis = {"m@a": ("m", "a"), "m@b": ("m", "b")}
    comparisons, _ = tune.compare_settings(records, axis)
    (won,) = tune.winners(comparisons, axis)
    assert won.setting == "a" and won.over is None
