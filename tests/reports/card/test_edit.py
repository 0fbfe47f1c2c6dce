"""A card as text: the block and single keys change, every other byte stays."""

from __future__ import annotations

import re
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.util.errors import Refused
from reports.card.edit import BEGIN, END, Key, rendered, scalar, with_block, with_keys
from tests.helpers.cards import CARD, block_of

OLD = "base_model:   'old/name'   # where from"
KEYS = [
    Key("base_model", "Qwen/Qwen3-VL-8B-Instruct"),
    Key("base_model_relation", "quantized"),
    Key("tasks", ["image-text-to-text"], "offer"),
    Key("tags", ["awq", "w4a16"], "add"),
    Key("indexing", {"results": [{"task": {"name": "V: Q"}, "metrics": [{"value": 0.5, "description": "a: #b, [c]"}]}]}),
]


def front(card: str) -> dict[str, object]:
    return yaml.safe_load(re.split(r"^---\r?$", card.lstrip("\ufeff"), flags=re.MULTILINE)[1])


def changed(card: str, keys: list[Key] = KEYS, block: str = "## Results\n\n| a |\n| --- |") -> tuple[str, list[str]]:
    return with_keys(with_block(card, block), keys)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_rest_of_the_card_stays_byte_for_byte(line_end, mark):
    before = mark + CARD.replace("\n", line_end)
    after, warnings = changed(before)
    assert warnings == []
    assert [line for line in before.split(line_end) if line not in after.split(line_end)] == [OLD]
    new = [line for line in after.split(line_end) if line not in before.split(line_end)]
    assert new[:2] == ["- w4a16", "base_model:   Qwen/Qwen3-VL-8B-Instruct   # where from"]
    assert new[2] == "base_model_relation: quantized"
    assert after.startswith(mark + "---") and after.count("\n") == after.count(line_end)
    assert front(after)["tags"] == ["1.0", "awq", "w4a16"] and front(after)["tasks"] == ["visual-question-answering"]
    assert front(after)["indexing"] == KEYS[-1].value
    body = before.partition(f"{line_end}---{line_end}")[2]
    assert body + line_end + block_of(after) + line_end == after.partition(f"{line_end}---{line_end}")[2]
    assert changed(after) == (after, [])


def test_a_second_block_takes_the_place_of_the_first():
    first, _ = changed("# T\n\nabove\n")
    moved = first.replace(END, f"{END}\n\nbelow, no line end")
    after, _ = changed(moved, block="new\ntext")
    assert after == moved.replace(block_of(moved), f"{BEGIN}\nnew\ntext\n{END}")


@pytest.mark.parametrize(
    ("card", "told"),
    [
        (f"a\n{BEGIN}\nb\n", r"not one pair \(begin in line 2\)"),
        (f"a\n{END}\n", r"\(end in line 2\)"),
        (f"{END}\n{BEGIN}\n", r"\(end in line 1, begin in line 2\)"),
        (f"{BEGIN}\n{END}\n\n{BEGIN}\n{END}\n", r"begin in line 1, end in line 2, begin in line 4"),
        (f"text {BEGIN}\n{END}\n", r"README\.md:1: the marker .* shares its line"),
        (f"{BEGIN}\n  {END}\n", r"README\.md:2: the marker"),
    ],
)
def test_markers_that_are_no_pair_are_refused(card, told):
    with pytest.raises(Refused, match=told):
        with_block(card, "x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1\n", r"is not valid YAML \(line 3"),
        ("a: 1\n\tb: 2\n", "is not valid YAML"),
        ("a: 1\na: 2\n", "holds the key 'a' twice"),
        ("{a: 1}\n", "is no list of keys and values"),
        ("- a\n", "is no list of keys and values"),
        ("just text\n", "is no list of keys and values"),
        ("a: 2024-13-45\n", "month must be in 1..12"),
        ("a: &a [" + "*a, " * 30 + "]\n", "too many YAML aliases"),
        ("a: \x07\n", "is not valid YAML"),
        ("a: 1\n...\n", "ends with ... before its ---"),
    ],
)
def test_front_matter_that_cannot_be_read_is_left_alone(text, told):
    card = f"---\n{text}---\n# T\n"
    after, warnings = changed(card)
    assert after.startswith(card) and len(warnings) == 1 and re.search(f"{told}.*: left alone", warnings[0])


def test_front_matter_without_an_end_is_left_alone():
    after, warnings = with_keys("---\nlicense: x\n# T\n", KEYS)
    assert after == "---\nlicense: x\n# T\n" and "no second ---" in warnings[0]
    card = "---\rlicense: x\r---\r# T"  # no line of it ends as any other file's
    assert with_keys(card, KEYS)[0] == card


def test_what_others_wrote_is_left_alone_and_what_is_ours_is_taken_away():
    own = lambda old: "ours" in str(old)  # noqa: E731
    card = "---\nindexing: {results: theirs}\nlicense: x\n---\n"
    assert with_keys(card, [Key("indexing", {"a": 1}, own=own)]) == (
        card,
        ["indexing of the front matter holds what others wrote: left alone"],
    )
    card = card.replace("theirs", "ours")
    assert with_keys(card, [Key("indexing", None, own=own)]) == ("---\nlicense: x\n---\n", [])
    assert with_keys("---\nlicense: x\n---\n", [Key("indexing", None)]) == ("---\nlicense: x\n---\n", [])


@pytest.mark.parametrize("held", ["!!set {a, b}", "2024-01-01", "!!binary aGk="])
def test_values_that_are_not_written_here_are_left_alone(held):
    card = f"---\nlicense: x\ntags: {held}\n---\n"
    assert with_keys(card, [KEYS[3]]) == (
        card,
        ["tags of the front matter cannot be changed without touching another key: left alone"],
    )


def test_a_long_front_matter_is_read_soon():
    card = "---\n" + "".join(f"k{i}: v\n" for i in range(1000)) + "---\n"
    began = time.monotonic()
    assert with_keys(card, KEYS)[1] == [] and time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tags: awq\n", "tags:\n- awq\n- w4a16\n"),
        ("tags: []\n", "tags: [awq, w4a16]\n"),
        ("tags:\n", "tags:\n- awq\n- w4a16\n"),
        ("tags: [x, y] # z\n", "tags: [x, y, awq, w4a16] # z\n"),
        ("tags: [x,\n  y,\n]\n", "tags:\n- x\n- y\n- awq\n- w4a16\n"),
        ("t: &t [x]\ntags: *t\n", "t: &t [x]\ntags:\n- x\n- awq\n- w4a16\n"),
        ("  a: 1\n  tags:\n    - x\n  b: 2\n", "  a: 1\n  tags:\n    - x\n    - awq\n    - w4a16\n  b: 2\n"),
        ("text: |\n  # no comment\n\ntags: [awq, w4a16]\n", "text: |\n  # no comment\n\ntags: [awq, w4a16]\n"),
        ("tags: [awq]\n\n# end\n", "tags: [awq, w4a16]\n\n# end\n"),
        ("", "tags:\n- awq\n- w4a16\n"),
    ],
)
def test_lists_are_added_to_as_they_are_written(before, after):
    assert with_keys(f"---\n{before}---\n# T", [KEYS[3]]) == (f"---\n{after}---\n# T", [])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12))
def test_any_text_survives_as_a_value(value):
    assert yaml.safe_load(scalar(value)) == value
    assert yaml.safe_load("\n".join(rendered("k", {"a": [{"b": value}]}))) == {"k": {"a": [{"b": value}]}}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["", "---\n", "---\nlicense: x\n---\n", "\ufeff"]))
def test_any_card_keeps_its_text(body, head):
    card = head + body
    if "vl-harness" in card:
        return
    after, warnings = changed(card)
    assert warnings or (body in after and after.startswith(head[:4]))
    assert changed(after)[0] == after


@pytest.mark.parametrize("fence", ["```", "~~~~", "   ```html"])
def test_a_pair_of_markers_in_a_code_fence_is_shown_and_not_meant(fence):
    close = fence.strip().rstrip("html")
    shown = f"{fence}\n{BEGIN}\nhow it looks\n{END}\n{close}\n"
    card = f"# Title\n\n{shown}\n{BEGIN}\nold\n{END}\n"
    made = with_block(card, "new")
    assert shown in made and "\nold\n" not in made and made.count("new") == 1
    assert with_block(f"# Title\n\n{shown}", "new").startswith(f"# Title\n\n{shown}")
