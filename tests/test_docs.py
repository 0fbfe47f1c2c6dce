"""What the documentation shows is what the kept Run holds, and every command it names exists."""

from __future__ import annotations

import re

import pytest

from harness.store import RunFolder
from reports import tables
from tests.conftest import ROOT
from tests.test_cli import VERBS

READMES = ("README.md", "README.zh-CN.md")


@pytest.mark.parametrize("name", ["demo_cpu", "demo_h200", "controls_h200"])
def test_the_kept_report_is_what_its_records_give(name):
    run = RunFolder.existing(ROOT / "results" / name)
    assert tables.markdown(run) == (run.path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", READMES)
def test_the_tables_shown_are_those_of_the_kept_run(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    shown = text.partition("<!-- tables of results/demo_cpu -->")[2].partition("<!-- end -->")[0]
    report = (ROOT / "results" / "demo_cpu" / "report.md").read_text(encoding="utf-8")
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) > 15
    assert [row for row in rows if row not in report.splitlines()] == []


@pytest.mark.parametrize("name", READMES)
def test_every_command_and_file_named_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+) ?", text, re.MULTILINE)) - {"run", "make", "python"} <= set(VERBS)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
