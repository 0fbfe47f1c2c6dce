"""Timings, with pytest-benchmark: skipped in a plain run, shown by `pytest --benchmark-only`. They assert no time."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from harness import stats
from tests.conftest import ROOT


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
