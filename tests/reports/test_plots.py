"""Plots are data: what is drawn is what was measured."""

from __future__ import annotations

import itertools
import json

import pytest

from harness.record.folder import RunFolder
from reports.plots import plots
from reports.plots.speed import dominated
from reports.run_data import RunData
from tests.helpers.records import keep, record, sample
from tests.helpers.runs import full_run, recipe, speed_record, variant, write


def by_name(run: RunFolder):
    return {plot.name: plot for plot in plots(RunData.of(run))}


def test_every_plot_of_a_full_run(tmp_path):
    found = by_name(full_run(tmp_path / "r"))
    assert list(found) == ["recovery", "bets", "changes", "heat", "tradeoff-0", "memory", "pareto-size", "pareto-speed"]
    for plot in found.values():
        json.dumps(plot.spec, allow_nan=False)
        assert len(plot.table().frame) == len(plot.rows) > 0 and plot.caption.endswith(".")


def test_the_figures(tmp_path):
    found = by_name(full_run(tmp_path / "r"))
    total = next(row for row in found["recovery"].rows if row["total"] and row["variant"] == "awq-g128")
    assert total["low"] < total["recovery"] < total["high"] and round(total["recovery"], 1) == 94.6
    memory = {(row["variant"], row["part"]): row["gib"] for row in found["memory"].rows}
    assert memory["awq-g128", "weights"] == 6.8 and memory["awq-g128", "rest"] == 2.5
    states = {row["variant"]: row["state"] for row in found["pareto-size"].rows}
    assert states == {"bf16": "not dominated", "awq-g128": "not dominated", "rtn-g32": "dominated"}
    changes = {(r["variant"], r["task"], r["kind"]): r["count"] for r in found["changes"].rows}
    assert changes["rtn-g32", "all", "lost"] == 12 and changes["rtn-g32", "all", "gained"] == 0
    assert [row["level"] for row in found["tradeoff-0"].rows if row["variant"] == "bf16"] == ["1", "8", "32"]


def test_what_is_dominated_agrees_with_trying_all_pairs():
    points = list(itertools.product((1.0, 2.0, 3.0), (1.0, 2.0)))
    expected = [
        any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)  # cheaper and no worse
        for p in points
    ]
    assert dominated(points) == expected and dominated([(1, 1), (1, 1)]) == [False, False]


def test_request_rates_are_levels_too(tmp_path):
    run, keys = RunFolder(tmp_path / "r"), []
    for rate in (2.0, 0.5):
        one = speed_record("bf16", "x", 8, 1, 1.0)
        cell = one.cell.model_copy(update={"key": str(rate), "point": {"load": "x", "request_rate": rate, "trial": 1}})
        keys.append(run.add(one.model_copy(update={"cell": cell})).cell.key)
    found = by_name(write(run, {"bf16": variant(16)}, keys))
    assert [row["level"] for row in found["tradeoff-0"].rows] == ["0.5/s", "2/s"]


def test_many_variants_are_drawn_by_their_totals(tmp_path):
    run, keys = RunFolder(tmp_path / "r"), []
    names = ["bf16", *(f"v{i}" for i in range(30))]
    for name, task in itertools.product(names, ("s", "t")):
        samples = [sample(str(i), float(i > 3)) for i in range(20)]
        keys.append(keep(run, record(name, f"{name}-{task}", task, checkpoint=name), samples).cell.key)
    found = by_name(write(run, {name: variant(9, recipe()) for name in names}, keys))
    assert len(found["recovery"].rows) == 30 and all(row["total"] for row in found["recovery"].rows)
    assert "heat" not in found and "pareto-size" not in found  # one recipe, one size: nothing to compare


@pytest.mark.parametrize("more", [{"random_weights": True}])
def test_random_weights_have_no_plot_of_accuracy(tmp_path, more):
    assert list(by_name(full_run(tmp_path / "r", **more))) == ["tradeoff-0", "memory"]
