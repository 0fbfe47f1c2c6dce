"""The verbs that judge, as a user calls them: compare, gate, import; and the files that continuous integration reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from harness.cli import main
from harness.compare.everything import compare_all
from harness.compare.gate import Verdict
from harness.compare.stats import Interval
from harness.suite.gate_policy import Policy
from harness.util.errors import Refused
from reports import ci
from reports.formats import markdown
from reports.tables import gate
from tests.helpers.arms import arms, trials
from tests.helpers.records import ROOT, record, run_of


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def harness(capsys, monkeypatch):
    """The command in this process: what it printed and its exit status."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        status = main.main(arguments)
        return Done(status, *capsys.readouterr())

    return call


def good_run(path: Path, lost: int = 6, **fields):
    base, other = arms(900, lost, 6 if lost == 6 else 0)
    speed = [r for v, t in (("a", 100), ("b", 150)) for r in trials(v, [t, t * 1.01, t * 0.99])]
    return run_of(path, (record("a", "1"), base), (record("b", "2", **fields), other), *[(r, []) for r in speed])


# --- compare


def test_compare_within_a_run(harness, tmp_path):
    done = harness("compare", str(good_run(tmp_path / "r").path), "--markdown")
    assert done.returncode == 0
    assert "| b | t | 900 |" in done.stdout and "| b | a | throughput/image512-concurrency8 |" in done.stdout


@pytest.mark.parametrize(
    "fields",
    [
        {"engine": {"max_num_seqs": 8, "enforce_eager": True, "images_per_prompt": 4}},
        {"versions": {"vllm": "0.26.0", "torch": "2.13.0"}},
        {"measured": {"task": "t", "sampling": {"temperature": 1.0}, "apply_chat_template": False}},
        {"device": {"kind": "gpu", "name": "H200"}},
    ],
)
def test_compare_refuses_arms_that_differ_and_anyway_warns(harness, tmp_path, fields):
    run = good_run(tmp_path / "r", **fields)
    done = harness("compare", str(run.path))
    assert done.returncode == 2 and done.stdout == ""
    (name,) = fields
    assert "were not measured alike" in done.stderr and f"{name}." in done.stderr
    anyway = harness("compare", str(run.path), "--anyway")
    assert anyway.returncode == 0 and anyway.stdout.startswith("WARNING, not measured alike") and "900" in anyway.stdout


def test_two_runs_variant_by_variant_and_by_name(tmp_path):
    before, now = good_run(tmp_path / "before"), good_run(tmp_path / "now", lost=45)
    found = compare_all(now, before)
    assert [(c.baseline, c.candidate, c.lost) for c in found.accuracy] == [("a in before", "a", 0), ("b in before", "b", 39)]
    (one,) = compare_all(now, before, ("a", "b")).accuracy
    assert (one.baseline, one.candidate) == ("a in before", "b")
    with pytest.raises(Refused, match="there is no variant 'bb'; did you mean 'b'"):
        compare_all(now, None, ("a", "bb"))


def test_anyway_compares_speed_of_other_settings_as_well(tmp_path):
    before = good_run(tmp_path / "before")
    other = [r for r in trials("b", [300, 303, 297], identity={"device": {"kind": "gpu", "name": "H200"}})]
    now = run_of(tmp_path / "now", *[(r, []) for r in other])
    assert compare_all(now, before, ("b", "b")).speed == []
    found = compare_all(now, before, ("b", "b"), anyway=True)
    assert found.speed[0].speedup.value == pytest.approx(2) and "device.name: CPU and H200" in str(found.faults[0])


def test_a_run_with_one_variant_has_nothing_to_compare(harness, tmp_path):
    done = harness("compare", str(run_of(tmp_path / "r", (record("a", "1"), arms(9, 0, 0)[0])).path))
    assert done.returncode == 2 and "has no candidate beside its baseline" in done.stderr


# --- gate


@pytest.mark.parametrize(("lost", "status", "word"), [(6, 0, "pass"), (45, 1, "fail"), (15, 3, "inconclusive")])
def test_gate_prints_why_and_ends_with_its_status(harness, tmp_path, lost, status, word):
    done = harness("gate", str(good_run(tmp_path / "r", lost).path))
    assert done.returncode == status
    assert f"Gate: {word}" in done.stdout and f"gate: {word}" in done.stderr


def test_gate_writes_everything_that_ci_reads(harness, tmp_path):
    run = good_run(tmp_path / "r", 45)
    names = [str(tmp_path / name) for name in ("j.xml", "b.json", "p.json")]
    given = ["--junit", names[0], "--benchmark-json", names[1], "--pytest-benchmark-json", names[2], "--github"]
    done = harness("gate", str(run.path), *given)
    assert done.returncode == 1
    assert "::error title=fail%3A b against a%3A accuracy/t recovery::" in done.stdout
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    figures = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert figures["value"] == "0.95" and figures["verdict"] == "fail" and float(figures["low"]) < 0.95
    bigger = {one["name"]: one for one in json.loads((tmp_path / "b.json").read_text())}
    assert bigger["b: throughput/image512-concurrency8 output_throughput"]["value"] == pytest.approx(150)
    assert bigger["b: t recovery"]["unit"] == "%" and bigger["b: t recovery"]["value"] == pytest.approx(95)
    assert json.loads((tmp_path / "b.smaller.json").read_text()) == []
    assert len(json.loads((tmp_path / "p.json").read_text())["benchmarks"]) == 2


def test_pytest_benchmark_itself_compares_the_file(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(ci.pytest_benchmark(list(good_run(tmp_path / "r").records()))))
    done = subprocess.run(
        [Path(sys.executable).with_name("pytest-benchmark"), "compare", str(path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "b: throughput/image512-concurrency8 output_throughput" in done.stdout


def test_the_step_summary_is_appended(harness, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    harness("gate", str(good_run(tmp_path / "r").path), "--github")
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("before\n## s: pass") and "| b | a | accuracy/t recovery |" in text


def test_names_and_reasons_with_odd_characters_stay_valid():
    odd = Verdict(
        "accuracy", 'a<b>&"\x07', "x\ny", "t,u", "recovery", "fail", "50 %\nof :: it\x00", Interval(1, 0.9, 1.1), 0.98
    )
    root = ElementTree.fromstring(ci.junit("s&", [odd]).encode())
    assert root[0][0].get("name", "").startswith('a<b>&" against')
    (line,) = ci.github_lines([odd]).splitlines()
    assert line.isprintable()
    assert "%0A" in line and "%2C" in line and line.count("::") >= 2
    assert "| fail |" in markdown.table(gate.table([odd]))


def test_not_required_lines_are_skipped_in_junit():
    one = Verdict("accuracy", "b", "a", "t", "recovery", "inconclusive", "why", None, 0.98, required=False)
    suite = ElementTree.fromstring(ci.junit("s", [one]).encode())[0]
    assert (suite.get("skipped"), suite.get("errors")) == ("1", "0") and suite[0].find("skipped") is not None
    assert ci.github_lines([one]) == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gate", "results/none"), "is no Run"),
        (("gate", "results/demo_cpu", "--policy", "none.yaml"), "No such file or directory; name a policy file"),
        (("gate", "results/demo_cpu", "--baseline", "results/none"), "is no Run"),
        (("gate", "results/demo_cpu", "--junit", "/proc/x.xml"), "--junit /proc/x.xml: cannot be written"),
        (("compare", "results/demo_cpu", "--variants", "bf16", "nowhere"), "there is no variant 'nowhere'"),
        (("compare", "results/demo_cpu", "--variants", "bf16", "bf16"), "was to compare bf16 with itself"),
        (("compare", "results/demo_cpu", "--baseline", "results/demo_h200"), "and bf16 on 5 tasks, awq-int4-g128 in demo_h200"),
        (("import", "pyproject.toml", "--run", "x", "--variant", "v"), "is not JSON"),
        (("import", "results/demo_cpu/run.json", "--run", "x", "--variant", "v"), "is neither lm-eval's results"),
        (("import", "none.json", "--run", "x", "--variant", "v"), "No such file"),
        (("import", "none.json", "--run", "x", "--variant", "v/w"), "a name without a slash"),
    ],
)
def test_bad_input_is_one_line_and_status_2(harness, monkeypatch, arguments, told):
    monkeypatch.chdir(ROOT)
    done = harness(*arguments)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize("verb", ["report", "compare", "gate"])
def test_a_score_that_was_edited_by_hand_is_named_by_every_verb(tmp_path, harness, verb):
    run = good_run(tmp_path / "r")
    path = run.path / "records" / "2.json"
    content = json.loads(path.read_text())
    content["metrics"]["score"]["value"] = 1.0
    path.write_text(json.dumps(content))
    done = harness(verb, str(run.path))
    told = " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in told and "its score, 1, is not the mean of its samples" in told
    assert verb != "gate" or done.returncode == 3


# --- what the documentation and the action say


def test_the_documented_policy_is_one_and_the_examples_are_yaml():
    text = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    block = textwrap.dedent(text.partition("a file of its own for `--policy`:\n\n")[2].partition("\n\n- ")[0])
    policy = Policy.model_validate(yaml.safe_load(block)["gate"])
    assert policy.speed and policy.memory and policy.may_differ == ("versions",)
    workflow = yaml.safe_load((ROOT / "docs/ci/gate.yml").read_text())
    inputs = next(step["with"] for step in workflow["jobs"]["gate"]["steps"] if step.get("uses") == "./")
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert set(inputs) <= set(action["inputs"])


@pytest.mark.parametrize(("lost", "allow", "status"), [(6, "false", 0), (45, "true", 1), (15, "false", 3), (15, "true", 0)])
def test_the_action_gates_and_hands_on_the_status(tmp_path, lost, allow, status):
    (step,) = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    run = good_run(tmp_path / "r", lost)
    given = {"RUN": str(run.path), "BASELINE": "", "POLICY": "", "JUNIT": str(tmp_path / "j; x.xml"), "BENCHMARK": ""}
    given |= {"PYTHON": sys.executable, "ALLOW": allow, "GITHUB_OUTPUT": str(tmp_path / "output"), "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-e", "-c", step["run"]], env=given, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert (tmp_path / "output").read_text() == f"status={3 if lost == 15 else status}\n"
    assert (tmp_path / "j; x.xml").is_file()
