"""Chinese is complete for what the project itself says, and never touches a name."""

from __future__ import annotations

import re

from harness.record.folder import RunFolder
from reports import tables
from reports.languages import NAMES, Words
from reports.page import html
from reports.plots import plots
from reports.run_data import RunData
from tests.helpers.records import ROOT
from tests.helpers.runs import full_run

CHINESE = re.compile("[\u4e00-\u9fff]")
SAME = {"GiB", "n"}
"""What is the same in both languages."""


def said(source: RunData):
    """Every title, column, note and caption of a Run's tables and plots."""
    drawn = list(plots(source))
    for table in [*tables.of(source), *(plot.table() for plot in drawn), html.provenance(source)]:
        yield from [table.title, *table.columns, *table.notes]
    for plot in drawn:
        yield from (plot.title, plot.caption)


def test_nothing_that_is_said_stays_english(tmp_path):
    words = Words("zh")
    runs = [full_run(tmp_path / "r"), *(RunFolder(ROOT / "results" / n) for n in ("demo_cpu", "controls_h200"))]
    texts = {text for run in runs for text in said(RunData.of(run))}
    template = (ROOT / "reports/page/page.html").read_text(encoding="utf-8")
    texts |= {a or b for a, b in re.findall(r"""\bt\((?:"([^"%]+)"|'([^']+)')\)""", template)}
    untold = {text for text in texts if not CHINESE.search(words.say(text))}
    assert {text for text in untold if text not in SAME and not re.fullmatch(r"\S+ %", text)} == set()


def test_names_stay_names(tmp_path):
    table = next(t for t in tables.tables(full_run(tmp_path / "r", tasks=("loss", "none"))) if t.title.startswith("Accuracy"))
    assert {"task", "variant"} <= NAMES
    translated = Words("zh").table(table)
    assert translated.frame["任务"].tolist() == table.frame["task"].tolist()
    assert set(translated.frame["结论"]) <= {"未显示差异", "有损失"}


def test_what_is_filled_in_is_no_pattern():
    words = Words("zh")
    assert words.say("Not measured in this Run: J/token, verdict.") == "这次运行没有测量:焦/token、结论。"
    assert "{0}{x}" in words.say("N/A for {0}{x}: seconds, it's late.")
    assert words.say("something else") == "something else" and Words().say("Summary") == "Summary"
