"""Whatever `run` refuses before an engine starts, `plan` refuses in the same words, all of it at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import demo
from harness.cli import main
from tests.helpers import shapes
from tests.helpers.chat_server import DATA, TASK, doc

Suite = dict[str, Any]


def base(folder: Path) -> Suite:
    return {
        "name": "s",
        "model": "demo",
        "variants": {"bf16": {}},
        "workloads": {"accuracy": {"tasks": ["mine"], "include_path": str(folder / "tasks")}},
        "engine": {"max_model_len": 512, "max_num_seqs": 4},
    }


def model(change: Callable[[Path], Any]) -> Callable[[Suite, Path], None]:
    """The suite's model is a copy of the demo's, changed."""

    def go(suite: Suite, folder: Path) -> None:
        shutil.copytree(demo.MODEL_DIR, folder / "model")
        change(folder / "model")
        suite["model"] = str(folder / "model")

    return go


def task(before: str, after: str) -> Callable[[Suite, Path], None]:
    return lambda _, folder: (
        (folder / "tasks" / "t.yaml").write_text((folder / "tasks" / "t.yaml").read_text().replace(before, after)) and None
    )


def rows(*lines: Any) -> Callable[[Suite, Path], None]:
    def go(suite: Suite, folder: Path) -> None:
        (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        suite["variants"]["int4"] = {"recipe": {}}
        suite["calibration"] = {"dataset": str(folder / "rows.jsonl"), "samples": 2}

    return go


def docs(*documents: Any) -> Callable[[Suite, Path], None]:
    return lambda _, folder: (folder / "tasks" / "data.py").write_text(DATA.format(docs=list(documents))) and None


REFUSED: dict[str, tuple[Callable[[Suite, Path], Any], str]] = {
    "an unknown key": (lambda s, _: s.update(pases=2), "pases"),
    "an unknown task": (
        lambda s, _: s["workloads"]["accuracy"].update(tasks=["minee"]),
        "unknown task 'minee'; did you mean",
    ),
    "no such model": (lambda s, _: s.update(model="no/model"), "there is no such folder"),
    "a model without a layer": (
        model(lambda f: shapes.edit_tensors(f, lambda t: [t.pop(n) for n in list(t) if ".layers.1." in n])),
        "that config.json asks for are missing",
    ),
    "a model without a template": (model(lambda f: (f / "chat_template.jinja").unlink()), "chat template: there is none"),
    "a checkpoint that is none": (lambda s, f: s["variants"].update(int4={"checkpoint": str(f / "tasks")}), "is no checkpoint"),
    "a group size that divides nothing": (lambda s, _: s["variants"].update(int4={"recipe": {"group_size": 96}}), "96"),
    "two variants that are one": (lambda s, _: s["variants"].update(again={}), "is the same checkpoint as bf16"),
    "calibration rows that are none": (rows({"text": ""}, {"question": "q", "answer": None}), "rows.jsonl: row"),
    "an answer longer than the model": (
        lambda s, _: s["workloads"]["accuracy"].update(max_tokens=600),
        "an answer may take 600",
    ),
    "a document with too many pictures": (docs(doc("many", ["red", "blue"])), "document many: shows 2 images"),
    "a document too small": (docs(doc("small", size=(8, 8))), "document small: an image is 8x8"),
    "ids that repeat": (docs(doc("1"), doc("1")), "another document has the same id"),
    "a sampling task": (task("max_gen_toks: 8", "temperature: 1.0, do_sample: true"), "ask for sampling"),
    "a metric that is better when lower": (
        task("{metric: exact_match}", "{metric: exact_match, aggregation: mean, higher_is_better: false}"),
        "is better when lower",
    ),
    "few-shot pictures": (lambda s, _: s["workloads"]["accuracy"].update(num_fewshot=2), "accuracy.num_fewshot"),
    "an argument of ours": (lambda s, _: s["engine"].update(extra_args=["--port=1"]), "engine.extra_args"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_run_refuses_nothing_that_plan_does_not(tmp_path, monkeypatch, capsys, name):
    change, told = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.yaml").write_text(TASK.format(name="mine"))
    (tmp_path / "tasks" / "data.py").write_text(DATA.format(docs=[doc("1"), doc("2")]))
    suite = base(tmp_path)
    change(suite, tmp_path)
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    lines = {}
    for verb in ("plan", "run"):
        capsys.readouterr()
        status = main.main([verb, "suite.yaml", "--checkpoints", "checkpoints"])
        said = capsys.readouterr()
        assert status == 2, (verb, said)
        lines[verb] = [line for line in (said.out + said.err).splitlines() if line.startswith("refused: ")]
    assert lines["plan"] == lines["run"] and any(told in line for line in lines["plan"]), lines
    assert not (tmp_path / "results").exists() and not (tmp_path / "checkpoints").exists()


def test_what_is_wrong_with_variants_hides_nothing_that_is_wrong_with_documents(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.yaml").write_text(TASK.format(name="mine"))
    (tmp_path / "tasks" / "data.py").write_text(DATA.format(docs=[doc("small", size=(8, 8))]))
    suite = base(tmp_path)
    rows({"text": ""})(suite, tmp_path)
    suite["variants"]["again"] = {}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    assert main.main(["plan", "suite.yaml"]) == 2
    said = capsys.readouterr()
    for told in ("row 1: holds no text", "is the same checkpoint as bf16", "document small: an image is 8x8"):
        assert told in said.out + said.err
