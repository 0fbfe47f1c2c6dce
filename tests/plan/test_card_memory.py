"""What fits a card, told before anything starts: the 8B shape on 16, 24 and 80 GB."""

from __future__ import annotations

import json

import pytest

from harness.checkpoints.headers import tensors
from harness.engine import device
from harness.engine.settings import EngineSettings
from harness.families.qwen3_vl import QWEN3_VL_8B
from harness.plan import card_memory
from harness.record.folder import RunFolder
from harness.workloads.roofline import decode_step, kv_bytes_per_token
from tests.helpers import shapes
from tests.helpers.records import ROOT

BF16, INT4 = int(16.33 * 2**30), int(6.73 * 2**30)


@pytest.fixture(scope="module")
def shape(tmp_path_factory):

    folder = tmp_path_factory.mktemp("shape")
    (folder / "config.json").write_text(json.dumps(QWEN3_VL_8B | {"model_type": "qwen3_vl"}))
    return folder


@pytest.mark.parametrize("name", ["qwen3_vl_8b_h100", "qwen3_vl_8b_two_h100"])
def test_the_forecast_is_within_5_percent_of_what_vllm_took_on_an_h100(shape, name):
    run = RunFolder.existing(ROOT / "results" / name)
    variants, checked = run.read().variants, 0
    for record in run.records():
        if record.cell.workload != "memory":
            continue
        settings = EngineSettings.model_validate(record.provenance.identity["engine"])
        expected = card_memory.forecast(shape, settings, variants[record.cell.variant].disk_bytes)
        assert expected.weights_gib == pytest.approx(record.metrics["weights_gib"].value, rel=0.05)
        usable = 79.18 * settings.gpu_memory_utilization  # GiB of the card, from vLLM's log
        assert expected.cache_gib(usable) == pytest.approx(record.metrics["kv_cache_gib"].value, rel=0.05)
        checked += 1
    assert checked == 2


@pytest.fixture
def card(monkeypatch):
    def put(gib: float, used: float = 0.0, holders: tuple[str, ...] = ()):
        monkeypatch.setattr(device, "describe", lambda: {"kind": "gpu", "name": "Card", "memory_gib": gib, "count": 1})
        monkeypatch.setattr(device, "memory_free", lambda: int((gib - used) * 2**30))
        monkeypatch.setattr(device, "holders", lambda: list(holders))

    return put


def told(shape, size: int, **settings) -> str:
    given = EngineSettings.model_validate({"max_model_len": 8192} | settings)
    return " ".join(str(f) for f in card_memory.faults("x", card_memory.forecast(shape, given, size), given))


def test_bf16_of_8b_on_16_gb_is_refused_with_the_sizes_and_what_would_do(shape, card):
    card(16)
    said = told(shape, BF16)
    assert "weights 16.8 GiB" in said and "13.6 of 16.0 GiB" in said
    for way in ("--only", "cpu_offload_gb"):
        assert way in said
    offload = int(said.partition("cpu_offload_gb: ")[2].partition("}")[0])
    assert told(shape, BF16, cpu_offload_gb=offload) == ""
    assert told(shape, INT4) == ""


def test_a_context_that_leaves_no_room_names_the_length_that_fits(shape, card):
    card(24)
    said = told(shape, INT4, max_model_len=131072)
    fitting = int(said.rpartition("engine.max_model_len: ")[2].split()[0])
    assert 50_000 < fitting < 131_072
    assert told(shape, INT4, max_model_len=fitting) == ""


def test_two_cards_share_the_weights(shape, card):
    card(16)
    assert told(shape, BF16, tensor_parallel_size=2) == ""


def test_memory_that_others_hold_is_told_with_their_names(card):
    card(80, used=20, holders=("python (pid 12), 20.0 GiB",))
    (fault,) = card_memory.free_faults(EngineSettings())
    assert "60.0 GiB are free" in str(fault) and "python (pid 12)" in str(fault)
    card(80, used=1)
    assert card_memory.free_faults(EngineSettings()) == []


def test_a_decode_step_reads_the_language_layers_the_head_and_the_cache_but_no_pictures(tmp_path):
    source = shapes.write_source(tmp_path / "T")

    config = json.loads((source / "config.json").read_text())
    config["text_config"] |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_hidden_layers": 2}
    (source / "config.json").write_text(json.dumps(config))
    assert kv_bytes_per_token(source) == 2 * 2 * 2 * 64 * 2
    one, four = decode_step(source, 1, 100), decode_step(source, 4, 100)
    assert one.weight_bytes == four.weight_bytes
    assert one.kv_bytes == 100 * kv_bytes_per_token(source) and four.kv_bytes == 4 * one.kv_bytes
    assert four.flops == 4 * one.flops
    table = tensors(source)
    everything = sum(t.nbytes for t in table.values())
    visual = sum(t.nbytes for name, t in table.items() if "visual" in name)
    looked_up = sum(t.nbytes for name, t in table.items() if "embed_tokens" in name)
    assert one.weight_bytes == everything - visual - looked_up
