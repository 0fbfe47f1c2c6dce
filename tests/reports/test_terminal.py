"""Tables on terminals of several widths: nothing runs over, no word is broken, every part names its rows."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from harness.record.folder import RunFolder
from reports import tables
from reports.table import Table, frame
from reports.terminal import split
from tests.helpers.records import ROOT

RUNS = ("demo_cpu", "demo_schemes_cpu", "qwen3_vl_8b_h100")


def printed(table: Table, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(table.rich())
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("name", RUNS)
def test_no_line_is_too_long_and_no_word_is_broken(name, width):
    for table in tables.tables(RunFolder.existing(ROOT / "results" / name)):
        lines = printed(table, width)
        assert max(map(len, lines)) <= width, table.title
        words = set(re.split(r"[\s│┃;:,]+", "\n".join(lines)))
        for text in (*table.columns, *(cell for row in table.rows for cell in row)):
            broken = [word for word in re.split(r"[\s;:,]+", text) if word and word not in words]
            assert not broken, (table.title, broken)


def test_a_table_that_fits_is_one_and_as_it_was():
    table = Table("T", frame([{"a": "1", "b": "2"}]), ["a note"])
    assert len([line for line in printed(table, 80) if line.startswith("┏")]) == 1
    assert split(["a", "b"], [["1", "2"]], 80) == [[(0, 1), (1, 1)]]


def test_every_part_begins_with_the_columns_that_tell_rows_apart():
    columns = ["variant", "task", *(f"a long title {i}" for i in range(12))]
    rows = [[v, t, *["123.45 [1.00, 2.00]"] * 12] for v in ("bf16", "int4") for t in ("one", "two")]
    parts = split(columns, rows, 80)
    assert len(parts) > 1 and all([i for i, _ in part][:2] == [0, 1] for part in parts)
    assert [i for part in parts for i, _ in part[2:]] == list(range(2, 14))
    assert all(sum(w + 3 for _, w in part) + 1 <= 80 for part in parts)


def test_rows_whose_names_fill_the_terminal_are_told_one_by_one():
    columns = ["variant", "load", "metric", "n"]
    rows = [["n" * 30, "x" * 30, "12.50 [1.00, 20.00]", "1"], ["n" * 30, "y", "3", ""]]
    assert split(columns, rows, 60) == []
    lines = printed(Table("T", frame([dict(zip(columns, row, strict=True)) for row in rows]), ["a note"]), 60)
    told = [line.rstrip() for line in lines]
    assert told[:1] == ["T: variant, load"] and told[-1] == "a note" and "n" * 30 + ", y" in told
    assert "  metric: 12.50 [1.00, 20.00]; n: 1" in told and "  metric: 3" in told


@pytest.mark.parametrize(("columns", "rows"), [([], []), (["a"], []), (["a"], [["x" * 300]]), (["a", "b"], [["x" * 300, "y"]])])
def test_what_is_hardly_a_table_is_printed_as_well(columns, rows):
    table = Table("T", frame([dict(zip(columns, row, strict=True)) for row in rows]))
    assert max(map(len, printed(table, 80))) <= 80
