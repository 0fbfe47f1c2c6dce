"""The code paths of a GPU on a real one: NVML, the choice of the card, the engine's memory and its return, its kernel, and
whether it takes what was forecast."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.demo import MODEL_DIR
from harness.engine import device, server
from harness.engine.monitor import Monitor
from harness.engine.session import Session
from harness.engine.settings import EngineSettings
from harness.families.qwen3_vl import QWEN3_VL_8B
from harness.plan import card_memory
from harness.util import environments
from harness.util.guard import descendants
from harness.workloads import roofline
from tests.helpers.shapes import qwen3_vl


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
    with Session() as session, session.serving(MODEL_DIR, SETTINGS, log, "demo") as running:
        with Monitor(running.root, 1) as monitor:
            answer = running.chat([{"type": "text", "text": "How many shapes are there?"}], 16)
        seen |= {"facts": running.facts, "while": device.memory_used()[0], "holders": device.holders(), "answer": answer}
        seen["processes"] = [running.root, *descendants(running.root)]
        seen |= {"blocked": card_memory.free_faults(EngineSettings(gpu_memory_utilization=0.95)), "sampled": monitor.metrics()}
    seen["after"] = device.memory_used()[0]
    return seen


def test_the_card_has_a_name_and_a_size():
    told = device.describe()
    assert told["kind"] == "gpu" and told["name"] and told["memory_gib"] > 1
    used, why = device.memory_used()
    assert used is not None and why is None
    assert device.memory_free() + used <= told["memory_gib"] * 2**30 * 1.01


def test_a_card_is_found_by_index_and_uuid_and_the_beginning_of_one(fresh, monkeypatch):
    # By another way than the one under test: straight from NVML.
    uuid, _ = device.ask(lambda nvml: nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(0)))
    for named in ("0", uuid, uuid[:12]):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        device.cards.cache_clear()
        assert device.cards()[0][0].uuid == uuid
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "99")
    device.cards.cache_clear()
    cards, why = device.cards()
    assert not cards and "CUDA_VISIBLE_DEVICES" in why


def test_the_engine_tells_its_memory_and_gives_it_back(served):
    facts = served["facts"]
    assert facts.weights_gib is not None and facts.kv_cache_gib > 1 and facts.kv_cache_tokens > 1000
    assert served["while"] > served["before"] + facts.kv_cache_gib * 2**30
    assert served["after"] <= served["before"] + server.MEMORY_SLACK


def test_a_card_that_others_hold_is_refused_by_name(served):
    said = str(served["blocked"][0])
    assert "engine.gpu_memory_utilization asks for" in said and "held by" in said
    assert any("pid" in holder for holder in served["holders"]) or "NVML names no process" in said


def test_power_and_memory_are_sampled(served):
    assert served["sampled"]["device_peak_gib"].value > 1
    assert served["sampled"]["mean_power_w"].value > 10 or served["sampled"]["mean_power_w"].reason


def test_the_device_s_rates_are_those_of_a_gpu():
    able = roofline.rates()
    assert able["bytes_per_s"] > 1e11 and able["flops_per_s"] > 1e12, able


def test_no_process_of_the_engine_is_left(served):
    assert len(served["processes"]) > 1
    assert not [pid for pid in served["processes"] if Path(f"/proc/{pid}").exists()]


TEXT = QWEN3_VL_8B["text_config"]
SIZES = {"hidden": TEXT["hidden_size"], "mlp": TEXT["intermediate_size"], "layers": TEXT["num_hidden_layers"],
         "heads": TEXT["num_attention_heads"], "kv_heads": TEXT["num_key_value_heads"], "head_dim": TEXT["head_dim"],
         "vocabulary": 768, "vision": 128, "vision_mlp": 384, "blocks": 4}  # fmt: skip
"""The 8B model's language layers, the demo model's vocabulary and vision tower."""
GROUP = 128
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}


def int4_of_8b(folder: Path) -> int:
    """Write a checkpoint of SIZES in INT4 without its weights (vLLM draws them: `--load-format dummy`); its bytes with them."""
    shutil.copytree(MODEL_DIR, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["text_config"] |= TEXT | {"vocab_size": SIZES["vocabulary"]}
    config["vision_config"]["out_hidden_size"] = SIZES["hidden"]
    table = {name: math.prod(shape) for name, shape in qwen3_vl(**SIZES).items()}
    packed = sum(size for name, size in table.items() if ".layers." in name and "proj" in name)
    plain = sum(table.values()) - packed
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["re:.*visual.*", "lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return plain * 2 + packed // 2 + packed // GROUP * 2


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """The 8B model's language layers in INT4, served: what was forecast and what vLLM said."""
    place = tmp_path_factory.mktemp("deep")
    settings = SETTINGS.model_copy(
        update={"gpu_memory_utilization": 0.8, "max_model_len": 8192, "extra_args": ["--load-format", "dummy"]}
    )
    size = int4_of_8b(place / "model")
    expected = card_memory.forecast(place / "model", settings, size)
    if card_memory.faults("int4", expected, settings) or device.describe()["memory_gib"] < 40:
        pytest.skip("needs a card of 40 GiB: on a smaller one the allowance is more than 5 % of the KV cache")
    with Session() as session, session.serving(place / "model", settings, place / "log", "deep") as running:
        return expected, running.facts, device.describe()["memory_gib"] * settings.gpu_memory_utilization


def test_the_forecast_is_within_5_percent_of_what_vllm_takes(deep):
    expected, facts, usable = deep
    assert expected.weights_gib == pytest.approx(facts.weights_gib, rel=0.05)
    assert expected.cache_gib(usable) == pytest.approx(facts.kv_cache_gib, rel=0.05)
    assert facts.kv_cache_tokens == pytest.approx(facts.kv_cache_gib / expected.request_gib * expected.tokens, rel=0.01)


def test_the_kernel_of_the_packed_layers_is_read_from_vllm(deep):
    assert deep[1].kernel in ("MacheteLinearKernel", "MarlinLinearKernel")
