"""What runs side by side and what never does; executors without an engine or a cluster. Real clusters are in tests/e2e."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.engine import device
from harness.plan.plan import Plan, make_plan
from harness.plan.schedule import Chain, chains
from harness.record.folder import RunFolder
from harness.run import execute, measure
from harness.run.executors import Work, WorkResult
from harness.run.executors.local import Local
from harness.run.executors.ray import Kind, Ray
from harness.suite.schema import EXECUTORS, Cluster, load_suite
from harness.util import environments
from harness.util.errors import Refused
from harness.util.progress import Reporter
from tests.helpers.records import record

ARMS = """\
name: s
model: {model}
variants:
  bf16: {}
  again: {repeat: 1}
  third: {repeat: 2}
passes: 2
workloads:
  accuracy: {tasks: [demo_vl_text, demo_vl_count], divergence: 20}
  latency: {loads: {text: {images: 0}}, concurrency: [1], trials: 2}
  memory: {}
"""


@pytest.fixture
def plan(write_suite, tmp_path) -> Plan:
    return make_plan(load_suite(write_suite(ARMS)), tmp_path / "checkpoints")


def workloads_of(chain: Chain) -> list[tuple[str, list[str]]]:
    return [(g.variant.name, list(dict.fromkeys(c.workload for c in g.cells))) for g in chain.groups]


def test_on_one_device_all_is_one_chain_and_a_pass_is_a_start_of_each_arm(plan):
    (made,) = chains(plan, plan.cells, Path("r"), apart=False)
    assert [name for name, _ in workloads_of(made)] == ["bf16", "again", "third", "third", "again", "bf16"]
    assert workloads_of(made)[0] == ("bf16", ["memory", "accuracy", "latency", "divergence"])
    assert len(made.cells) == len(plan.cells) and made.timed


def test_on_several_speed_stays_on_one_card_and_the_rest_is_spread(plan):
    speed, *rest = chains(plan, plan.cells, Path("r"), apart=True)
    assert speed.timed and {w for _, found in workloads_of(speed) for w in found} == {"latency"}
    assert [name for name, _ in workloads_of(speed)] == ["bf16", "again", "third", "third", "again", "bf16"]
    assert [(c.name, workloads_of(c)) for c in rest] == [
        (name, [(name, ["memory", "accuracy", "divergence"])]) for name in ("bf16", "again", "third")
    ]
    assert not any(c.timed for c in rest)
    numbers = [group.number for chain in (speed, *rest) for group in chain.groups]
    assert numbers == sorted(set(numbers))


def test_what_needs_the_baselines_answers_alone_comes_after_them(plan):
    answers = [c for c in plan.cells if (c.variant, c.workload) == ("bf16", "accuracy")]
    relative = [c for c in plan.cells if (c.variant, c.workload) == ("again", "divergence")]
    found = {c.name: c.after for c in chains(plan, answers + relative, Path("r"), apart=True)}
    assert found == {"bf16": (), "again": ("bf16",)}
    # Where the answers are there already, it waits for nothing.
    assert [c.after for c in chains(plan, relative, Path("r"), apart=True)] == [()]


def test_speed_is_alone_on_its_machine_unless_the_suite_says_otherwise(plan, tmp_path):
    folder = RunFolder(tmp_path / "r")
    where = Local(Cluster(), ["a", "b"])
    assert [t.alone for t in execute.measuring(plan, folder, where)] == [True, False, False, False]
    plan.suite = plan.suite.model_copy(update={"cluster": Cluster(beside=True)})
    assert not any(t.alone for t in execute.measuring(plan, folder, where))


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_of_the_list_is_there(name):
    module, _, attribute = EXECUTORS[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    assert all(callable(getattr(kind, method)) for method in ("__enter__", "__exit__", "told", "unseen", "faults", "run"))


# -- this machine ------------------------------------------------------------------------------------------------------


def stamp(given: tuple[Path, float], report: Reporter) -> WorkResult:
    """Says when it ran and on which cards."""
    began = time.time()
    time.sleep(given[1])
    return WorkResult([f"{began} {time.time()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}"])


def meet(given: tuple[Path, str], report: Reporter) -> WorkResult:
    """Ends when two are there at once."""
    folder, name = given
    (folder / name).touch()
    deadline = time.monotonic() + 20
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return stamp((folder, 0.0), report)


def fall(given: Any, report: Reporter) -> WorkResult:
    os._exit(3)


def full(given: Any, report: Reporter) -> WorkResult:
    raise OSError(28, "No space left on device", "record.json")


def test_several_cards_work_side_by_side_and_what_must_be_alone_is(tmp_path):
    tasks = [
        Work("one", meet, (tmp_path, "one")),
        Work("after", stamp, (tmp_path, 0.0), after=("one",)),
        Work("two", meet, (tmp_path, "two")),
        Work("alone", stamp, (tmp_path, 0.3), alone=True),
    ]
    with Local(Cluster(), ["GPU-a", "GPU-b"]) as where:
        found = {task.name: outcome.failures[0].split() for task, outcome in where.run(tasks, Reporter())}
    times = {name: (float(began), float(ended)) for name, (began, ended, *_) in found.items()}
    assert times["alone"][1] <= min(times[n][0] for n in ("one", "two", "after"))
    assert times["after"][0] >= times["one"][1]
    assert {found["one"][2], found["two"][2]} == {"GPU-a", "GPU-b"} and len(list(tmp_path.iterdir())) == 2
    assert os.getpid() not in {int(words[3]) for words in found.values()}


def test_tasks_that_take_two_cards_get_two(tmp_path):
    tasks = [Work(str(i), stamp, (tmp_path, 0.1), gpus=2) for i in range(2)]
    with Local(Cluster(), ["a", "b", "c", "d", "e"]) as where:
        found = [outcome.failures[0].split()[2] for _, outcome in where.run(tasks, Reporter())]
        assert set(found) <= {"a,b", "c,d"}
        (fault,) = where.faults([Work("wide", stamp, None, gpus=8)])
    assert "is 8, and this machine has 5 GPUs" in str(fault)


def test_a_process_that_dies_is_a_failure_and_a_full_disk_ends_the_run(tmp_path):
    with Local(Cluster(), ["a", "b"]) as where:
        outcomes = [o for _, o in where.run([Work("one", fall, None), Work("two", fall, None)], Reporter())]
        assert all("its process was killed" in o.failures[0] for o in outcomes) and len(outcomes) == 2
        with pytest.raises(OSError, match="No space left"):
            list(where.run([Work("one", full, None), Work("two", full, None)], Reporter()))


def test_one_device_works_in_this_process_in_order(tmp_path):
    tasks = [Work("b", stamp, (tmp_path, 0.0), after=("a",)), Work("a", stamp, (tmp_path, 0.0))]
    with Local(Cluster(), []) as where:
        done = [(task.name, outcome.failures[0].split()[3]) for task, outcome in where.run(tasks, Reporter())]
    assert done == [("a", str(os.getpid())), ("b", str(os.getpid()))]


# -- a cluster, as it is told about ------------------------------------------------------------------------------------


def node(name: str, gpus: int = 8, cpus: int = 64) -> dict[str, Any]:
    resources = {"GPU": gpus, "CPU": cpus, "memory": 2**36}
    return {"NodeID": name, "NodeManagerAddress": f"10.0.0.{name}", "Resources": resources, "Alive": True}


def card(name: str = "NVIDIA H100", driver: str = "570.1") -> dict[str, Any]:
    return {"kind": "gpu", "name": name, "driver": driver, "memory_gib": 79.2}


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(environments, "is_cpu", lambda: False)


def cluster(kind: Kind, **settings: Any) -> Ray:
    made = Ray(Cluster(**settings))
    made.kind = kind
    return made


def test_one_kind_of_device_is_measured_on_and_others_are_named(gpus):
    old, new = Kind(card(), (node("1"),)), Kind(card(driver="580.2"), (node("2"), node("3")))
    assert Ray(Cluster())._chosen([new]) is new
    assert Ray(Cluster(device="h100, driver 580"))._chosen([old, new]) is new
    with pytest.raises(Refused, match=r"1 with NVIDIA H100, driver 570.1; 2 with NVIDIA H100, driver 580.2\).*do not compare"):
        Ray(Cluster())._chosen([old, new])
    with pytest.raises(Refused, match="'H100' matches 2 kinds"):
        Ray(Cluster(device="H100"))._chosen([old, new])
    assert cluster(new).slots == 16


def test_a_task_larger_than_any_machine_is_refused(gpus):
    where = cluster(Kind(card(), (node("1", gpus=4),)))
    found = where.faults([Work("wide", stamp, None, gpus=8), Work("build of x", stamp, None, memory=2**40)])
    assert "is 8, and no machine with NVIDIA H100, driver 570.1 has more than 4 GPUs" in str(found[0])
    assert "asks for 1024.0 GiB of memory" in str(found[1]) and "quantize_memory_gib" in str(found[1])


def test_speed_asks_for_a_whole_machine_and_the_rest_for_a_core(gpus):
    where = cluster(Kind(card(), (node("1", cpus=64), node("2", cpus=32))))
    assert where._cores(Work("t", stamp, None, alone=True)) == 64
    assert where._cores(Work("t", stamp, None)) == 1


def test_a_folder_that_machines_do_not_see_is_refused(tmp_path, monkeypatch):
    where = cluster(Kind(card(), (node("1"), node("2"))))
    monkeypatch.setattr(where, "_ask", lambda nodes, question, paths: [[True] * len(paths), [False] * len(paths)])
    (fault,) = where.unseen([tmp_path / "results" / "run"], [])
    assert "is not seen by 1 of 2 machines (first: 10.0.0.2)" in str(fault)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_or_that_machines_do_not_see_is_refused(tmp_path, monkeypatch):
    kind = Kind(card(), (node("1"), node("2")))
    (fault,) = cluster(kind, store="nosuch://x").unseen([], [])
    assert str(fault).startswith("cluster.store: nosuch://x cannot be written")
    where = cluster(kind, store=f"file://{tmp_path}/store")
    monkeypatch.setattr(where, "_ask", lambda nodes, question, mark: [question(mark), False])
    (fault,) = where.unseen([], [])
    assert "store is not seen by 1 of 2 machines (first: 10.0.0.2)" in str(fault)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:1", "does not answer"), ("nowhere", "is no address")],
)
def test_no_cluster_at_the_address_is_one_line(address, said):
    from harness.run.executors.ray import _connect

    with pytest.raises(Refused, match=said):
        _connect(None, address)


def test_an_executor_that_is_unknown_or_not_installed_is_one_line(write_suite, monkeypatch, capsys):
    path = write_suite(ARMS)
    assert main.main(["plan", str(path), "--executor", "slurm"]) == 2
    assert "executor is 'slurm': input should be 'local' or 'ray'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main.main(["plan", str(path), "--executor", "ray"]) == 2
    assert "Ray is not installed here; pip install '.[ray]'" in capsys.readouterr().err


def test_a_fixed_port_and_engines_side_by_side_are_refused(plan, tmp_path):
    plan.suite = plan.suite.model_copy(update={"engine": plan.suite.engine.model_copy(update={"port": 8000})})
    places = RunFolder(tmp_path / "r"), tmp_path
    assert execute.refusals(plan, *places, Local(Cluster(), ["a"])) == []
    found = execute.refusals(plan, *places, Local(Cluster(), ["a", "b"]))
    assert "engine.port: is one port for engines that run side by side" in str(found[0])


def test_the_device_of_other_machines_makes_the_keys(plan, tmp_path):
    device.stand_for({"kind": "cpu", "name": "another"})
    try:
        other = make_plan(plan.suite, tmp_path)
        assert other.cells[0].identity["device"] == {"kind": "cpu", "name": "another"}
    finally:
        device.stand_for(None)
    assert make_plan(plan.suite, tmp_path).cells[0].id.key == plan.cells[0].id.key != other.cells[0].id.key


# -- a chain -----------------------------------------------------------------------------------------------------------


def test_a_process_that_would_measure_something_else_says_so(plan, monkeypatch):
    (made,) = chains(plan, plan.cells, Path("r"), apart=False)
    assert measure.strange(plan.suite, made.groups[0]) is None
    monkeypatch.setattr(device, "describe", lambda: {"kind": "cpu", "name": "another"})
    assert "would measure something else: device is {'kind': 'cpu', 'name': 'another'} here" in str(
        measure.strange(plan.suite, made.groups[0])
    )
    made.groups[0].variant.path = Path("nowhere")
    assert "nowhere is another checkpoint here" in str(measure.strange(plan.suite, made.groups[0]))


def test_cells_that_another_run_finishes_meanwhile_are_not_measured(plan, tmp_path):
    """What is busy is given to the executor again, until it is done."""
    folder = RunFolder(tmp_path / "r")
    wanted = [c for c in plan.cells if c.workload == "memory"]
    seen: list[list[str]] = []

    class Where(Local):
        def run(self, tasks: Any, report: Any) -> Any:
            for task in tasks:
                seen.append([c.id.key for c in task.argument.cells])
                yield (
                    task,
                    WorkResult(["one failed"] if len(seen) == 1 else [], seen[-1][1:] if len(seen) == 1 else [], "another"),
                )

    tasks = [Work("t", measure.measure_chain, chains(plan, wanted, folder.path, apart=False)[0])]
    execute.WAIT_S, before = 0.0, execute.WAIT_S
    try:
        assert execute.finish(tasks, Where(Cluster(), []), Reporter()) == ["one failed"]
    finally:
        execute.WAIT_S = before
    assert [len(keys) for keys in seen] == [3, 2]


def test_a_driver_that_differs_forbids_a_comparison():
    from harness.compare.arms import unlike

    made = [record(name, name) for name in "ab"]
    for one, driver in zip(made, ("570", "580"), strict=True):
        one.provenance.engine["driver"] = driver
    assert unlike(*made) == ["device.driver: 570 and 580"]
    made[1].provenance.engine["driver"] = None
    assert unlike(*made) == []
