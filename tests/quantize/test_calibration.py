from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from harness.util.errors import Refused
from quantize.calibration import faults, read, warnings
from quantize.recipe import Calibration
from tests.helpers import shapes

Image = pytest.importorskip("PIL.Image")


def picture(folder: Path, name: str, size: int = 8) -> str:
    Image.new("RGB", (size, size), (200, 10, 10)).save(folder / name)
    return name


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_of_pictures_and_lines(tmp_path: Path):
    rows = [{"question": f"q{i}", "answer": f"a{i}", "image": picture(tmp_path, f"{i}.png")} for i in range(6)]
    write_lines(tmp_path / "data.jsonl", rows)
    a, b, c = (list(read(Calibration(dataset=str(tmp_path), samples=6, seed=s))) for s in (0, 0, 1))
    assert [s.id for s in a] == [s.id for s in b] != [s.id for s in c]
    assert sorted(s.id for s in a) == [f"data.jsonl:{i}" for i in range(1, 7)]
    first = a[0]
    assert first.messages is not None and [p["type"] for p in first.messages[0]["content"]] == ["image", "text"]
    assert first.images[0].mode == "RGB" and first.images[0].size == (8, 8)


def test_messages_texts_and_pictures_inside(tmp_path: Path):
    inside = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "image": picture(tmp_path, "a.png")}, {"type": "text", "text": "what?"}],
            },
            {"role": "assistant", "content": "a"},
        ]
    }
    file = write_lines(tmp_path / "rows.jsonl", [inside, {"text": "plain"}, {"messages": [{"role": "user", "content": "hi"}]}])
    found = {s.id: s for s in read(Calibration(dataset=str(file), samples=3))}
    assert len(found["rows.jsonl:1"].images) == 1
    assert (found["rows.jsonl:2"].text, found["rows.jsonl:2"].messages) == ("plain", None)
    assert found["rows.jsonl:3"].images == []


def test_without_images_the_placeholders_go_too(tmp_path: Path):
    file = write_lines(tmp_path / "x.jsonl", [{"question": "q", "answer": "a", "image": picture(tmp_path, "a.png")}])
    (sample,) = read(Calibration(dataset=str(file), samples=1, images=False))
    assert sample.images == [] and sample.messages is not None
    assert [turn["content"] for turn in sample.messages] == ["q", "a"]


def test_parquet_as_hubs_store_it(tmp_path: Path):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    rows = [
        {
            "messages": json.dumps([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": str(i)}]}]),
            "images": [{"bytes": data.getvalue(), "path": None}],
        }
        for i in range(10)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "vlm.parquet", row_group_size=3)
    found = list(read(Calibration(dataset=str(tmp_path), samples=10)))
    assert len(found) == 10 and all(s.images[0].size == (4, 4) for s in found)
    assert len({s.id for s in found}) == 10


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('{"question": 1', "rows.jsonl:1: is not JSON"),
        ("[1]", "rows.jsonl:1: is a list, no JSON object"),
        ('{"image": "a.png"}', "messages, or question and answer"),
        ('{"question": "q", "answer": "a", "image": "gone.png"}', "its picture is the path gone.png, where no file is"),
    ],
)
def test_bad_rows_are_one_line(tmp_path: Path, rows: str, said: str):
    (tmp_path / "rows.jsonl").write_text(rows + "\n")
    with pytest.raises(Refused) as refused:
        list(read(Calibration(dataset=str(tmp_path / "rows.jsonl"), samples=1)))
    assert said in str(refused.value) and len(refused.value.faults) == 1


@pytest.mark.parametrize("dataset", ["./nothing", "/nowhere/at/all", "rows.parquet"])
def test_paths_that_do_not_exist(dataset: str):
    with pytest.raises(Refused, match="no such file or folder"):
        list(read(Calibration(dataset=dataset)))


def test_an_empty_folder(tmp_path: Path):
    with pytest.raises(Refused, match="neither"):
        list(read(Calibration(dataset=str(tmp_path))))


def test_a_hubs_name_is_looked_for_where_fetch_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(Refused, match="python -m harness fetch dataset o/calibration"):
        list(read(Calibration(dataset="o/calibration")))
    for place in ("LLM/train-0.jsonl", "VLM/train-0.jsonl", "VLM/test-0.jsonl"):
        path = tmp_path / "data/o/calibration" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": place}) + "\n")
    assert [s.text for s in read(Calibration(dataset="o/calibration", subset="VLM"))] == ["VLM/train-0.jsonl"]
    assert [s.text for s in read(Calibration(dataset="o/calibration", subset="VLM", split="test"))] == ["VLM/test-0.jsonl"]
    assert len(list(read(Calibration(dataset="data/o/calibration")))) == 2
    with pytest.raises(Refused, match="has no subset 'X'; it has LLM, VLM"):
        list(read(Calibration(dataset="o/calibration", subset="X")))


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch):
    import sys
    import types

    def load_dataset(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'neuralmagic/calibration' on the Hub\nlong trace")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(Refused) as refused:
        list(read(Calibration(dataset="neuralmagic/calibration", subset="LLM")))
    assert str(refused.value).count("\n") == 0 and "Couldn't reach" in str(refused.value)


def test_a_hub_data_set_by_name(monkeypatch: pytest.MonkeyPatch):
    import sys
    import types

    asked = {}

    def load_dataset(name: str, subset: str | None, split: str) -> list[dict[str, object]]:
        asked.update(name=name, subset=subset, split=split)
        return [{"messages": [{"role": "user", "content": f"text {i}"}]} for i in range(9)]

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    found = list(read(Calibration(dataset="neuralmagic/calibration", subset="LLM", samples=2)))
    assert asked == {"name": "neuralmagic/calibration", "subset": "LLM", "split": "train"}
    assert len(found) == 8  # four candidates for each sample asked for


def test_warnings_say_what_the_manifest_holds(tmp_path: Path):
    shapes.write_json(tmp_path / "config.json", shapes.config())
    facts = {
        "images": 0,
        "dropped_too_long": 2,
        "max_seq_length": 64,
        "first_dropped": ["a"],
        "dropped_without_images": 0,
        "used": 3,
        "asked": 8,
    }
    text = "\n".join(warnings(facts, tmp_path))
    assert "text-only calibration of a vision-language model" in text
    assert "2 samples are longer than 64 tokens" in text and "3 samples used of 8 asked" in text


def turns(*said: str) -> list[dict[str, str]]:
    return [{"from": who, "value": what} for who, what in zip(("human", "gpt") * 2, said, strict=False)]


def asked(*parts: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(parts)}]


TEXT = {"type": "text", "text": "what?"}
PICTURE = {"type": "image"}


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ({"conversations": turns("what?", "red")}, ["what?", "red"]),
        ({"conversations": turns("<image>\nwhat?", "red"), "image": "a.png"}, [["image", "text"], ["text"]]),
        ({"conversations": turns("first <image> then <image>", "red"), "images": ["a.png", "a.png"]},
         [["text", "image", "text", "image"], ["text"]]),
        ({"question": "<image> what?", "answer": "red", "image": "a.png"}, [["image", "text"], ["text"]]),
        ({"messages": [{"role": "user", "content": "what?"}], "image": "a.png"}, [["image", "text"]]),
        ({"messages": asked({"type": "image_url", "image_url": "a.png"}, TEXT)}, [["image", "text"]]),
        ({"messages": asked({"type": "image_url", "image_url": {"url": "a.png"}}, TEXT)}, [["image", "text"]]),
        ({"messages": asked("a text in a list", TEXT)}, ["a text in a listwhat?"]),
        ({"messages": json.dumps(asked(PICTURE, TEXT)), "image": "a.png"}, [["image", "text"]]),
    ],
)  # fmt: skip
def test_forms_that_data_sets_come_in(tmp_path: Path, row: dict[str, object], kinds: list[object]):
    picture(tmp_path, "a.png")
    (sample,) = read(Calibration(dataset=str(write_lines(tmp_path / "rows.jsonl", [row])), samples=1))
    assert sample.messages is not None
    found = [m["content"] if isinstance(m["content"], str) else [p["type"] for p in m["content"]] for m in sample.messages]
    assert found == kinds
    assert len(sample.images) == sum(kind.count("image") for kind in kinds if isinstance(kind, list))


BAD = {
    "speaks of 2 pictures and has 1": {"messages": asked(PICTURE, PICTURE, TEXT), "image": "a.png"},
    "speaks of 1 pictures and has 0": {"conversations": turns("<image> what?", "red")},
    "has 1 pictures inside its messages and 1 beside them": {
        "messages": asked({"type": "image", "image": "a.png"}, TEXT), "image": "a.png"},
    "its messages are a text that is not JSON": {"messages": "[{'role': 'user'}]"},
    "its turn 2 (assistant) is empty": {"conversations": turns("what?", " ")},
    "its turn 1 is of role 'narrator'": {"messages": [{"role": "narrator", "content": "what?"}]},
    "its turn 1 is no object": {"messages": ["what?"]},
    "its turn 1 has a part that is neither text nor image: type 'video'": {"messages": asked({"type": "video"}, TEXT)},
    "it has no messages": {"messages": []},
    "it has a question and no answer": {"question": "what?", "answer": None},
    "its question is empty": {"question": " ", "answer": "red"},
    "holds no text": {"text": ""},
    "its text holds the image token <|image_pad|>": {"question": "what is <|image_pad|>?", "answer": "a token"},
    "its picture is the path gone.png": {"question": "what?", "answer": "red", "image": "gone.png"},
    "its picture 2 is no picture that Pillow reads": {"question": "what?", "answer": "red", "images": ["a.png", "rows.jsonl"]},
}  # fmt: skip


@pytest.mark.parametrize("said", BAD)
def test_every_bad_row_is_told_at_once_by_its_number_and_nothing_is_built_of_it(tmp_path: Path, said: str):
    picture(tmp_path, "a.png")
    good = {"question": "what?", "answer": "red", "image": "a.png"}
    wanted = Calibration(dataset=str(write_lines(tmp_path / "rows.jsonl", [good, BAD[said], good, BAD[said]])), samples=4)
    for _ in range(2):  # the second time as it was kept
        (told,) = faults(wanted, ("<|image_pad|>",))
        assert str(told).startswith(f"calibration sample rows.jsonl: rows 2, 4: {said}")
    with pytest.raises(Refused, match=r"rows\.jsonl:[24]: "):
        list(read(wanted, ("<|image_pad|>",)))


def test_data_that_were_mended_are_looked_at_anew(tmp_path: Path):
    wanted = Calibration(dataset=str(write_lines(tmp_path / "rows.jsonl", [{"text": ""}])), samples=1)
    assert len(faults(wanted)) == 1
    write_lines(tmp_path / "rows.jsonl", [{"text": "more than nothing"}])
    assert faults(wanted) == []


def test_transparent_and_turned_pictures_are_what_a_model_sees(tmp_path: Path):
    Image.new("RGBA", (4, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 8), "red").save(tmp_path / "b.jpg", exif=exif)
    rows: list[dict[str, object]] = [{"question": "q", "answer": "a", "images": ["a.png", "b.jpg"]}]
    (sample,) = read(Calibration(dataset=str(write_lines(tmp_path / "rows.jsonl", rows)), samples=1))
    clear, turned = sample.images
    assert clear.getcolors() == [(32, (255, 255, 255))] and turned.size == (8, 4)
