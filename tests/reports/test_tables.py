"""Tables say what the Records say, and stay tables whatever a name holds."""

from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pytest
from rich.console import Console

from harness.record.folder import RunFolder
from harness.record.records import Metric
from harness.record.run_facts import RunFacts
from harness.util.errors import Refused
from reports import tables
from reports.formats import csv as csv_format
from reports.formats import json as json_format
from reports.formats import markdown
from reports.table import Figure, frame, percent
from tests.helpers.arms import arms
from tests.helpers.records import keep, record, sample

STORAGE = {"total_bytes": 17_600_000_000, "safetensors_bytes": 17_500_000_000, "safetensors_files": 4}
SMALL = {"total_bytes": 7_300_000_000, "safetensors_bytes": 7_230_000_000, "safetensors_files": 2}
PLAIN = {
    "packed": {},
    "plain": {"language": 252, "visual": 116, "lm_head": 1},
    "num_bits": None,
    "group_size": None,
    "symmetric": None,
}
PACKED = {
    "packed": {"language": 252},
    "plain": {"visual": 116, "lm_head": 1},
    "num_bits": 4,
    "group_size": -1,
    "symmetric": True,
}


def run(tmp_path, lost: int = 4, gained: int = 1):
    folder = RunFolder(tmp_path / "r")
    base, other = arms(40, lost, gained)
    for one, samples in ((record("a|b", "1"), base), (record("int4`", "2"), other)):
        keep(folder, one, samples)
    folder.write(
        RunFacts.model_validate(
            {
                "suite": {"name": "s", "model": "m"},
                "baseline": "a|b",
                "cells": ["1", "2"],
                "variants": {
                    "a|b": {"storage": STORAGE, "structure": PLAIN},
                    "int4`": {"storage": SMALL, "structure": PACKED},
                    "gone": {},
                },
            }
        )
    )
    return folder


def by_title(folder) -> dict[str, pd.DataFrame]:
    return {t.title: t.frame for t in tables.tables(folder)}


def test_accuracy(tmp_path):
    row = by_title(run(tmp_path))["Accuracy against the baseline"].iloc[0]
    assert (row["n"], row["lost"], row["gained"], row["verdict"]) == (40, 4, 1, "none shown")
    assert (row["a|b %"], row["variant %"]) == ("97.50", "90.00")
    assert row["difference, points"].startswith("-7.50 [-") and row["recovery %"].startswith("92.31 [")
    assert row["answers changed"] == "5 (12.5 %)"


def test_storage_as_a_models_author_prints_it(tmp_path):
    frame = by_title(run(tmp_path))["Storage"]
    assert frame["weights"].tolist() == ["16.30 GiB", "6.73 GiB", "N/A (not built)"]
    assert frame["safetensors files"].tolist() == [4, 2, "N/A"]
    assert frame["of the baseline"].tolist() == ["100.0 %", "41.3 %", "N/A"]


def test_structure(tmp_path):
    frame = by_title(run(tmp_path))["Structure (Linear layers)"]
    assert frame["scheme"].tolist() == ["none", "INT4, per channel, symmetric"]
    assert frame["language packed / plain"].tolist() == ["0 / 252", "252 / 0"]
    assert frame["visual packed / plain"].tolist() == ["0 / 116", "0 / 116"]


def test_what_was_not_measured_says_why(tmp_path):
    folder = run(tmp_path)
    folder.add(record("int4`", "2").model_copy(update={"status": "failed", "reason": "the engine died", "metrics": {}}))
    assert by_title(folder)["Scores"]["status"].tolist() == ["done", "failed: the engine died"]
    assert by_title(folder)["Scores"]["score %"].tolist() == ["97.50 ± 10.00", "N/A"]
    engine = by_title(folder)["Engine"]
    assert engine["weights in memory"].tolist() == ["N/A ()", "N/A ()"]
    assert percent(None) == "N/A" == percent(float("nan"))


def test_names_with_markup_stay_names(tmp_path):
    lines = tables.markdown(run(tmp_path)).splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("| variant | weights"))
    assert lines[header + 2].startswith("| a\\|b | ") and lines[header + 3].startswith("| int4\\` | ")
    assert lines[header + 2].count(" | ") == lines[header].count(" | ")
    table = tables.Table("t", pd.DataFrame([{"x": "[red](u)<b>|`\n*_a_b_", "y": "demo_vl [-1, +2]"}]))
    assert markdown.table(table).splitlines()[4] == r"| [red]\(u)\<b\>\|\` \*\_a_b\_ | demo_vl [-1, +2] |"
    out = io.StringIO()
    Console(file=out, width=100).print(table.rich())
    assert "[red](u)<b>|`" in out.getvalue()
    table = tables.Table("t\x1b[2J", pd.DataFrame([{"\x1b[1mx": "a\x1b]0;y\x07\x9b"}]), ["\x1b[31mn"])
    Console(file=out, width=100).print(table.rich())
    assert not set("\x1b\x07\x9b") & set(out.getvalue() + markdown.table(table) + csv_format.table(table))


def test_a_metric_without_a_value(tmp_path):
    folder = run(tmp_path)
    empty = record("int4`", "2").model_copy(update={"metrics": {"score": Metric(value=None, unit="share", n=0, reason="none")}})
    keep(folder, empty, [sample("1", 1.0)])
    table = tables.tables(folder)[1]
    assert table.title == "Accuracy against the baseline" and "different documents" in table.notes[0]


def test_csv_and_json_split_what_holds_several_numbers(tmp_path):
    speed = Figure("1,234 ± 5.6", {"": 1234.4, " ±": 5.61})
    recovery = Figure("99.10 [98.00, 100.20]", {"": 99.1, " low": 98.0, " high": 100.2})
    x = Figure("-1.00 [-2.00, +0.50]", {"": -1.0, " low": -2.0, " high": float("nan")})
    rows = [
        {"variant": "a", "recovery %": percent(1.0), "speed": speed, "x": "N/A (why)", "count": Figure("12,345", {"": 12345})},
        {"variant": "=cmd", "recovery %": recovery, "speed": "N/A", "x": x, "count": 7},
    ]
    table = tables.Table("A table: of two", frame(rows), ["a note"])
    assert list(csv.reader(io.StringIO(csv_format.table(table)))) == [
        [
            "variant",
            "recovery %",
            "recovery % low",
            "recovery % high",
            "speed",
            "speed ±",
            "x",
            "x low",
            "x high",
            "count",
        ],
        ["a", "100.0", "", "", "1234.4", "5.61", "N/A (why)", "", "", "12345"],
        ["'=cmd", "99.1", "98.0", "100.2", "N/A", "", "-1.0", "-2.0", "", "7"],
    ]
    assert json_format.table(table)["name"] == "a-table-of-two" and json_format.table(table)["rows"][1][:3] == [
        "=cmd",
        99.1,
        98.0,
    ]
    assert json.loads(json_format.write([table]))[0]["notes"] == ["a note"]
    assert csv_format.write([table, table]).count("# A table: of two\n") == 2


def test_one_table_by_its_name(tmp_path):
    folder = run(tmp_path)
    assert [t.title for t in tables.chosen(folder, "storage")] == ["Storage"]
    with pytest.raises(Refused, match="there are: summary, accuracy-against-the-baseline"):
        tables.chosen(folder, "storge")


def test_an_interval_beside_a_stricter_verdict_is_explained(tmp_path):
    """5 lost and none gained: the bootstrap's interval leaves out 0, the exact test gives 0.0625."""
    (table,) = [t for t in tables.tables(run(tmp_path, lost=5, gained=0)) if t.title == "Accuracy against the baseline"]
    row = table.frame.iloc[0]
    assert row["verdict"] == "none shown" and row["p"] == "0.062"
    assert row["difference, points"].partition("[")[2].count("-") == 2  # both bounds lie below 0
    assert any("the verdict follows p" in note for note in table.notes)
