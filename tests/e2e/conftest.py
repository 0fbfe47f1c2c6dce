"""One Run of every workload, made once for all that look at it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.record.folder import RunFolder
from tests.helpers.commands import FEW, harness, suite


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="session")
def run(results: Path) -> tuple[subprocess.CompletedProcess[str], RunFolder]:
    """All workloads on one engine start a variant: the first documents of each task, few trials of one load."""
    done = harness(*suite("vl_all", results / "run", *FEW), results=results)
    return done, RunFolder(results / "run")
