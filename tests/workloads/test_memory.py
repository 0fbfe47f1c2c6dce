"""Where the memory of an engine goes, from what it says and what the device shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.record.records import Metric
from harness.util import environments
from harness.workloads import memory


def sizes(**given: float | None) -> dict[str, Metric]:
    names = ("device_peak_gib", "weights_gib", "kv_cache_gib", "graphs_gib")
    return {name: Metric(value=given.get(name), unit="GiB", source="log") for name in names}


def engine(cards: int, **facts: Any) -> Any:
    said = {name: None for name in memory.SAID} | facts
    settings = SimpleNamespace(tensor_parallel_size=cards)
    return SimpleNamespace(facts=SimpleNamespace(reasons={}, **said), settings=settings, checkpoint=None)


def test_the_rest_of_the_peak_is_one_cards(monkeypatch):
    monkeypatch.setattr(environments, "is_cpu", lambda: False)
    rest = memory._other(sizes(device_peak_gib=71.46, weights_gib=8.63, kv_cache_gib=58.14, graphs_gib=0.36))
    assert rest.value == pytest.approx(4.33)
    assert memory._other(sizes(device_peak_gib=71.46, weights_gib=8.63)).value is None


def test_a_cpu_has_no_rest(monkeypatch):
    monkeypatch.setattr(environments, "is_cpu", lambda: True)
    assert "CPU" in (memory._other(sizes()).reason or "")


@pytest.mark.parametrize(("cards", "expected"), [(1, 14.0), (2, 7.0)])
def test_a_cache_that_the_log_leaves_out_is_counted_for_one_card(monkeypatch, cards, expected):
    monkeypatch.setattr(memory.roofline, "kv_bytes_per_token", lambda checkpoint: 147_456)
    said = memory._said(engine(cards, kv_cache_tokens=round(14 * 2**30 / 147_456)))
    assert said["kv_cache_gib"].value == pytest.approx(expected, rel=1e-4)
    assert said["kv_cache_gib"].source == "computed"
