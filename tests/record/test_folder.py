"""The folder of a Run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.record.folder import RunFolder
from harness.record.run_facts import RunFacts
from harness.util.errors import Refused
from tests.helpers.records import keep, record, sample

FACTS = {"suite": {}, "baseline": "a", "variants": {}, "cells": []}


def test_a_record_and_its_samples_come_back_as_they_were(tmp_path):
    run = RunFolder(tmp_path / "r")
    kept = keep(run, record("a", "k"), [sample("1", 1.0, "红色"), sample("2", 0.0)])
    assert kept.samples == 2
    assert run.record("k") == kept
    assert [s.answer for s in run.samples("k")] == ["红色", "0.0"]


def test_a_torn_record_is_no_record(tmp_path):
    run = RunFolder(tmp_path / "r")
    run.add(record("a", "k"))
    path = tmp_path / "r" / "records" / "k.json"
    path.write_text(path.read_text()[:50])
    assert run.record("k") is None
    assert run.record("absent") is None


def test_records_come_in_the_plans_order(tmp_path):
    run = RunFolder(tmp_path / "r")
    for key in "abc":
        run.add(record(key, key))
    run.write(RunFacts.model_validate(FACTS | {"cells": ["c", "a", "missing"]}))
    assert [r.cell.key for r in run.records()] == ["c", "a"]


def test_a_fresh_run_keeps_the_earlier_one(tmp_path):
    run = RunFolder(tmp_path / "r")
    assert run.set_aside() is None
    for number in (1, 2):
        run.write(RunFacts.model_validate(FACTS | {"suite": {"n": number}}))
        assert run.set_aside() == tmp_path / f"r.{number}"
    assert RunFolder(tmp_path / "r.1").read().suite["n"] == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    RunFolder(tmp_path / "known").write(RunFacts.model_validate(FACTS))
    with pytest.raises(Refused, match="there are: known"):
        RunFolder.existing(tmp_path / "other")
    (tmp_path / "known" / "run.json").write_text("{")
    with pytest.raises(Refused, match="cannot be read"):
        RunFolder(tmp_path / "known").read()
    (tmp_path / "known" / "run.json").write_text("{}")
    with pytest.raises(Refused, match="it has no suite, baseline"):
        RunFolder(tmp_path / "known").read()


def test_a_record_without_all_of_its_samples_is_measured_again(tmp_path):
    run = RunFolder(tmp_path / "r")
    keep(run, record("a", "k"), [sample("1", 1.0), sample("2", 0.0)])
    path = run.samples_path("k")
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert run.record("k") is None
    path.unlink()
    assert run.record("k") is None


def forget_hash(run: RunFolder, key: str) -> None:
    """A Record as earlier versions wrote it."""
    path = run.path / "records" / f"{key}.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "samples_sha256"}))


def test_samples_of_earlier_records_count_when_the_score_is_their_mean(tmp_path):
    run = RunFolder(tmp_path / "r")
    made = keep(run, record("a", "k"), [sample("1", 1.0), sample("2", 0.0)])
    path = run.samples_path("k")
    assert made.samples_bytes == path.stat().st_size
    forget_hash(run, "k")
    path.write_text(path.read_text().replace("\n", " \n"))
    assert run.record("k") == made.model_copy(update={"samples_sha256": None})


@pytest.mark.parametrize(
    ("file", "before", "after", "told"),
    [
        (
            "samples/k.jsonl",
            '"score":0.0',
            '"score":1.0',
            "its samples are not those that were measured: their hash is another",
        ),
        ("samples/k.jsonl", "right", "wrong", "its samples are not those that were measured"),
        ("records/k.json", '"value": 0.5', '"value": 0.9', "its score, 0.9, is not the mean of its samples, 0.5"),
        ("records/k.json", '"samples": 2', '"samples": 3', "it has 2 samples of 3"),
        ("records/k.json", '"status": "done"', '"status": "fine"', "its Record cannot be read"),
    ],
)
def test_what_was_changed_since_it_was_measured_does_not_count_and_is_named(tmp_path, file, before, after, told):
    run = RunFolder(tmp_path / "r")
    keep(run, record("a", "k"), [sample("1", 1.0), sample("2", 0.0)])
    assert run.damage("k") == ""
    path = tmp_path / "r" / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    for again in (run, RunFolder(tmp_path / "r")):  # the second time as it was kept
        assert again.record("k") is None and again.damage("k").startswith(told)
    path.write_text(text)
    assert run.record("k") is not None and run.damage("k") == ""


def test_a_flipped_sample_of_an_earlier_record_is_noticed_by_its_mean(tmp_path):
    run = RunFolder(tmp_path / "r")
    keep(run, record("a", "k"), [sample("1", 1.0), sample("2", 0.0)])
    forget_hash(run, "k")
    path = run.samples_path("k")
    path.write_text(path.read_text().replace('"score":0.0', '"score":1.0'))
    assert run.damage("k") == "its score, 0.5, is not the mean of its samples, 1"


def test_a_folder_of_other_things_is_never_taken_over(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "holds other files (thesis.txt)" in str(RunFolder(tmp_path).faults()[0])
    assert "is a file" in str(RunFolder(tmp_path / "thesis.txt").faults()[0])
    assert RunFolder(tmp_path / "new").faults() == []
    run = RunFolder(tmp_path / "r")
    run.write(RunFacts.model_validate(FACTS))
    assert run.faults() == []


@pytest.mark.parametrize(
    "facts", ["[]", "x", '{"variants": []}', '{"variants": {"a": null}}', '{"cells": null}', '{"suite": 1}']
)
def test_a_run_json_of_another_kind_is_refused(tmp_path, facts):
    text = json.dumps(FACTS | json.loads(facts)) if facts.startswith("{") else facts
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(Refused, match="cannot be read"):
        RunFolder(tmp_path).read()


def test_a_place_that_takes_no_file_is_refused_before_any_work(tmp_path):
    assert RunFolder(tmp_path / "a" / "b").faults() == [] and list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in (Path("/proc/nope/r"), tmp_path / "file" / "r"):
        (fault,) = RunFolder(place).faults()
        assert "cannot be written" in fault.what and "--output" in fault.right
