"""A Ray cluster of several nodes, for real: the demo suite over it, and what happens when parts of it die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.record.folder import RunFolder
from harness.util.guard import descendants
from tests.helpers.commands import engines, harness, suite
from tests.helpers.processes import gone
from tests.helpers.records import ROOT

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.e2e
SUITE = """\
name: s
model: demo
variants:
  bf16: {}
  again: {repeat: 1}
  damaged: {recipe: {method: noise, noise_std: 0.3}}
workloads:
  accuracy: {tasks: [demo_vl_text, demo_vl_count], divergence: 20, limit: 5}
executor: ray
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without a device and two nodes with one each."""
    from ray.cluster_utils import Cluster

    # A dead node is noticed after 1.5 s, not after 15.
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@dataclass
class Driver:
    """A run of SUITE with stand-ins for the engines, in a process of its own."""

    folder: Path
    address: str
    output: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str = "driver", output: Path | None = None, **settings: object) -> subprocess.Popen[bytes]:
        """settings: see tests.e2e.stand_in."""
        given = {"JOURNAL": self.folder / "journal", "GO": self.folder / "go"} | settings
        where = [
            "--output",
            str(output or self.output),
            "--checkpoints",
            str(self.folder / "checkpoints"),
            "--address",
            self.address,
        ]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.stand_in", "run", self.folder / "suite.yaml", *where],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {f"HARNESS_STAND_IN_{key}": str(value) for key, value in given.items()},
            )
        self.started.append(process)
        return process

    def log(self, name: str = "driver") -> str:
        return (self.folder / f"{name}.log").read_text()

    def journal(self, what: str) -> list[tuple[str, int]]:
        """Cells that began or ended, in order, with the process that measured them."""
        path = self.folder / "journal"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(label, int(pid)) for kind, label, pid in lines if kind == what]

    def until_began(self, variant: str, process: subprocess.Popen[bytes]) -> int:
        """Wait until a variant's first Cell has begun; returns its process."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            for label, pid in self.journal("began"):
                if label.startswith(f"{variant}/"):
                    return pid
            time.sleep(0.05)
        raise AssertionError(self.log())

    def statuses(self) -> list[str]:
        return [record.status for record in RunFolder(self.output).records()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, cluster: Any) -> tuple[Path, str]:
    """The suite's variants, built by `quantize` on the cluster."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "suite.yaml").write_text(SUITE)
    given = [str(folder / "suite.yaml"), "--address", cluster.address, "--checkpoints", str(folder / "checkpoints")]
    done = subprocess.run(
        [sys.executable, "-m", "harness", "quantize", *given, "--output", str(folder / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return folder / "checkpoints", done.stdout + done.stderr


@pytest.fixture
def driver(tmp_path: Path, cluster: Any, built: tuple[Path, str]) -> Iterator[Driver]:
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "checkpoints").symlink_to(built[0])
    made = Driver(tmp_path, cluster.address, tmp_path / "run")
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def test_variants_are_built_on_the_cluster(built):
    checkpoints, said = built
    assert [p.name.rpartition("-")[0] for p in checkpoints.iterdir() if p.is_dir()] == ["damaged"], said
    assert "ready" in said and "build of damaged" in said


def test_two_runs_on_one_folder_measure_each_cell_once_and_both_end_well(driver):
    """The second finds the first at work, on a disk that takes its time."""
    processes = [driver.start(name, S=0.2, FSYNC_S=0.2) for name in ("one", "two")]
    assert [p.wait(timeout=200) for p in processes] == [0, 0], driver.log("one") + driver.log("two")
    began = Counter(label for label, _ in driver.journal("began"))
    assert len(began) == 9 and set(began.values()) == {1}
    assert driver.statuses() == ["done"] * 9
    assert not (driver.output / "claims").exists()
    # What needs the baseline's answers was measured after them.
    ended = [label for label, _ in driver.journal("ended")]
    answers = max(ended.index(f"bf16/accuracy/{task}") for task in ("demo_vl_text", "demo_vl_count"))
    assert answers < ended.index("again/divergence/questions20")


def test_a_node_that_dies_costs_its_groups_alone_and_ray_starts_them_elsewhere(driver, cluster):
    process = driver.start(HOLD="again")
    worker = driver.until_began("again", process)
    deadline = time.monotonic() + 60
    while len(driver.journal("ended")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    engine = descendants(worker)
    assert len(engine) >= 2  # the guard and what it guards
    raylet = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    (node,) = (n for n in cluster.worker_nodes if n.all_processes["raylet"][0].process.pid == raylet)
    cluster.remove_node(node, allow_graceful=False)
    assert gone([worker, *engine], 30)
    (driver.folder / "go").touch()
    assert process.wait(timeout=200) == 0, driver.log()
    assert driver.statuses() == ["done"] * 9
    began = Counter(label for label, _ in driver.journal("began"))
    assert {label for label, times in began.items() if times > 1} == {"again/accuracy/demo_vl_text"}
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()


def test_a_killed_run_takes_its_workers_along_and_goes_on_from_its_records(driver):
    process = driver.start(HOLD="again")
    worker = driver.until_began("again", process)
    deadline = time.monotonic() + 60
    while len(driver.journal("ended")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    engine = descendants(worker)
    assert len(engine) >= 2  # the guard and what it guards
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert gone([worker, *engine], 30)
    kept = {label for label, _ in driver.journal("ended")}
    assert len(kept) >= 3
    (driver.folder / "go").touch()
    again = driver.start("again")
    assert again.wait(timeout=200) == 0, driver.log("again")
    ended = Counter(label for label, _ in driver.journal("ended"))
    assert len(ended) == 9 and set(ended.values()) == {1}
    assert driver.statuses() == ["done"] * 9


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_one_line_and_what_was_measured_stays(driver, small_disk):
    output = small_disk / "run"
    assert driver.start(output=output, SAMPLES=400).wait(timeout=200) == 1
    said = [line for line in driver.log().splitlines() if "No space left on device" in line]
    assert len(said) == 1 and said[0].startswith(f"failed: {output}/") and said[0].endswith("measured before stays")
    assert "Traceback" not in driver.log()
    records = [json.loads(p.read_text()) for p in (output / "records").iterdir()]
    assert 0 < len(records) < 9 and {r["status"] for r in records} == {"done"}


def test_the_demo_suite_over_two_nodes_gives_the_same_records_as_on_one(run, results, cluster):
    """Engines this time. Fewer Cells than `run` measured here, so that most of the time is not theirs."""
    _, local = run
    output = results / "cluster"
    only = ["--only", "*/demo_vl_text"]
    done = harness(
        *suite("vl_accuracy", output), *only, "--executor", "ray", "--address", cluster.address, results=results, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert engines() == []
    measured = RunFolder(output)
    records = [r for r in measured.records() if r.status == "done"]
    assert [r.cell.variant for r in records] == ["bf16", "awq-int4-g128"]
    for record in records:
        other = local.record(record.cell.key)
        assert other is not None and other.cell == record.cell and other.metrics == record.metrics
        assert other.provenance.identity == record.provenance.identity
        assert list(measured.samples(record.cell.key)) == list(local.samples(record.cell.key))


def test_machines_without_a_shared_folder_meet_in_a_store(driver):
    """A `file://` address here; every machine copies the checkpoints from it and puts its Records there."""
    store = f"file://{driver.folder}/store"
    built = (driver.folder / "checkpoints").resolve()
    text = SUITE.replace("executor: ray", f"executor: ray\ncluster: {{store: '{store}'}}")
    (driver.folder / "suite.yaml").write_text(text)
    assert driver.start().wait(timeout=200) == 0, driver.log()
    assert driver.statuses() == ["done"] * 9
    names = {p.name for p in driver.output.joinpath("records").iterdir()}
    assert {p.name for p in (driver.folder / "store/run/records").iterdir()} == names
    (damaged,) = built.glob("damaged-*")
    assert [r.provenance.checkpoint for r in RunFolder(driver.output).records() if r.cell.variant == "damaged"] == [
        str(driver.folder / "checkpoints" / damaged.name)
    ] * 3
    # Another machine's folder is empty: it takes what is there from the store, and measures nothing.
    began = len(driver.journal("began"))
    assert driver.start("elsewhere", output=driver.folder / "other" / "run").wait(timeout=200) == 0, driver.log("elsewhere")
    assert len(driver.journal("began")) == began
    assert {p.name for p in (driver.folder / "other/run/records").iterdir()} == names
