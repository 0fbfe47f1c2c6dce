"""Arms are paired document by document; what is not alike is refused."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from harness.compare import answers, runs, stats
from harness.compare.answers import compare_pairs, held
from harness.compare.arms import Arms, unlike
from harness.compare.pairing import Baseline, pair
from harness.compare.runs import compare_run
from harness.record import health
from harness.record.folder import RunFolder
from harness.record.run_facts import RunFacts
from harness.util.errors import Refused
from harness.util.parallel import spread
from tests.helpers.arms import arms
from tests.helpers.records import keep, record, sample


def compared(n: int, lost: int, gained: int):
    base, other = arms(n, lost, gained)
    return compare_pairs("t", Arms("a", "b"), pair(Baseline(base), other, "b/t"))


def test_six_flips_each_way_of_900_show_nothing():
    c = compared(900, 6, 6)
    assert (c.lost, c.gained, c.verdict, c.difference.value) == (6, 6, "none shown", 0.0)
    assert 0.009 < c.detectable < 0.013


def test_45_one_way_losses_of_900_are_a_loss():
    c = compared(900, 45, 0)
    assert c.verdict == "loss" and c.p_value < 1e-12
    assert c.difference.value == pytest.approx(-0.05)
    assert c.recovery.value == pytest.approx(0.95)
    assert c.difference.high < 0


def test_one_way_gains_are_a_gain():
    assert compared(900, 0, 45).verdict == "gain"


def test_answers_that_change_without_a_change_in_score_are_counted():
    before, after = [sample("1", 0.0, "x")], [sample("1", 0.0, "y")]
    c = compare_pairs("t", Arms("a", "b"), pair(Baseline(before), after, "b/t"))
    assert (c.flips, c.lost, c.gained) == (1, 0, 0)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([sample("1", 1)], [sample("2", 1)], "different documents"),
        ([], [], "no documents"),
        ([sample("1", 1)], [sample("1", 1, image_hash="other")], "another prompt or picture"),
        ([sample("1", 1)], [sample("1", 1, prompt_hash="other")], "another prompt or picture"),
        ([sample("1", 1)], [sample("1", 1, prompt_tokens=61)], "took 50 tokens in one arm and 61 in the other"),
    ],
)
def test_arms_that_were_not_asked_the_same_are_refused(before, after, told):
    with pytest.raises(Refused, match=told):
        pair(Baseline(before), after, "b/t")


def test_every_field_in_which_two_records_differ_is_named():
    left = record("a", "1")
    right = record("b", "2", engine={"max_num_seqs": 32, "enforce_eager": True}, versions={"vllm": "0.26.0", "torch": "2.13.0"})
    assert unlike(left, record("b", "3", repeat=1)) == []
    assert unlike(left, right) == [
        "engine.enforce_eager: None and True",
        "engine.max_num_seqs: 8 and 32",
        "versions.vllm: 0.32.0 and 0.26.0",
    ]


def run_of(tmp_path, *records):
    run = RunFolder(tmp_path / "r")
    run.write(
        RunFacts.model_validate(
            {
                "suite": {"name": "s", "model": "m"},
                "baseline": "a",
                "variants": {},
                "cells": [r.cell.key for r, _ in records],
            }
        )
    )
    for one, samples in records:
        keep(run, one, samples)
    return run


def test_a_run_is_compared_task_by_task_and_in_total(tmp_path):
    base, other = arms(40, 4, 1)
    run = run_of(
        tmp_path,
        (record("a", "1", "t"), base),
        (record("a", "2", "u"), base),
        (record("b", "3", "t"), other),
        (record("b", "4", "u"), other),
    )
    assert [(c.task, c.n, c.lost, c.gained) for c in compare_run(run, "a")[0]] == [
        ("t", 40, 4, 1),
        ("u", 40, 4, 1),
        ("all", 80, 8, 2),
    ]


def test_arms_that_were_measured_differently_are_left_out_and_named(tmp_path):
    base, other = arms(4, 0, 0)
    run = run_of(
        tmp_path,
        (record("a", "1", "t"), base),
        (record("a", "2", "u"), base),
        (record("b", "3", "t", engine={"max_num_seqs": 32}), other),
        (record("b", "4", "u"), other),
    )
    found, faults = compare_run(run, "a")
    assert [c.task for c in found] == ["u"]
    assert len(faults) == 1 and "max_num_seqs: 8 and 32" in str(faults[0])


def test_a_total_of_some_tasks_says_so(tmp_path):
    base, other = arms(4, 0, 0)
    run = run_of(tmp_path, *[(record("a", k, k), base) for k in "tuv"], *[(record("b", "b" + k, k), other) for k in "tu"])
    assert [c.task for c in compare_run(run, "a")[0]] == ["t", "u", "2 of 3 tasks"]


def test_documents_with_one_id_cannot_be_paired():
    twice = [sample("1", 1), sample("1", 0)]
    with pytest.raises(Refused, match="two documents with one id"):
        pair(Baseline(twice), twice, "b/t")


def test_a_comparison_is_kept_until_a_file_it_follows_from_changes(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "r")
    for name, key, wrong in (("a", "1", ()), ("b", "2", ("3",))):
        keep(run, record(name, key, checkpoint=name), [sample(str(i), float(str(i) not in wrong)) for i in range(20)])
    run.write(
        RunFacts.model_validate({"suite": {"name": "s"}, "baseline": "a", "variants": {"a": {}, "b": {}}, "cells": ["1", "2"]})
    )
    ((first,), _) = compare_run(run, "a")
    assert [lost.doc_id for lost in first.examples] == ["3"]
    with monkeypatch.context() as patch:
        patch.setattr(answers, "read_rows", None)
        assert compare_run(RunFolder(run.path), "a") == ([first], [])
    keep(run, record("b", "2", checkpoint="b"), [sample(str(i), float(i < 15)) for i in range(20)])
    ((second,), _) = compare_run(run, "a")
    assert second.lost == 5


def test_what_a_candidate_changed_gives_what_counting_everything_gives(tmp_path):
    """Scores between 0 and 1, documents on one picture in two tasks, another order of lines, a document not asked."""
    draw = random.Random(0)
    records, groups, total = [], defaultdict(lambda: [0.0, 0.0, 0]), defaultdict(list)
    for task in "tu":
        arms = {"a": [], "b": []}
        for i in range(60):
            scores = [draw.choice([0.0, 0.3, 1.0]) for _ in range(2)] if i % 3 == 0 else [1.0, 1.0]
            picture = f"picture {i % 7}" if i % 2 else ""
            for (name, rows), score in zip(arms.items(), scores, strict=True):
                finish = "not asked" if i == 9 and name == "b" else "stop"
                rows.append(sample(str(i), score, f"{score}", target=str(i), image_hash=picture, finish_reason=finish))
                total[name].append(rows[-1])
            group = groups[picture or (task, i)]
            group[:] = group[0] + scores[0], group[1] + scores[1], group[2] + 1
        records.append((record("a", f"a{task}", task), arms["a"]))
        records.append((record("b", f"b{task}", task), arms["b"] if task == "t" else arms["b"][::-1]))
    found = compare_run(run_of(tmp_path, *records), "a")[0][-1]
    difference, recovery = stats.bootstrap(Counter((round(a, 9), round(b, 9), n) for a, b, n in groups.values()))
    for mine, whole in ((found.difference, difference), (found.recovery, recovery)):
        assert mine.value == pytest.approx(whole.value)
        assert mine.low <= whole.low + 0.005 and mine.high >= whole.high - 0.005
    assert found.clusters == len(groups) and found.n == 120
    assert found.candidate_health == health.health_of(total["b"]) and found.baseline_health == health.health_of(total["a"])


def test_many_samples_are_shared_out_and_come_to_the_same(tmp_path, monkeypatch):
    base, other = arms(40, 4, 1)
    rows = [(record("a", "1", "t"), base), *((record(name, name, "t"), other[i:] + other[:i]) for i, name in enumerate("bcd"))]
    run = run_of(tmp_path, *rows)
    alone = compare_run(run, "a")
    monkeypatch.setattr(runs, "MANY", 0)
    seen = []
    monkeypatch.setattr(runs, "spread", lambda *given: seen.append(given) or spread(*given))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "other"))
    assert compare_run(run, "a") == alone and seen and [c.candidate for c in alone[0]] == ["b", "c", "d"]


def scored(before, after, each=1, chance=None):
    """The comparison of two arms' scores, so many questions a picture."""
    rows = [
        [sample(str(i), float(score), str(score), image_hash=f"picture {i // each}") for i, score in enumerate(scores)]
        for scores in (before, after)
    ]
    return replace(compare_pairs("t", Arms("a", "b"), pair(Baseline(rows[0]), rows[1], "b/t")), chance=chance)


def test_many_small_gains_and_few_large_losses_are_no_gain():
    c = scored([0.5] * 60 + [1.0] * 840, [0.55] * 60 + [0.0] * 15 + [1.0] * 825)
    assert c.gained == 60 and c.lost == 15 and c.difference.value < 0
    assert c.verdict in ("loss", "none shown")
    assert c.verdict == "loss" or c.difference.low <= 0 <= c.difference.high


def test_where_questions_share_pictures_p_and_interval_count_pictures():
    lost = scored([1.0] * 600, [0.0] * 10 + [1.0] * 590, each=5)
    assert lost.clusters == 120 and lost.p_value == 0.5 and lost.verdict == "none shown"
    assert lost.difference.low <= 0 <= lost.difference.high and lost.detectable is None
    alike = scored([1.0] * 900, [1.0] * 900, each=300)
    assert alike.recovery.low < 0.9
    # The hint counts pictures too: changes that come together say less than the same number apart.
    apart = scored([1.0] * 600, [0.0] * 10 + [1.0] * 590)
    assert lost.questions_needed(0.98) > 3 * apart.questions_needed(0.98)


def test_too_few_changes_can_show_nothing_and_say_no_figure():
    assert scored([1.0] * 600, [0.0] * 3 + [1.0] * 597).detectable is None
    assert scored([1.0] * 600, [0.0] * 6 + [1.0] * 594).detectable is not None


def test_a_table_of_many_rows_says_a_difference_falsely_no_more_often_than_one_row():
    rows = [replace(scored([1.0] * 600, [0.0] * n + [1.0] * (600 - n)), task=f"t{n}") for n in (6, 0, 0, 0, 0)]
    assert rows[0].verdict == "loss" and rows[0].p_value < 0.05
    assert held(rows)[0].verdict == "none shown"
    assert held(rows[:1])[0].verdict == "loss"
    # A total stands beside other totals, and not beside its tasks.
    both = held([*rows, replace(rows[0], task="all", total=True)])
    assert (both[0].verdict, both[-1].verdict) == ("none shown", "loss")
    again = held([replace(rows[0], noise=True), *rows[1:]])
    assert again[0].p_held is None


def test_a_baseline_that_guesses_has_nothing_to_lose():
    guessed = scored([1.0] * 260 + [0.0] * 740, [1.0] * 260 + [0.0] * 740, chance=0.25)
    assert guessed.at_chance and not replace(guessed, chance=0.2).at_chance and not replace(guessed, chance=None).at_chance
