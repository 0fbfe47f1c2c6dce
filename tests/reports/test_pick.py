"""The smallest variant whose lower bound holds, or none and why."""

from __future__ import annotations

import pytest

from harness.record.folder import RunFolder
from harness.util.errors import Refused
from reports.pick import pick
from reports.run_data import RunData
from reports.tables.summary import summary
from tests.helpers.records import keep, record, sample
from tests.helpers.runs import full_run, recipe, variant, write


def run_of(path, wrong: dict[str, int], n: int = 400, **more: object) -> RunFolder:
    """Variants of falling size, each with so many wrong answers; `bf16` has none."""
    run, keys = RunFolder(path), []
    for name, count in {"bf16": 0, **wrong}.items():
        made = record(name, name, checkpoint=name).model_copy(update=more)
        keys.append(keep(run, made, [sample(str(i), float(i >= count)) for i in range(n)]).cell.key)
    sizes = {name: variant(16 - 3 * i, recipe() if i else None) for i, name in enumerate(["bf16", *wrong])}
    return write(run, sizes, keys)


def answers(found) -> dict[str, str]:
    return {c.name: c.answer for c in found.choices}


def test_the_smallest_that_holds_is_chosen(tmp_path):
    run = run_of(tmp_path / "r", {"a": 1, "b": 2, "c": 60})
    found = pick(run, 14, 0.97)
    assert found.chosen and found.chosen.name == "b" and found.status == 0
    assert answers(found) == {"bf16": "too large", "a": "fits", "b": "fits", "c": "shown to be too low"}


def test_none_is_shown_and_why(tmp_path):
    found = pick(run_of(tmp_path / "r", {"a": 4}), 14, 0.99)
    assert found.chosen is None and found.status == 3 and found.verdict.startswith("None has weights of at most 14 GiB and")
    assert answers(found)["a"] == "not shown" and "questions would show it" in found.choices[1].why


def test_none_can_be(tmp_path):
    found = pick(run_of(tmp_path / "r", {"a": 90}), 14, 0.98)
    assert (found.chosen, found.status) == (None, 1)
    assert "the upper bound" in found.choices[1].why


def test_the_baseline_recovers_itself(tmp_path):
    found = pick(run_of(tmp_path / "r", {"a": 90}), None, 0.98)
    assert found.chosen and found.chosen.name == "bf16"


def test_what_was_not_measured_is_no_choice(tmp_path):
    found = pick(full_run(tmp_path / "r", random_weights=True), 10, 0.5)
    assert found.chosen is None and found.status == 3
    assert answers(found) == {
        "bf16": "too large",
        "awq-g128": "not measured",
        "rtn-g32": "not measured",
        "gone": "not measured",
    }
    assert pick(full_run(tmp_path / "s", random_weights=True), 10, None).chosen.name == "awq-g128"


def test_a_task_that_cannot_be_compared_is_no_evidence(tmp_path):
    run = full_run(tmp_path / "r")
    path = run.samples_path("awq-g128-text")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["{}", *lines[1:]]) + "\n")
    found = pick(run, 7, 0.5)
    assert found.chosen is None and found.choices[1].why == "only 1 of 2 tasks can be compared"
    assert summary(RunData.of(run)).frame["verdict"][1] == "none shown (1 of 2 tasks)"


def test_the_choosing_among_many_is_allowed_for(tmp_path):
    alone = pick(run_of(tmp_path / "one", {"a": 3}), 14, 0.98)
    assert alone.chosen.name == "a"
    many = pick(run_of(tmp_path / "many", {name: 3 for name in "abcdefghijkl"}), 14, 0.98)
    assert many.chosen is None and "for 12 variants together" in many.choices[1].why


def test_a_task_that_lost_much_is_not_hidden_by_the_total(tmp_path):
    run, keys = RunFolder(tmp_path / "r"), []
    for name, lost in (("bf16", 0), ("a", 10)):
        for task, n, wrong in (("small", 40, lost), ("large", 4000, 0)):
            made = record(name, f"{name}-{task}", task, checkpoint=name)
            keys.append(keep(run, made, [sample(f"{task}{i}", float(i >= wrong)) for i in range(n)]).cell.key)
    write(run, {"bf16": variant(16), "a": variant(6, recipe())}, keys)
    found = pick(run, 14, 0.98)
    assert found.chosen is None and answers(found)["a"] == "shown to be too low" and "on small" in found.choices[1].why


@pytest.mark.parametrize(
    ("most", "least", "told"), [(0, None, "above 0"), (None, 98, "did you mean 0.98"), (None, 0, "a share")]
)
def test_constraints_that_make_no_sense_are_refused(tmp_path, most, least, told):
    with pytest.raises(Refused, match=told):
        pick(full_run(tmp_path / "r"), most, least)
