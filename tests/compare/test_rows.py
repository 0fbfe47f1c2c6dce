"""Samples files read in a hurry give what pairing all their rows gives."""

from __future__ import annotations

import random

import pytest

from harness.compare.counts import PairCounts
from harness.compare.pairing import Baseline, pair
from harness.compare.rows import read_rows
from harness.record import folder
from harness.record.folder import RunFolder
from harness.util.errors import Refused
from tests.helpers.records import keep, record, sample


def test_only_lines_that_differ_are_read(tmp_path):
    run = RunFolder(tmp_path / "r")
    keep(run, record("a", "1"), [sample("1", 1.0), sample("2", 1.0)])
    keep(run, record("b", "2"), [sample("1", 1.0), sample("2", 0.0)])
    keep(run, record("c", "3"), [sample("2", 0.0), sample("1", 1.0)])
    for key in "23":  # the order of a file's lines means nothing
        pairs = read_rows((run, "1"), (run, key), "t")
        assert [(place, row.doc_id, row.score) for place, row in pairs.changed] == [(1, "2", 0.0)]
    run.samples_path("2").write_text('{"doc_id": 3}\n{}\n', encoding="utf-8")
    with pytest.raises(Refused, match="holds a line that is no Sample"):
        read_rows((run, "1"), (run, "2"), "t")


@pytest.mark.parametrize("changed", [0, 1, 30, 200])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_fast_reader_gives_what_pairing_every_row_gives(tmp_path, changed, shuffled):
    draw = random.Random(changed)
    before = [sample(str(i), draw.random(), image_hash=f"picture {i // 3}") for i in range(200)]
    after = list(before)
    for place in draw.sample(range(200), changed):
        after[place] = sample(str(place), draw.random(), "another", image_hash=f"picture {place // 3}")
    if shuffled:
        draw.shuffle(after)
    run = RunFolder(tmp_path / "r")
    keep(run, record("a", "1"), before)
    keep(run, record("b", "2"), after)
    rows = [
        [folder.row(line, run.path) for line in run.samples_path(key).read_bytes().splitlines(keepends=True)] for key in "12"
    ]
    slow, fast = pair(Baseline(rows[0]), rows[1], "t"), read_rows((run, "1"), (run, "2"), "t")
    assert len(fast.changed) == changed
    # Rows that are equal and not the same object are pairs like any other: they change no count.
    one, two = PairCounts.of(slow), PairCounts.of(fast)
    assert (one.n, one.lost, one.gained, one.flips) == (two.n, two.lost, two.gained, two.flips)
    assert one.fractions == two.fractions
    assert one.pictures.kinds_beside(one.moved) == two.pictures.kinds_beside(two.moved)
    assert one.candidate.health() == two.candidate.health()
