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
from harness.compare.gate import Verdict, judge
from harness.compare.stats import Interval
from harness.record.folder import RunFolder
from harness.suite.gate_policy import Policy
from harness.util.errors import Refused
from harness.workloads.imported import Place, import_files
from reports import ci, tables
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


# --- import

SAMPLE = {
    "doc_id": 0,
    "doc": {"id": "one"},
    "target": "red",
    "arguments": {
        "gen_args_0": {
            "arg_0": ['[{"role": "user", "content": "Which colour?"}]'],
            "arg_1": {"until": [], "max_gen_toks": 8},
            "arg_2": {"visual": ["b8362f8987e192949d8121a4a2f27510005771af62b2fd2b184c38b9f112f6e9"]},
        }
    },
    "resps": [["red"]],
    "filtered_resps": ["red"],
    "filter": "strip",
    "metrics": ["exact_match"],
    "exact_match": 1.0,
}
RESULTS = {
    "results": {"colours": {"alias": "colours", "exact_match,strip": 0.5, "exact_match_stderr,strip": "N/A"}},
    "configs": {"colours": {"task": "colours", "doc_to_text": "{{question}}"}},
    "n-shot": {"colours": 0},
    "n-samples": {"colours": {"original": 2, "effective": 2}},
    "config": {
        "model": "local-chat-completions",
        "model_args": {"model": "m", "base_url": "http://127.0.0.1:1/v1/chat/completions", "max_images": 1},
        "limit": None,
        "gen_kwargs": {},
    },
    "date": 1795694375.6,
    "lm_eval_version": "0.4.13",
    "transformers_version": "5.19.0",
    "model_source": "local-chat-completions",
    "total_evaluation_time_seconds": "10.4",
}
BENCH = {
    "date": "20260101-120000",
    "backend": "openai-chat",
    "model_id": "m",
    "num_prompts": 32,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 4,
    "duration": 3.0,
    "completed": 32,
    "failed": 0,
    "total_input_tokens": 1000,
    "total_output_tokens": 2048,
    "request_throughput": 10.6,
    "output_throughput": 680.0,
    "mean_ttft_ms": 80.0,
    "std_ttft_ms": 3.0,
    "mean_tpot_ms": 1.2,
    "mean_e2el_ms": 90.0,
    "p99_e2el_ms": 120.0,
}


def write(folder: Path, name: str, data) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("\n".join(map(json.dumps, data)) + "\n" if isinstance(data, list) else json.dumps(data))
    return path


def lm_eval_files(folder: Path, second: str) -> Path:
    two = SAMPLE | {"doc_id": 1, "doc": {"id": "two"}, "resps": [[second]], "filtered_resps": [second]}
    two |= {"exact_match": float(second == "red")}
    loose = [row | {"filter": "loose", "exact_match": 0.0} for row in (SAMPLE, two)]
    write(folder, "samples_colours_2026-01-01.jsonl", [SAMPLE, two, *loose])
    return write(folder, "results_2026-01-01.json", RESULTS)


def test_lm_evals_results_become_records_that_can_be_compared(tmp_path):
    run = RunFolder(tmp_path / "r")
    for variant, said in (("bf16", "red"), ("int4", "")):
        (made,) = import_files(run, [lm_eval_files(tmp_path / variant, said)], Place(variant))
        assert made.imported_from and made.status == "done"
    assert made.metrics["score"].value == 0.5 and made.metrics["unparsed"].value == 0.5
    assert made.metrics["cut_by_length"].reason == "lm-eval does not record it"
    found = compare_all(run)
    assert [(c.n, c.lost, c.candidate) for c in found.accuracy] == [(2, 1, "int4")]
    assert "| int4 | colours | 2 |" in tables.markdown(run) and "N/A (imported)" in tables.markdown(run)


def test_results_without_samples_are_inconclusive(tmp_path):
    run = RunFolder(tmp_path / "r")
    import_files(run, [lm_eval_files(tmp_path / "bf16", "red")], Place("bf16"))
    (made,) = import_files(run, [write(tmp_path / "int4", "results_2026-01-01.json", RESULTS)], Place("int4"))
    assert (made.metrics["score"].value, made.metrics["score"].stderr, made.samples) == (0.5, None, 0)
    assert [v.outcome for v in judge(run, Policy())] == ["inconclusive"]


@pytest.mark.parametrize(
    ("metric", "value", "better", "told"),
    [
        ("bypass", 999, None, "bypass, is no score of an answer"),
        ("anls", 84.0, True, "metric anls is 84; scores are shares from 0 to 1"),
        ("wer", 0.1, False, "wer, is better when lower"),
        ("bleu", 0.3, True, "bleu, is no score of an answer"),
    ],
)
@pytest.mark.parametrize("with_samples", [True, False])
def test_scores_that_are_no_shares_are_refused_by_name(tmp_path, metric, value, better, told, with_samples):
    results = RESULTS | {"results": {"colours": {"alias": "colours", f"{metric},none": value}}}
    results["higher_is_better"] = {"colours": {metric: better}}
    path = write(tmp_path / "f", "results_2026-01-01.json", results)
    if with_samples:
        write(tmp_path / "f", "samples_colours_2026-01-01.jsonl", [SAMPLE | {"metrics": [metric], metric: value}])
    with pytest.raises(Refused, match=told):
        import_files(RunFolder(tmp_path / "r"), [path], Place("v"))
    assert not (tmp_path / "r").exists()


def test_an_import_is_not_comparable_with_what_was_measured_here(tmp_path):
    run = run_of(tmp_path / "r", (record("a", "1", "colours"), arms(2, 0, 0)[0]))
    import_files(run, [lm_eval_files(tmp_path / "f", "red")], Place("b"))
    assert "device.name: CPU and unknown" in str(compare_all(run).faults[0])


def test_bench_results_become_trials(tmp_path):
    run = RunFolder(tmp_path / "r")
    for variant, speed in (("bf16", 680.0), ("int4", 1000.0)):
        paths = [
            write(tmp_path / variant, f"{i}.json", BENCH | {"output_throughput": speed + i, "date": f"20260101-12000{i}"})
            for i in range(3)
        ]
        made = import_files(run, paths, Place(variant, load="image128", device="CPU"))
        assert [r.cell.point["trial"] for r in made] == [1, 2, 3] and made[0].cell.workload == "throughput"
    again = import_files(run, paths[:1], Place("int4", load="image128", device="CPU"))
    assert again[0].cell.key == made[0].cell.key and len(run.read().cells) == 6
    faster = next(c for c in compare_all(run).speed if c.metric == "output_throughput")
    assert faster.verdict == "faster" and faster.candidate_n == 3 and faster.unit == "tokens/s"
    with pytest.raises(Refused, match="one result counts once"):
        import_files(run, paths[:1], Place("int4", load="other"))


def test_a_bench_whose_requests_failed_is_invalid(tmp_path):
    run = RunFolder(tmp_path / "r")
    path = write(tmp_path / "f", "b.json", BENCH | {"completed": 0, "failed": 32, "max_concurrency": 1})
    (made,) = import_files(run, [path], Place("v"))
    assert (made.status, made.cell.workload) == ("invalid", "latency")
    assert made.reason == "0 of 32 requests were answered, 32 failed"


def test_offline_benches(tmp_path):
    latency = {"avg_latency": 0.5, "latencies": [0.4, 0.6], "percentiles": {"99": 0.6}}
    throughput = {"elapsed_time": 33.0, "num_requests": 100, "total_num_tokens": 5000, "requests_per_second": 3.0}
    paths = [
        write(tmp_path / "f", n, d) for n, d in (("l.json", latency), ("t.json", throughput | {"tokens_per_second": 150.0}))
    ]
    one, two = import_files(RunFolder(tmp_path / "r"), paths, Place("v"))
    assert one.metrics["mean_e2el_ms"].value == 500 and one.metrics["p99_e2el_ms"].value == 600
    assert two.metrics["total_token_throughput"].value == 150


def test_imports_are_all_or_nothing(tmp_path):
    good = write(tmp_path / "f", "b.json", BENCH)
    bad = write(tmp_path / "f", "c.json", BENCH | {"completed": [1]} | {"request_rate": {}})
    broken = lm_eval_files(tmp_path / "g", "red")
    (tmp_path / "g" / "samples_colours_2026-01-01.jsonl").write_text('{"doc_id": 0}\n')
    for other, told in ((broken, "jsonl:1: is no sample of lm-eval"), (write(tmp_path / "f", "d.json", {"x": 1}), "neither")):
        with pytest.raises(Refused, match=told):
            import_files(RunFolder(tmp_path / "r"), [good, other], Place("v"))
        assert not (tmp_path / "r").exists()
    import_files(RunFolder(tmp_path / "odd"), [bad], Place("v"))  # odd figures are left out, the Cell is invalid
    assert next(RunFolder(tmp_path / "odd").records()).status == "invalid"


def test_a_variant_that_was_measured_here_is_not_overwritten(tmp_path):
    run = good_run(tmp_path / "r")
    with pytest.raises(Refused, match="was measured here"):
        import_files(run, [write(tmp_path / "f", "b.json", BENCH)], Place("b"))


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
