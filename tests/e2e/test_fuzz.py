"""A short run of benchmarks/fuzz.py: mutated input of every kind ends in a result or a refusal."""

from __future__ import annotations

import pytest

from benchmarks.fuzz import fuzz

pytestmark = pytest.mark.e2e


def test_mutated_input_ends_in_a_result_or_a_refusal():
    found = fuzz(200)
    assert {name: told["wrong"] for name, told in found.items() if told["wrong"]} == {}
    assert sum(told["cases"] for told in found.values()) >= 200 and sum(told["refused"] for told in found.values()) > 50
