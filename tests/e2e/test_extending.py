"""The promise of the rooms: a newcomer's workload, or method, is one new file and one line, and everything knows it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.util import environments
from tests.helpers.hub_server import HubServer, serving
from tests.helpers.published import KEY, REPO, TOKEN, environment
from tests.helpers.records import ROOT

pytestmark = pytest.mark.e2e

WORKLOAD = '''
"""How fast the server counts the tokens of a text."""

import json
import time
import urllib.request

from pydantic import Field

from harness.record.records import Metric
from harness.util.strict import Strict
from harness.workloads.base import Context, Measurement, Workload


class TokenizeSpec(Strict):
    """The toy's section of a suite."""

    texts: int = Field(default=20, gt=0)
    trials: int = Field(default=2, gt=0)


class Tokenize(Workload):
    """Texts tokenized a second."""

    name = "tokenize"
    Spec = TokenizeSpec
    timed = True
    better = {"texts_per_second": 1}
    leads = {"texts_per_second": "texts/s"}

    def points(self, spec):
        return [{"texts": spec.texts, "trial": trial + 1} for trial in range(spec.trials)]

    def identity(self, spec, point):
        return {"texts": spec.texts, "trial": point["trial"]}

    def measure(self, cell: Context) -> Measurement:
        begun = time.monotonic()
        for number in range(cell.spec.texts):
            body = json.dumps({"model": cell.engine.name, "prompt": f"text {number}"}).encode()
            asked = urllib.request.Request(f"{cell.engine.url}/tokenize", body, {"Content-Type": "application/json"})
            assert json.load(urllib.request.urlopen(asked, timeout=60))["count"] > 0
            cell.progress(number + 1, cell.spec.texts, "tokenize")
        rate = cell.spec.texts / (time.monotonic() - begun)
        return Measurement({"texts_per_second": Metric(value=rate, unit="texts/s", n=cell.spec.texts)})
'''
SUITE = """
name: toy
model: demo
variants:
  bf16: {}
  other: {checkpoint: %s}
workloads:
  tokenize: {texts: 8, trials: 2}
gate:
  speed: {metrics: [texts_per_second], min_speedup: 0.01}
"""
GRID = """
name: m
model: demo
variants:
  bf16: {}
  near: {recipe: {method: nearest, group_size: 64}}
workloads:
  tokenize: {}
"""
METHOD = '''
"""Rounding alone, under another name."""

from typing import Literal

from quantize.methods.base import Rounding


class Nearest(Rounding):
    """Rounding alone, under another name."""

    tag = "nearest"

    method: Literal["nearest"] = "nearest"

    def build(self, bench, folder):
        return self.rounded(bench, folder)

    @classmethod
    def told(cls, recipe, search):
        return [("Observer {observer}.", {"observer": recipe["observer"]})]
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of this checkout, with a workload and a method of a newcomer: one file and one line each."""
    folder = tmp_path_factory.mktemp("extended")
    for package in ("harness", "quantize", "reports"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for environment_ in (".venv", ".venv-quantize"):
        (folder / environment_).symlink_to(ROOT / environment_)
    (folder / "harness/workloads/tokenize.py").write_text(WORKLOAD)
    (folder / "quantize/methods/nearest.py").write_text(METHOD)
    register(folder / "harness/workloads/__init__.py", "harness.workloads.tokenize", "Tokenize", "Divergence]")
    register(folder / "quantize/methods/__init__.py", "quantize.methods.nearest", "Nearest", "Noise]")
    shutil.copytree(folder / "harness/demo/model", folder / "other")
    config = folder / "other" / "config.json"
    config.write_text(config.read_text() + "\n")  # the same weights, and another checkpoint
    (folder / "toy.yaml").write_text(SUITE % (folder / "other"))
    return folder


def register(registry: Path, module: str, name: str, last: str) -> None:
    """Add a class to the list that ends in `last`, and its import."""
    text = registry.read_text()
    assert text.count(last) == 1
    text = text.replace(last, f"{last[:-1]}, {name}]")
    registry.write_text(text.replace("import annotations\n", f"import annotations\n\nfrom {module} import {name}\n", 1))


def run(copy: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The copy's own command."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=copy,
        env=os.environ | {"COLUMNS": "300"} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr
    return done


def harness(copy: Path, *arguments: str, **env: str) -> str:
    """What it prints."""
    done = run(copy, *arguments, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(copy: Path, *arguments: str) -> str:
    """The lines it refuses with."""
    done = run(copy, *arguments)
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def measured(copy: Path) -> str:
    return harness(copy, "run", "toy.yaml")


def test_the_suite_and_the_plan_know_it(copy):
    assert "tokenize" in harness(copy, "schema")
    assert "│ other" in harness(copy, "plan", "toy.yaml") and "Engine starts: 2" in harness(copy, "plan", "toy.yaml")
    assert "texts" in refused(copy, "plan", "toy.yaml", "--set", "workloads.tokenize.textz=1")


def test_it_is_measured_compared_and_shown_everywhere(copy, measured):
    records = [json.loads(p.read_text()) for p in (copy / "results/toy/records").iterdir()]
    assert [r["status"] for r in records] == ["done"] * 4
    assert {r["cell"]["workload"] for r in records} == {"tokenize"}
    assert "texts/s" in harness(copy, "report", "results/toy", "--table", "summary")
    assert "texts_per_second (texts/s)" in harness(copy, "report", "results/toy", "--table", "other-workloads", "--csv")
    compared = harness(copy, "compare", "results/toy", "--markdown")
    assert "texts\\_per\\_second" in compared or "texts_per_second" in compared
    page = copy / "page.html"
    harness(copy, "report", "results/toy", "--html", str(page))
    assert "texts/s" in page.read_text() and "tokenize/texts8" in page.read_text()


def test_the_gate_judges_it_and_ci_reads_it(copy, measured):
    harness(copy, "gate", "results/toy", "--junit", "junit.xml", "--benchmark-json", "bench.json")
    cases = [case.get("name") for case in ElementTree.parse(copy / "junit.xml").iter("testcase")]
    assert cases == ["other against bf16: speed/tokenize/texts8 texts_per_second"]
    names = [one["name"] for one in json.loads((copy / "bench.json").read_text())]
    assert any("tokenize" in name and "texts_per_second" in name for name in names)


def test_the_card_shows_it(copy, measured, tmp_path):
    card = b"---\nlicense: mit\n---\n# A model\n"
    with serving(HubServer({KEY: {"README.md": card}}, token=TOKEN)) as hub:
        harness(copy, "publish", "results/toy", "--repo", REPO, "--variant", "other", "--apply", **environment(tmp_path, hub))
        shown = hub.repos[KEY]["README.md"].decode()
    assert "texts/s" in shown and "tokenize/texts8" in shown


@pytest.mark.skipif(not Path(environments.quantize().python).is_file(), reason="no quantize environment")
def test_a_method_is_built_and_told(copy):
    (copy / "method.yaml").write_text(GRID)
    assert "near" in harness(copy, "plan", "method.yaml")
    assert "ready" in harness(copy, "quantize", "method.yaml")
    (built,) = (copy / "checkpoints").glob("near-*")
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["recipe"]["method"] == "nearest" and manifest["recipe"]["group_size"] == 64
    assert "belongs to method awq" in refused(copy, "plan", "method.yaml", "--set", "variants.near.recipe.n_grid=30")
