"""Timings, with pytest-benchmark: skipped in a plain run, shown by `pytest --benchmark-only`. They assert no time."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from harness.compare import answers, pairing, stats
from harness.compare.arms import Arms
from harness.plan.plan import Plan, make_plan
from harness.record.folder import RunFolder
from harness.run.execute import run_facts, run_suite
from harness.suite.schema import Suite
from harness.util import environments
from harness.util.progress import Reporter
from tests.helpers.records import ROOT, keep, record, sample
from tests.helpers.runs import big_run


def test_bootstrap_of_10_000_pairs(benchmark):
    rng = np.random.default_rng(0)
    before = (rng.random(10_000) < 0.9).astype(float)
    after = np.where(rng.random(10_000) < 0.02, 1 - before, before)
    difference, _ = benchmark(stats.paired_bootstrap, before, after, resamples=10_000)
    assert difference.low < difference.high


def test_bootstrap_of_10_000_pairs_in_clusters(benchmark):
    rng = np.random.default_rng(0)
    before = (rng.random(10_000) < 0.9).astype(float)
    after = np.where(rng.random(10_000) < 0.02, 1 - before, before)
    clusters = rng.integers(0, 3000, 10_000).tolist()
    difference, _ = benchmark(stats.paired_bootstrap, before, after, clusters=clusters, resamples=10_000)
    assert difference.low < difference.high


def test_divergence_of_1_500_tokens(benchmark):
    rng = np.random.default_rng(0)
    arms = [[dict(enumerate(np.log(rng.dirichlet(np.ones(6))).tolist())) for _ in range(1500)] for _ in range(2)]
    assert benchmark(lambda: sum(map(stats.divergence, *arms))) > 0


def test_help(benchmark):
    def run() -> int:
        return subprocess.run([sys.executable, "-m", "harness", "--help"], cwd=ROOT, capture_output=True).returncode

    assert benchmark(run) == 0


@pytest.fixture(scope="module")
def thousand_cells(tmp_path_factory):
    """1,000 Cells of 5,000 samples."""
    return big_run(tmp_path_factory.mktemp("big") / "r", variants=50, tasks=20, samples=5_000).path


@pytest.mark.parametrize("which", ["first", "second"])
def test_report_of_1_000_cells_of_5_000_samples(benchmark, thousand_cells, tmp_path, monkeypatch, which):
    """As a command. The first report compares 5 million samples, the second finds the comparisons kept."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "harness", "report", str(thousand_cells), "--html", str(tmp_path / "page.html")]

    def report() -> None:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    if which == "second":
        report()
    setup = (lambda: shutil.rmtree(tmp_path / "cache", ignore_errors=True)) if which == "first" else None
    benchmark.pedantic(report, setup=setup, rounds=3)
    assert "int4-49" in (tmp_path / "page.html").read_text(encoding="utf-8")
    # Of the processes that have ended: the largest of all of them, in kB.
    benchmark.extra_info["peak_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def test_comparison_of_5_000_samples(benchmark, tmp_path):
    """One Cell against its baseline, from its files."""
    run = big_run(tmp_path / "r", variants=2, tasks=1, samples=5_000)
    cells = [(run, record.cell.key) for record in run.records()]

    def compared() -> int:
        return answers.compare_pairs("task0", Arms("bf16", "int4-1"), pairing.paired(*cells, "task0")).n

    assert benchmark(compared) == 5_000


def many_cells(source: Path, variants: int, trials: int) -> Suite:
    """variants x 4 loads x trials Cells."""
    load = {"loads": {"text": {"images": 0, "input_len": 8, "output_len": 8}}, "concurrency": [1, 2, 4, 8], "trials": trials}
    named = {"bf16": {}} | {f"again-{i}": {"repeat": i} for i in range(1, variants)}
    return Suite.model_validate({"name": "s", "model": str(source), "variants": named, "workloads": {"latency": load}})


def measured(folder: RunFolder, plan: Plan, rows: int = 0) -> RunFolder:
    """A Record for each Cell of a plan."""
    made = record("a", "k")
    for cell in plan.cells:
        provenance = made.provenance.model_copy(update={"identity": cell.identity})
        one = made.model_copy(update={"cell": cell.id, "provenance": provenance})
        keep(folder, one, [sample(str(i), 1.0) for i in range(rows)])
    return folder


def test_plan_of_1_000_cells(benchmark, checkpoint, tmp_path):
    """As in a fresh process, which has not looked for the installed versions yet; the checkpoint is hashed already."""
    suite = many_cells(checkpoint, 10, 25)
    make_plan(suite, tmp_path)

    def plan() -> list[str]:
        environments._installed.cache_clear()
        return [cell.id.key for cell in make_plan(suite, tmp_path).cells]

    assert len(set(benchmark(plan))) == 1000


def test_resume_of_1_000_cells_with_nothing_to_do(benchmark, checkpoint, tmp_path):
    suite = many_cells(checkpoint, 10, 25)
    measured(RunFolder(tmp_path / "run"), make_plan(suite, tmp_path), rows=20)

    def resume() -> list[str]:
        return run_suite(suite, RunFolder(tmp_path / "run"), tmp_path, Reporter())[1]

    assert benchmark.pedantic(resume, rounds=3) == []


def test_listing_10_000_cells(benchmark, checkpoint, tmp_path):
    plan = make_plan(many_cells(checkpoint, 100, 25), tmp_path)
    measured(RunFolder(tmp_path / "run"), plan).write(run_facts(plan, {}))
    del plan
    tracemalloc.start()
    assert benchmark.pedantic(lambda: sum(1 for _ in RunFolder(tmp_path / "run").records()), rounds=1) == 10_000
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()
