"""What the documentation shows is what the kept Run holds, and every command it names exists."""

from __future__ import annotations

import json
import re

import pytest

from harness.record.folder import RunFolder
from harness.util.errors import Refused
from reports import readme, schemes, tables
from reports.formats import markdown
from tests.helpers.records import ROOT
from tests.helpers.verbs import VERBS

READMES = ("README.md", "README.zh-CN.md")
KEPT = (
    "demo_cpu",
    "demo_schemes_cpu",
    "demo_h200",
    "controls_h200",
    "qwen3_vl_8b_h100",
    "qwen3_vl_8b_decode_h100",
    "qwen3_vl_8b_graphs_h100",
    "qwen3_vl_8b_kernels_h100",
    "qwen3_vl_8b_two_h100",
)


@pytest.mark.parametrize("name", KEPT)
def test_the_kept_report_is_what_its_records_give(name):
    run = RunFolder.existing(ROOT / "results" / name)
    assert tables.markdown(run) == (run.path / "report.md").read_text(encoding="utf-8")


def test_the_table_of_kernels_is_made_from_the_rules():
    _, _, rows = markdown.table(schemes.table()).partition("\n\n")
    assert rows.strip() in (ROOT / "docs/schemes.md").read_text(encoding="utf-8"), "run `python -m reports.schemes`"


def test_the_demos_accuracy_on_a_gpu_is_that_of_a_cpu_within_noise():
    """Two kernels of vLLM against each other, Machete and the CPU's, on the kept Runs of the trained model."""
    scores: dict[str, dict[str, tuple[float, int]]] = {}
    kernels = set()
    for name in ("demo_cpu", "demo_h200"):
        for record in RunFolder.existing(ROOT / "results" / name).records():
            if record.cell.workload == "accuracy":
                score, known = record.metrics["score"], scores.setdefault(record.cell.variant, {}).get(name, (0.0, 0))
                scores[record.cell.variant][name] = known[0] + score.value * score.n, known[1] + score.n
                kernels.add(record.provenance.engine["kernel"])
    assert kernels == {None, "CPUWNA16LinearKernel", "MacheteLinearKernel"}
    for variant, both in scores.items():
        (cpu, n), (gpu, m) = both.values()
        assert n == m == 3000
        share = (cpu + gpu) / (n + m)
        assert abs(cpu / n - gpu / m) < 2 * (2 * share * (1 - share) / n) ** 0.5, variant


@pytest.mark.parametrize("name", readme.DOCUMENTS)
def test_the_tables_shown_are_those_of_the_kept_run(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert readme.rendered(text, ROOT, readme.DOCUMENTS[name]) == text, "run `python -m reports.readme`"
    assert text.count("<!-- tables of ") == text.count("<!-- end -->") > 0


def test_a_run_or_a_table_that_is_not_there_is_refused(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    for name in readme.DOCUMENTS:
        (tmp_path / name).write_text("<!-- tables of results/none: Summary -->\n<!-- end -->\n", encoding="utf-8")
    assert readme.main([str(tmp_path)]) == 2 and "is no Run" in capsys.readouterr().err
    with pytest.raises(Refused, match="has no table 'Sumary'"):
        readme.rendered("<!-- tables of results/demo_cpu: Sumary -->\n<!-- end -->", ROOT, "en")


@pytest.mark.parametrize("name", READMES)
def test_every_command_and_file_named_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+) ?", text, re.MULTILINE)) - {"run", "make", "python"} <= set(VERBS)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_the_lines_of_what_can_be_added_are_counted():
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    examples = re.findall(r"\| `((?:harness|quantize|reports)/[\w/.]+)` \| (\d+) \|", text)
    assert len(examples) >= 8
    counted = {path: str(len((ROOT / path).read_text(encoding="utf-8").splitlines())) for path, _ in examples}
    assert dict(examples) == counted


def test_the_simulated_verdicts_shown_are_those_of_the_file():
    from benchmarks.verdicts import summary

    found = json.loads((ROOT / "benchmarks" / "verdicts.json").read_text(encoding="utf-8"))
    text = " ".join((ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8").split())
    assert all(part in text for part in summary(found).split("; "))
    assert min(row["coverage"] for row in found["coverage"]) >= 0.93


def test_the_families_shown_are_those_of_the_file():
    from benchmarks.families import table

    found = json.loads((ROOT / "benchmarks" / "families.json").read_text(encoding="utf-8"))
    shown = markdown.table(table(found)).split("\n", 2)[2].strip()
    assert shown in (ROOT / "docs" / "families.md").read_text(encoding="utf-8")


def test_the_early_verdicts_shown_are_those_of_the_file():
    rows = json.loads((ROOT / "benchmarks" / "verdicts.json").read_text(encoding="utf-8"))["early"]
    text = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    assert all(f"| {r['questions']:,} | {r['recovery']:.2f} | {r['asked']:,.0f} | {r['90th']:,.0f} |" in text for r in rows)
