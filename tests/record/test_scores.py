"""What may enter as a score, and what is refused by name."""

from __future__ import annotations

import math

import pytest

from harness.record.scores import checked, metric_fault


@pytest.mark.parametrize("value", [999, 84.0, -1, math.nan, math.inf, "N/A", None])
def test_what_is_no_share_is_refused_with_the_metrics_name(value):
    with pytest.raises(ValueError, match=r"metric anls is .*shares from 0 to 1, higher is better"):
        checked("anls", value)


def test_shares_enter_as_they_are():
    assert [checked("anls", value) for value in (0, 1, 0.25, True, 1 + 1e-12)] == [0.0, 1.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize(
    ("metric", "better", "own", "told"),
    [
        ("bypass", None, True, "--predict_only"),
        ("bleu", True, True, "all answers together"),
        ("wer", False, True, "better when lower"),
        ("acc", True, False, "log-likelihoods"),
        ("acc", True, True, None),
        ("exact_match", True, False, None),
    ],
)
def test_metrics_are_judged_by_name_and_direction(metric, better, own, told):
    found = metric_fault(metric, better, own)
    assert found is None if told is None else told in found
