"""A first suite: every template is a suite, says what it needs, and is written once."""

from __future__ import annotations

import json

import pytest

from harness.cli import main
from harness.cli.first import TEMPLATES
from harness.suite.schema import load_suite

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.yaml"))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", NAMES)
def test_each_template_is_a_suite_with_comments(tmp_path, capsys, name):
    assert main.main(["init", "mine.yaml", "--template", name]) == 0
    assert "next: python -m harness plan mine.yaml" in capsys.readouterr().out
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith("# ") and main.main(["init", "--template", name]) == 0 and capsys.readouterr().out == text
    suite = load_suite(tmp_path / "mine.yaml")
    assert suite.baseline == "bf16" and len(suite.variants) == 2 and suite.gate is not None


def test_the_first_suite_can_be_planned_as_it_is(capsys):
    main.main(["init", "mine.yaml"])
    assert main.main(["plan", "mine.yaml"]) == 0
    assert "awq-int4" in capsys.readouterr().out


def test_own_questions_can_be_planned_once_the_file_is_there(tmp_path, capsys):
    main.main(["init", "mine.yaml", "--template", "questions"])
    assert main.main(["plan", "mine.yaml"]) == 2
    assert "mine.jsonl is no file" in capsys.readouterr().err
    rows = [{"question": "Two?", "choices": ["1", "2"], "answer": "2"}, {"question": "Three?", "answer": 3}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main.main(["plan", "mine.yaml"]) == 0


@pytest.mark.parametrize("name", ["hub", "checkpoint"])
def test_what_is_not_there_yet_is_named(capsys, name):
    main.main(["init", "mine.yaml", "--template", name])
    assert main.main(["plan", "mine.yaml"]) == 2
    assert "model" in capsys.readouterr().err


def test_what_is_there_is_not_written_over(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("mine")
    assert main.main(["init", "mine.yaml"]) == 2
    assert "is there already" in capsys.readouterr().err and (tmp_path / "mine.yaml").read_text() == "mine"
    assert main.main(["init", "a/new/folder/mine.yaml"]) == 0 and (tmp_path / "a/new/folder/mine.yaml").is_file()
