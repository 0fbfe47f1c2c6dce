"""A file of one's own questions: what is read, asked and scored, and what is refused by its row."""

from __future__ import annotations

import base64
import csv
import io
import json

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from harness.engine.settings import EngineSettings
from harness.record.samples import Sample
from harness.suite.schema import load_suite
from harness.util.errors import Refused
from harness.workloads import tasks
from harness.workloads.accuracy import Accuracy, AccuracySpec
from harness.workloads.tasks.own_answers import alike, letter_in
from tests.helpers.chat_server import Server, engine_of, measured
from tests.helpers.records import ROOT

DEMO = str(ROOT / "harness/demo/model")


def png(colour: str) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(held, format="PNG")
    return held.getvalue()


ROWS = [
    {"id": "open", "image": "pictures/red.png", "question": "Which colour?", "answers": ["red", "Red!"]},
    {"id": "number", "image": "pictures/blue.png", "question": "How many?", "answer": 1200},
    {"id": "choice", "image": "pictures/red.png", "question": "Which?", "choices": ["blue", "red"], "answer": "red"},
    {"question": "No picture?", "answer": "none", "category": "text"},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for colour in ("red", "blue"):
        (tmp_path / "pictures" / f"{colour}.png").write_bytes(png(colour))
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def spec(path, **more) -> AccuracySpec:
    return AccuracySpec(questions=path, **more)


def asked(path, tmp_path, reply) -> tuple[dict[str, Sample], Server]:
    """Every question put to a server that answers by rule."""
    kind, given, server = Accuracy(), spec(path), Server(reply)
    (point,) = kind.points(given)
    assert kind.preflight(given, [point], EngineSettings(), DEMO) == []
    made = measured(kind, engine_of(server, tmp_path), given, point)
    return {sample.doc_id: sample for sample in made.samples}, server


def test_a_file_is_all_it_takes(folder):
    said = {"red": "The answer is B.", "blue": "1,200", None: "None."}
    samples, server = asked(folder / "mine.jsonl", folder, lambda colour, _: (said[colour], "stop"))
    assert {i: s.score for i, s in samples.items()} == {"open": 0.0, "number": 1.0, "choice": 1.0, "4": 1.0}
    assert samples["choice"].answer == "B" and samples["choice"].target == "B"
    texts = [part["text"] for body in server.bodies for part in body["messages"][-1]["content"] if part["type"] == "text"]
    assert "Which?\nA. blue\nB. red\nAnswer with the letter of the right choice." in texts
    assert "Which colour?" in texts, "an open question is asked as it is written"
    samples, _ = asked(folder / "mine.jsonl", folder, lambda *_: ("red", "stop"))
    assert {i: s.score for i, s in samples.items()} == {"open": 1.0, "number": 0.0, "choice": 1.0, "4": 0.0}


def test_a_suite_names_it_in_one_line(folder):
    suite = folder / "s.yaml"
    suite.write_text("name: s\nmodel: demo\nvariants: {bf16: {}}\nworkloads:\n  accuracy: {questions: mine.jsonl}\n")
    given = load_suite(suite).workloads.accuracy
    assert given.questions.name == "mine.jsonl" and given.tasks == ()
    suite.write_text("name: s\nmodel: demo\nvariants: {bf16: {}}\nworkloads:\n  accuracy: {}\n")
    with pytest.raises(Refused, match="names nothing to ask"):
        load_suite(suite)


def test_csv_tsv_parquet_and_json_are_read_alike(folder):
    rows = [{"id": f"q{i}", "question": "Which?", "answer": "red", "image": png(c)} for i, c in enumerate(("red", "blue"))]
    coded = [row | {"image": base64.b64encode(row["image"]).decode()} for row in rows]
    (folder / "a.json").write_text(json.dumps(coded))
    parquet.write_table(pa.Table.from_pylist(rows), folder / "b.parquet")
    for name, delimiter in (("c.csv", ","), ("d.tsv", "\t")):
        with (folder / name).open("w", newline="") as file:
            table = csv.DictWriter(file, list(coded[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(coded)
    found = [asked(folder / name, folder, lambda *_: ("red", "stop"))[0] for name in ("a.json", "b.parquet", "c.csv", "d.tsv")]
    assert [list(one) for one in found] == [["q0", "q1"]] * 4
    assert len({one["q0"].image_hash for one in found}) == 1 and found[0]["q0"].image_hash != found[0]["q1"].image_hash


def test_columns_of_letters_are_choices(folder):
    lines = ["index\timage\tquestion\tA\tB\tC\tanswer", f"7\t{base64.b64encode(png('red')).decode()}\tWhich?\tone\ttwo\t\tB"]
    lines.append("8\t7\tWhich other?\tone\ttwo\t\tA")
    (folder / "bench.tsv").write_text("\n".join(lines) + "\n")
    samples, server = asked(folder / "bench.tsv", folder, lambda *_: ("B", "stop"))
    assert samples["7"].score == 1.0 and samples["8"].score == 0.0
    assert samples["7"].image_hash == samples["8"].image_hash != "", "a picture that another row holds"
    assert "A. one\nB. two\nAnswer" in server.bodies[0]["messages"][-1]["content"][-1]["text"]


def test_the_key_knows_content_and_pictures_and_not_the_place(folder):
    def key(path) -> dict:
        return Accuracy().identity(spec(path), {"task": "mine"})

    before = key(folder / "mine.jsonl")
    there = folder / "elsewhere"
    there.mkdir()
    (folder / "pictures").rename(there / "pictures")
    (folder / "mine.jsonl").rename(there / "mine.jsonl")
    assert key(there / "mine.jsonl") == before
    (there / "pictures" / "blue.png").write_bytes(png("green"))
    assert key(there / "mine.jsonl") != before


def test_a_picture_that_goes_is_told_and_the_file_is_read_once(folder, monkeypatch):
    from harness.workloads.tasks import own_questions

    reads: list[str] = []
    real = own_questions.objects
    monkeypatch.setattr(own_questions, "objects", lambda path: reads.append(str(path)) or real(path))
    for _ in range(3):
        tasks.of_spec(spec(folder / "mine.jsonl"))
    assert len(reads) == 2, "once to look at it, once to make the task"
    (folder / "pictures" / "blue.png").unlink()
    with pytest.raises(Refused, match=r"mine.jsonl:2: its picture is the path pictures/blue.png, where no file is"):
        tasks.of_spec(spec(folder / "mine.jsonl"))


def test_chance_is_known_from_the_choices(folder):
    rows = [{"question": str(i), "choices": list("abcd"), "answer": "a"} for i in range(3)]
    (folder / "four.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind, given = Accuracy(), spec(folder / "four.jsonl")
    made = measured(kind, engine_of(Server(lambda *_: ("A", "stop")), folder), given, {"task": "four"})
    assert made.metrics["chance"].value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"answer": "x"}, "mine.jsonl:1: has no question"),
        ({"question": "q"}, "has no answer"),
        ({"question": "q", "answer": {"a": 1}}, "where a text or a number is meant"),
        ({"question": "q", "answer": "x", "image": "gone.png"}, "its picture is the path gone.png, where no file is"),
        ({"question": "q", "answer": "E", "choices": ["x", "y"]}, "is none of its 2 choices"),
        ({"question": "q", "answer": "x", "choices": ["x"]}, "its choices are no list of 2 to 26"),
        ({"question": "q", "answer": "x", "choices": "x or y"}, "a list is meant"),
        ({"question": "q", "answer": "x", "image": 7}, "its picture is int"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_by_its_number(folder, row, told):
    (folder / "mine.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(ROWS[3]) + "\n")
    with pytest.raises(Refused, match=told):
        Accuracy().points(spec(folder / "mine.jsonl"))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("none.jsonl", None, "is no file"),
        ("empty.jsonl", "", "holds no questions"),
        ("wide.csv", "question,answer\na,b,c\n", "wide.csv:2: has 3 cells, and the first line names 2 columns"),
        ("latin.csv", b"question,answer\n\xe4,b\n", "is no readable csv file"),
        ("demo_vl_text.jsonl", json.dumps(ROWS[3]), "would be a second task demo_vl_text"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(folder, name, text, told):
    if text is not None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Refused, match=told):
        tasks.of_spec(spec(folder / name, tasks=("demo_vl",)))


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("B.", "B"), ("**B**", "B"), ("B. two", "B"), ("The answer is B", "B"), ("Answer: (B)", "B"),
        ("答案是B。", "B"), ("答案:B", "B"), ("选B", "B"), ("two", "B"), ("I think it is C because of D'Arcy.", "C"),
        ("A cat sits there.", "[invalid]"), ("the answer is a cat", "[invalid]"), ("B or C", "[invalid]"), ("", "[invalid]"),
        ("Z", "[invalid]"), ("First A, no: the answer is D.", "D"), ("Ⓑ", "B"),
    ],
)  # fmt: skip
def test_a_letter_is_found_where_one_is_named(reply, letter):
    assert letter_in(reply, ["one", "two", "three", "four"]) == letter


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Red.", "red", True), ("1,200", "1200.0", True), ("12%", "12", True), ("12 apples", "12", False),
        ("北京。", "北京", True), ("nan", "NaN.", True), ("-3", "3", False), ("١", "1", False),
        ("The dog", "dog", False), ("", "x", False), ("$5", "5", True), ("1e3", "1000", True),
    ],
)  # fmt: skip
def test_answers_are_alike_as_numbers_or_without_case_and_punctuation(one, other, same):
    assert alike(one, other) is same
