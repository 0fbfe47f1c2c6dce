"""The summary says what was measured, once a variant, and why the rest was not."""

from __future__ import annotations

import pytest

from harness.record.folder import RunFolder
from reports import tables
from reports.run_data import RunData
from reports.table import RANDOM
from reports.tables.summary import lines, summary
from tests.helpers.records import keep, record, sample, with_facts
from tests.helpers.runs import full_run, memory_record, variant, write


@pytest.fixture
def source(tmp_path) -> RunData:
    return RunData.of(full_run(tmp_path / "r"))


def test_a_line_a_variant(source):
    frame = summary(source).frame
    assert frame["variant"].tolist() == ["bf16", "awq-g128", "rtn-g32", "gone"]
    row = frame.iloc[1]
    assert row["accuracy %"] == "88.33" and row["recovery %"].startswith("94.64 [")
    assert (row["weights on disk"], row["weights in memory"]) == ("6.70 GiB (41.1 %)", "6.80 GiB")
    assert row["KV cache, tokens"] == "372,400" and row["tokens/s at 1"].startswith("116 ± ")
    assert row["tokens/s at saturation"].startswith("1,860 ± ") and row["J/token"] == "0.474"
    assert frame["verdict"].tolist() == ["baseline", "loss", "loss", "N/A"]
    assert set(frame.iloc[3].drop("variant")) == {"N/A"}


def test_why_something_is_missing(source):
    notes = summary(source).notes
    assert "N/A for gone: accuracy %, failed: the engine died." in notes
    assert any(note.startswith("Saturation is the point that gives most: throughput/image512-concurrency32") for note in notes)


def test_columns_of_which_nothing_is_known_are_named_once(tmp_path):
    run = RunFolder(tmp_path / "r")
    keys = [keep(run, record(n, n, checkpoint=n), [sample("1", 1.0), sample("2", 1.0)]).cell.key for n in ("a", "b")]
    table = summary(RunData.of(write(run, {"a": variant(2), "b": variant(1)}, [*keys, "unmeasured"], baseline="a")))
    assert table.columns == ["variant", "accuracy %", "recovery %", "verdict", "weights on disk", "KV cache, tokens"]
    assert "Not measured in this Run: weights in memory, tokens/s at 1, tokens/s at saturation, J/token." in table.notes
    assert "1 of 3 Cells are not here (not measured, or their files are damaged)." in table.notes


def test_tasks_that_were_planned_count_before_they_are_measured(tmp_path):
    run = RunFolder(tmp_path / "r")
    keys = [keep(run, record(n, n, checkpoint=n), [sample("1", 1.0), sample("2", 1.0)]).cell.key for n in ("a", "b")]
    labels = {"a": "a/accuracy/t", "b": "b/accuracy/t", "c": "b/accuracy/u", "d": "b/latency/text-concurrency1"}
    write(run, {"a": variant(2), "b": variant(1)}, [*keys, "c", "d"], baseline="a")
    with_facts(run, labels=labels)
    table = summary(RunData.of(run))
    assert table.frame["accuracy %"].tolist() == ["100.00 (1 of 2 tasks)", "100.00 (1 of 2 tasks)"]
    told = "2 of 4 Cells are not here (not measured, or their files are damaged): b/accuracy/u, b/latency/text-concurrency1."
    assert told in table.notes


def test_random_weights_have_no_accuracy_and_every_table_says_so(tmp_path):
    made = tables.tables(full_run(tmp_path / "r", random_weights=True))
    assert all(table.notes[0] == RANDOM for table in made)
    assert "accuracy %" not in made[0].columns and "tokens/s at 1" in made[0].columns


def test_invalid_cells_give_no_figure(tmp_path):
    run = RunFolder(tmp_path / "r")
    broken = {"status": "invalid", "reason": "cache hits"}
    keys = [
        run.add(memory_record("a", 9.0, **broken)).cell.key,
        keep(run, record("a", "x").model_copy(update=broken), [sample("1", 1.0)]).cell.key,
    ]
    (line,) = lines(RunData.of(write(run, {"a": variant(2)}, keys, baseline="a")))
    assert (line.weights_gib, line.score) == (None, None)
    assert line.reasons["memory"] == line.reasons["accuracy"] == "invalid: cache hits"
