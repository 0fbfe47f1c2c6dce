"""A variant that another Run measured: its Records are taken over, its accuracy is compared, its speed is not."""

from __future__ import annotations

import json

import pytest

from harness.compare.runs import compare_run
from harness.plan.plan import make_plan
from harness.record.folder import RunFolder
from harness.run.execute import run_suite
from harness.suite.schema import load_suite
from harness.util.errors import Refused, Unlike
from reports import tables
from tests.helpers.records import record, run_of, sample

H100 = {"kind": "gpu", "name": "NVIDIA H100"}
SUITE = """
name: small
model: {model}
baseline: bf16
variants:
  bf16: {run: RUN}
workloads:
  accuracy: {tasks: [demo_vl]}
engine: {max_model_len: 512}
"""


class Quiet:
    """A Reporter that keeps silent."""

    def stage(self, *_):
        pass

    line = update = stage


@pytest.fixture
def large(tmp_path):
    """The Run of the large card: BF16, one task of eight questions."""
    of_bf16 = record("bf16", "1" * 16, "demo_vl", device=H100, checkpoint="c" * 64)
    return run_of(tmp_path / "large", (of_bf16, [sample(str(i), 1.0) for i in range(8)]), baseline="bf16")


def planned(write_suite, large, tmp_path):
    return load_suite(write_suite(SUITE.replace("RUN", str(large.path)))), RunFolder(tmp_path / "small")


def test_its_records_are_copied_with_their_origin_and_nothing_is_started(write_suite, large, tmp_path):
    suite, folder = planned(write_suite, large, tmp_path)
    plan, failures = run_suite(suite, folder, tmp_path / "checkpoints", Quiet())
    assert not failures and [c.taken.key for c in plan.cells] == ["1" * 16] and plan.turns([]) == []
    key = plan.cells[0].id.key
    copied = folder.record(key)
    assert copied.taken_from == str(large.path) and copied.provenance == large.record("1" * 16).provenance
    assert len(list(folder.samples(key))) == 8
    before = folder.state(key)
    run_suite(suite, folder, tmp_path / "checkpoints", Quiet())
    assert folder.state(key) == before, "what is there is left as it is"


def test_accuracy_is_compared_across_devices_and_says_so(large, tmp_path):
    bf16 = large.record("1" * 16).model_copy(update={"taken_from": "results/large"})
    rows = [sample(str(i), 1.0) for i in range(8)]
    here = record("int4", "2" * 16, "demo_vl", checkpoint="d" * 64)
    small = run_of(tmp_path / "small", (bf16, rows), (here, [*rows[:7], sample("7", 0.0)]), baseline="bf16")
    found, faults = compare_run(small, "bf16")
    assert not faults and (found[0].lost, found[0].n) == (1, 8)
    assert "device.name: NVIDIA H100" in found[0].apart
    text = tables.markdown(small)
    assert "bf16 was measured in another Run (results/large), on NVIDIA H100." in text
    assert "int4 and bf16 were asked in different places: device.kind: gpu and cpu" in text


def test_without_the_mark_another_device_stays_a_refusal(large, tmp_path):
    rows = [sample(str(i), 1.0) for i in range(8)]
    here = record("int4", "2" * 16, "demo_vl", checkpoint="d" * 64)
    mixed = run_of(tmp_path / "mixed", (large.record("1" * 16), rows), (here, rows), baseline="bf16")
    found, faults = compare_run(mixed, "bf16")
    assert not found and isinstance(faults[0], Unlike) and "device" in str(faults[0])


def test_weights_in_host_memory_change_no_answer_but_another_batch_may(tmp_path):
    rows = [sample(str(i), 1.0) for i in range(8)]
    alike = {"max_num_seqs": 8, "enforce_eager": None}
    whole = record("int4", "1" * 16, "t", engine=alike | {"cpu_offload_gb": 0.0})
    for changed, compared in (({"cpu_offload_gb": 6.0}, True), ({"cpu_offload_gb": 6.0, "max_num_seqs": 4}, False)):
        offloaded = record("bf16", "2" * 16, "t", engine=alike | changed)
        place = tmp_path / json.dumps(changed).strip("{}").replace(" ", "")
        found, faults = compare_run(run_of(place, (offloaded, rows), (whole, rows), baseline="bf16"), "bf16")
        assert bool(found) is compared and bool(faults) is not compared
        if found:
            assert found[0].apart == "engine.cpu_offload_gb: 6.0 and 0.0"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("{run: RUN}", "{run: RUN, recipe: {}}"), "one of recipe, checkpoint and run"),
        (("{run: RUN}", "{run: RUN, repeat: 1}"), "as it was measured there"),
        (("RUN", "nowhere"), "is no Run"),
        (("accuracy: {tasks: [demo_vl]}", "memory: {}"), "has no finished Record of bf16 in memory"),
        (("bf16", "bf-16"), "has no variant 'bf-16'; did you mean 'bf16'?"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(write_suite, large, tmp_path, change, said):
    text = SUITE.replace(*change).replace("RUN", str(large.path))
    with pytest.raises(Refused, match=said):
        plan = make_plan(load_suite(write_suite(text)), tmp_path / "checkpoints")
        Refused.if_any(plan.faults)
