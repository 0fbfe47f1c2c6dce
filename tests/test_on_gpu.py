"""The code paths of a GPU on a real one: NVML, the choice of the card, the engine's memory and its return."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import device, engine, environments, limits, room
from harness.demo import MODEL_DIR
from harness.guard import descendants
from harness.monitor import Monitor
from harness.suite import EngineSettings


def _no_card() -> bool:
    return environments.is_cpu() or not device.cards()[0]


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_no_card(), reason="no NVIDIA GPU, or vLLM's CPU build")]
SETTINGS = EngineSettings(max_model_len=512, max_num_seqs=16, gpu_memory_utilization=0.3, enforce_eager=True)


@pytest.fixture
def fresh():
    for cached in (device.cards, device.describe_here):
        cached.cache_clear()
    yield
    for cached in (device.cards, device.describe_here):
        cached.cache_clear()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What was seen before, while and after the demo model was served."""
    seen = {"before": device.memory_used()[0]}
    log = tmp_path_factory.mktemp("engine") / "log"
    with engine.serving(MODEL_DIR, SETTINGS, log, "demo") as running:
        with Monitor(running.root, 1) as monitor:
            answer = running.chat([{"type": "text", "text": "How many shapes are there?"}], 16)
        seen |= {"facts": running.facts, "while": device.memory_used()[0], "holders": device.holders(), "answer": answer}
        seen["processes"] = [running.root, *descendants(running.root)]
        seen |= {"blocked": room.free_faults(EngineSettings(gpu_memory_utilization=0.95)), "sampled": monitor.metrics()}
    seen["after"] = device.memory_used()[0]
    return seen


def test_the_card_has_a_name_and_a_size():
    told = device.describe()
    assert told["kind"] == "gpu" and told["name"] and told["memory_gib"] > 1
    used, why = device.memory_used()
    assert used is not None and why is None
    assert device.memory_free() + used <= told["memory_gib"] * 2**30 * 1.01


def test_a_card_is_found_by_index_and_uuid_and_the_beginning_of_one(fresh, monkeypatch):
    uuid = device.cards()[0][0].uuid
    for named in ("0", uuid, uuid[:12]):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        device.cards.cache_clear()
        assert device.cards()[0][0].uuid == (uuid if named != "0" else device.cards()[0][0].uuid)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "99")
    device.cards.cache_clear()
    cards, why = device.cards()
    assert not cards and "CUDA_VISIBLE_DEVICES" in why


def test_the_engine_tells_its_memory_and_gives_it_back(served):
    facts = served["facts"]
    assert facts.weights_gib is not None and facts.kv_cache_gib > 1 and facts.kv_cache_tokens > 1000
    assert served["while"] > served["before"] + facts.kv_cache_gib * 2**30
    assert served["after"] <= served["before"] + engine.MEMORY_SLACK


def test_a_card_that_others_hold_is_refused_by_name(served):
    said = str(served["blocked"][0])
    assert "engine.gpu_memory_utilization asks for" in said and "held by" in said
    assert any("pid" in holder for holder in served["holders"]) or "NVML names no process" in said


def test_power_and_memory_are_sampled(served):
    assert served["sampled"]["device_peak_gib"].value > 1
    assert served["sampled"]["mean_power_w"].value > 10 or served["sampled"]["mean_power_w"].reason


def test_the_device_s_rates_are_those_of_a_gpu():
    able = limits.rates()
    assert able["bytes_per_s"] > 1e11 and able["flops_per_s"] > 1e12, able


def test_no_process_of_the_engine_is_left(served):
    assert len(served["processes"]) > 1
    assert not [pid for pid in served["processes"] if Path(f"/proc/{pid}").exists()]
