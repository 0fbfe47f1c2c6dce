"""The main job for real: llm-compressor builds, vLLM serves, lm-eval asks, on the model that ships. Slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kills import answers, campaign
from harness.compare.tokens import compare_divergence
from harness.record.folder import RunFolder
from harness.record.samples import TokenScores
from tests.helpers.commands import FEW, LIMIT, command, engines, everything_gone, harness, suite, wait_for
from tests.helpers.processes import alive
from tests.helpers.records import ROOT

pytestmark = pytest.mark.e2e


def test_the_run_ends_well_and_leaves_nothing_running(run):
    done, _ = run
    assert done.returncode == 0, done.stderr
    assert "quantizing" in done.stderr and "vLLM serves awq-int4-g128" in done.stderr
    assert engines() == []


def test_both_arms_were_asked_the_same_and_answered_well(run):
    _, folder = run
    assert [(r.status, r.reason) for r in folder.records()] == [("done", None)] * 20
    records = [r for r in folder.records() if r.cell.workload == "accuracy"]
    assert {r.samples for r in records} == {LIMIT}
    for record in records:
        assert record.metrics["score"].value > 0.6
        assert record.metrics["cut_by_length"].value < 0.05
    base, packed = (
        {s.doc_id: s for r in records if r.cell.variant == v for s in folder.samples(r.cell.key)}
        for v in ("bf16", "awq-int4-g128")
    )
    assert base.keys() == packed.keys() and len(base) == 5 * LIMIT
    assert all(base[k].image_hash == packed[k].image_hash for k in base)
    assert len({s.image_hash for s in base.values()}) == 5 * LIMIT


def test_one_engine_start_a_variant_served_every_workload(run):
    done, folder = run
    assert done.stderr.count("vLLM serves bf16 after") == done.stderr.count("vLLM serves awq-int4-g128 after") == 1
    kinds = {(r.cell.variant, r.cell.workload): r.provenance.engine["start_s"] for r in folder.records()}
    assert len(kinds) == 2 * 5 and len(set(kinds.values())) == 2


def test_load_keeps_vllms_keys_and_says_whose_clock_each_figure_has(run):
    _, folder = run
    loads = [r for r in folder.records() if r.cell.workload in ("latency", "throughput")]
    assert len(loads) == 6
    for record in loads:
        metrics, at_once = record.metrics, record.cell.point["concurrency"]
        for name in ("output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "p50_e2el_ms", "request_throughput"):
            assert metrics[name].value > 0 and metrics[name].source in ("client", "server"), name
        assert metrics["mean_e2el_ms"].n == (6 if at_once == 1 else 64 if record.cell.workload == "throughput" else 16) or (
            metrics["mean_e2el_ms"].n >= 2 * at_once
        )
        assert metrics["p99_e2el_ms"].value is None and "too few" in metrics["p99_e2el_ms"].reason
        assert metrics["server_tpot_ms"].source == "server" and metrics["input_ms"].source == "computed"
        assert metrics["image_preprocess_ms"].source == "microbenchmark" and metrics["image_preprocess_ms"].value > 0
        assert 0 < metrics["share_of_bandwidth_limit"].value < 1.5
        # Nothing is N/A without a reason.
        assert all(m.value is not None or m.reason for m in metrics.values())
        assert record.facts["rates"]["bytes_per_s"] > 1e9


def test_memory_is_four_numbers_and_int4_takes_less_for_weights(run):
    _, folder = run
    base, packed = (r for r in folder.records() if r.cell.workload == "memory")
    for record in (base, packed):
        names = ("weights_gib", "kv_cache_gib", "kv_cache_tokens", "graphs_gib", "activations_gib", "device_peak_gib")
        assert all(record.metrics[n].value is not None or record.metrics[n].reason for n in names)
        assert record.metrics["kv_cache_tokens"].value > 0 and record.metrics["pss_peak_gib"].value > 0.1
    assert packed.provenance.engine["kernel"].endswith("LinearKernel") and base.provenance.engine["kernel"] is None


def test_token_probabilities_tell_int4_from_bf16(run):
    """Both arms judged the same tokens, the baseline's own answers, and INT4 is near BF16 but is not BF16."""
    _, folder = run
    (found,), faults = compare_divergence(folder, "bf16")
    assert faults == [] and found.questions == 200 and found.tokens > 800
    mean = found.mean
    assert 0 < mean.low < mean.value < mean.high < 0.05 and mean.value < found.p99 and 0.97 < found.top1_agree <= 1
    base = next(r for r in folder.records() if (r.cell.variant, r.cell.workload) == ("bf16", "divergence"))
    # Greedy decoding picked these tokens, so the baseline finds nearly each of them likeliest.
    rows = list(folder.rows(base.cell.key, TokenScores))
    assert sum(row.tokens == row.best for row in rows) > 0.95 * len(rows)
    said = {
        (r.cell.point["task"], s.doc_id): s
        for r in folder.records()
        if r.cell.workload == "accuracy" and r.cell.variant == "bf16"
        for s in folder.samples(r.cell.key)
    }
    # The tokens are the answer's, all of them: one less than was generated, which is the end token.
    assert all(len(row.tokens) == said[row.task, row.doc_id].completion_tokens - 1 for row in rows)


def test_the_gate_judges_the_run(run, tmp_path):
    _, folder = run
    done = subprocess.run(
        [sys.executable, "-m", "harness", "gate", str(folder.path), "--junit", str(tmp_path / "j.xml")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    # So few questions rarely show that nothing more than 2 % was lost.
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert done.stdout.startswith("Gate: ") and "accuracy/all recovery" in (tmp_path / "j.xml").read_text()


def test_the_tables_show_what_was_lost_and_won(run):
    done, folder = run
    report = (folder.path / "report.md").read_text()
    titles = ("Accuracy against the baseline", "Scores", "Speed-up at a glance", "Latency and throughput", "Memory")
    for title in (*titles, "Limits of a decode step", "Storage", "Structure (Linear layers)", "Engine"):
        assert title in done.stdout and f"### {title}" in report
    assert f"| awq-int4-g128 | all | {5 * LIMIT} |" in report
    assert "LinearKernel" in report and "28 / 0" in report and "59." in report


def test_the_checkpoint_is_sound_and_says_how_it_was_made(run, results):
    (checkpoint,) = (results / "checkpoints").glob("awq-int4-g128-*")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["calibration"]["images"] == 128
    done = subprocess.run(
        [sys.executable, "-m", "harness", "verify", str(checkpoint), "--source", "harness/demo/model"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0 and "no faults" in done.stdout, done.stdout


def test_a_rerun_starts_nothing_and_prints_the_same(run, results):
    first, folder = run
    before = {p: p.stat().st_mtime_ns for p in (folder.path / "records").iterdir()}
    again = harness(*suite("vl_all", folder.path, *FEW), results=results, timeout=60)
    assert again.returncode == 0 and again.stdout == first.stdout
    assert "starting vLLM" not in again.stderr and "quantizing" not in again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (folder.path / "records").iterdir()}


def test_infer_reads_a_picture(run, results, tmp_path):
    from harness.demo.data import make_question

    question, _ = next(made for i in range(3, 500, 5) if (made := make_question("test", 0, i))[0].language == "en")
    question.image.save(tmp_path / "q.png")
    (packed,) = (results / "checkpoints").glob("awq-int4-g128-*")
    asked = ["infer", str(packed), "--image", str(tmp_path / "q.png"), "--prompt", question.question]
    done = subprocess.run([sys.executable, "-m", "harness", *asked], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0].isdigit() and "dot" in done.stdout
    assert engines() == []


def start(results: Path, output: Path, *overrides: str, only: str = "bf16/*") -> tuple[subprocess.Popen[bytes], Path]:
    log = output.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command(*suite("vl_accuracy", output, *overrides), "--only", only, results=results),
            stdout=stream,
            stderr=stream,
            cwd=ROOT,
            start_new_session=True,
        )
    return process, log


def test_six_kills_lose_no_record_and_leave_nothing_behind(run, results):
    """The Run that is killed is the accuracy of one arm of the Run that was not."""
    _, calm = run
    wanted = {key: said for key, said in answers(calm).items() if calm.record(key).cell.variant == "bf16"}
    output = results / "killed"
    asked = command(*suite("vl_all", output, *FEW), "--only", "bf16/accuracy/*", results=results)
    told = campaign(asked, output, wanted, kills=6, span_s=28)
    assert sum(told["kills"].values()) == 6 and told["last_status"] == 0
    assert (told["records_lost"], told["records_doubled"], told["documents_differ"]) == (0, 0, 0)
    # Greedy answers may hang on how requests fell into batches; that is rare.
    assert told["answers_differ"] <= 0.02 * told["answers"]
    assert (told["processes_left"], told["folders_left"]) == (0, 0) and engines() == []


def test_an_engine_that_dies_costs_its_cells_and_ctrl_c_ends_clean(run, results):
    output = results / "dying"
    process, log = start(results, output)
    wait_for(log, "measuring bf16/accuracy/demo_vl_digits", process)
    for pid in engines():
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    text = log.read_text()
    assert "the engine died" in text and "Traceback" not in text
    assert everything_gone()
    process, log = start(results, output)
    wait_for(log, "starting vLLM on bf16: ", process)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "the same command goes on from there" in log.read_text() and "Traceback" not in log.read_text()
    assert everything_gone()


def test_the_controls_come_out_as_what_they_are(run, results):
    """Damage must show as a loss, and the same checkpoint asked once more as nothing. The baseline is taken over."""
    _, earlier = run
    taken = f"variants.bf16={{run: {earlier.path}}}"
    done = harness(*suite("controls", results / "controls", taken), results=results)
    assert done.returncode == 0, done.stderr
    assert "vLLM serves bf16 " not in done.stderr and "bf16 was measured in another Run" in done.stdout.replace("\n", " ")
    rows = [
        line.split(" | ")
        for line in (results / "controls" / "report.md").read_text().splitlines()
        if line.startswith("| bf16-") and " | all | " in line
    ]
    verdicts = {row[0].strip("| "): row[-1].strip(" |") for row in rows}
    assert verdicts == {"bf16-again": "none shown", "bf16-damaged": "loss"}
    found = {d.candidate: d for d in compare_divergence(RunFolder(results / "controls"), "bf16")[0]}
    assert found["bf16-again"].noise and found["bf16-again"].mean.high < 0.001
    assert found["bf16-damaged"].mean.value > 10 * max(found["bf16-again"].mean.high, 0.001)
