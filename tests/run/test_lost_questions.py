"""The questions that were lost are kept with their pictures, if they are the ones that were asked."""

from __future__ import annotations

import pytest
from PIL import Image

from harness.compare.lost import lost_documents
from harness.compare.runs import compare_run
from harness.record.folder import RunFolder
from harness.run import lost_questions
from harness.workloads.accuracy import pixels_hash
from harness.workloads.lm_eval import questions as loaded
from harness.workloads.lm_eval.documents import Documents
from tests.helpers.records import keep, record, sample
from tests.helpers.runs import write


class Task:
    """An lm-eval task as far as exhibits look at it."""

    MULTIMODAL = True

    def __init__(self, pictures):
        self.eval_docs = [{"id": f"d{i}", "picture": picture} for i, picture in enumerate(pictures)]

    def doc_to_image(self, doc):
        return [doc["picture"]]

    def doc_to_text(self, doc):
        return f"what is {doc['id']}?"

    def doc_to_target(self, doc):
        return "right"


@pytest.fixture
def pictures():
    return [Image.effect_noise((900, 700), 90).convert("RGB"), *(Image.new("RGB", (40, 40), (i, 0, 0)) for i in range(4))]


@pytest.fixture
def run(tmp_path, pictures):
    run = RunFolder(tmp_path / "r")
    for name, wrong in (("a", ()), ("b", (0, 1, 2))):
        asked = [sample(f"d{i}", float(i not in wrong), image_hash=pixels_hash([p])) for i, p in enumerate(pictures)]
        keep(run, record(name, name, checkpoint=name), asked)
    return write(run, {"a": {}, "b": {}}, ["a", "b"], baseline="a", workloads={"accuracy": {"tasks": ["t"], "later": 1}})


def load(monkeypatch, pictures):
    asked = []

    def stand_in(name, spec):
        asked.append(name)
        task = Task(pictures)
        return loaded.Questions(task, Documents(task.eval_docs))

    monkeypatch.setattr(loaded, "load", stand_in)
    return asked


def test_text_and_pictures_are_kept_once(run, pictures, monkeypatch):
    asked = load(monkeypatch, pictures)
    assert lost_questions.keep(run) == 3 and lost_questions.keep(run) == 0 and asked == ["t"]
    kept = run.questions()
    assert kept["t", "d1"].text == "what is d1?" and not kept["t", "d1"].reduced
    with Image.open(run.image_path(kept["t", "d1"].images[0])) as picture:
        assert picture.format == "PNG" and picture.tobytes() == pictures[1].tobytes()
    with Image.open(run.image_path(kept["t", "d0"].images[0])) as picture:
        assert picture.format == "JPEG" and max(picture.size) == lost_questions.SIDE and kept["t", "d0"].reduced


def test_another_picture_is_not_shown_in_its_place(run, pictures, monkeypatch):
    asked = load(monkeypatch, [pictures[0], pictures[4]])
    assert lost_questions.keep(run) == 3 and lost_questions.keep(run) == 0 and asked == ["t"]
    kept = run.questions()
    assert [kept["t", f"d{i}"].reason for i in range(3)] == [None, lost_questions.OTHER, lost_questions.OTHER]
    assert kept["t", "d1"].text is None and kept["t", "d1"].images == []


def test_a_task_that_cannot_be_loaded_is_told(run, monkeypatch):
    told: list[str] = []

    def broken(name, spec):
        raise ConnectionError("the data set is not on this disk\nmore")

    monkeypatch.setattr(loaded, "load", broken)
    assert lost_questions.keep(run, told.append) == 0
    assert told == ["the questions of t are not kept: ConnectionError: the data set is not on this disk"]
    assert not (run.path / "questions.jsonl").exists()


def test_lost_documents_are_dealt_over_the_tasks(tmp_path):
    run, keys = RunFolder(tmp_path / "r"), []
    for name, wrong in (("a", 0), ("b", 9), ("c", 5)):
        for task in ("s", "t"):
            asked = [sample(f"{task}{i}", float(i >= wrong)) for i in range(20)]
            keys.append(keep(run, record(name, name + task, task, checkpoint=name), asked).cell.key)
    found, _ = compare_run(write(run, {"a": {}, "b": {}, "c": {}}, keys, baseline="a"), "a")
    few = lost_documents(found, 4)
    assert [d.doc_id for d in few] == ["s0", "s1", "t0", "t1"] and all(list(d.answers) == ["b", "c"] for d in few)
    assert len(lost_documents(found, 100)) == 18
