"""Timings, with pytest-benchmark: skipped in a plain run, shown by `pytest --benchmark-only`. They assert no time."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from harness import compare, pairing, stats
from harness.compare import Arms
from tests.conftest import ROOT
from tests.runs import big_run


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
        return compare.compare_pairs("task0", Arms("bf16", "int4-1"), pairing.paired(*cells, "task0")).n

    assert benchmark(compared) == 5_000
