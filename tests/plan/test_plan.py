"""A plan: what is refused, all at once and before anything is written; what keys depend on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from harness.plan.plan import make_plan
from harness.suite.schema import Workloads, load_suite
from harness.util import environments
from harness.util.errors import Refused
from harness.util.files import file_sha256
from harness.workloads import kinds
from tests.helpers import shapes
from tests.helpers.records import ROOT

SUITE = """\
name: s
model: {model}
variants:
  bf16: {}
workloads:
  accuracy:
    tasks: [demo_vl]
"""
INT4 = SUITE.replace("  bf16: {}\n", "  bf16: {}\n  int4:\n    recipe: {group_size: 128}\n")


@pytest.fixture
def fake_quantize(monkeypatch, tmp_path):
    """An interpreter that stands for the quantize environment where only its versions are asked."""
    site = tmp_path / "q" / "lib" / "python3.11" / "site-packages"
    for name, version in (("llmcompressor", "0.14.0.1"), ("torch", "2.13.0"), ("compressed-tensors", "0.19.0")):
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    python = tmp_path / "q" / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setenv("HARNESS_QUANTIZE_PYTHON", str(python))
    environments.quantize.cache_clear()
    yield python
    environments.quantize.cache_clear()


def plan(path, tmp_path, *overrides, only=None):
    return make_plan(load_suite(path, overrides), tmp_path / "checkpoints", only)


def told(path, tmp_path, *overrides, only=None) -> str:
    return "\n".join(str(f) for f in plan(path, tmp_path, *overrides, only=only).faults)


def test_workloads_of_the_suite_and_those_that_exist_are_the_same():
    # Divergence is asked for by a key of accuracy.
    assert [*Workloads.model_fields, "divergence"] == list(kinds())


def test_a_plan_has_a_keyed_cell_for_each_task_and_writes_nothing(write_suite, tmp_path):
    made = plan(write_suite(SUITE), tmp_path)
    assert not made.faults
    assert [c.label for c in made.cells][:2] == ["bf16/accuracy/demo_vl_digits", "bf16/accuracy/demo_vl_text"]
    assert len({c.id.key for c in made.cells}) == 5
    assert not (tmp_path / "checkpoints").exists()


def test_two_models_never_share_a_key(write_suite, tmp_path, checkpoint):
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    (other / "config.json").write_text((other / "config.json").read_text().replace("{", "{ ", 1))
    suite = SUITE.replace("bf16: {}", "bf16: {}\n  other: {checkpoint: " + str(other) + "}")
    made = plan(write_suite(suite), tmp_path)
    assert len({c.id.key for c in made.cells}) == 10


@pytest.mark.parametrize(
    "override",
    [
        "engine.max_num_seqs=8",
        "engine.enforce_eager=true",
        "workloads.accuracy.limit=7",
        "workloads.accuracy.concurrency=1",
        "engine.extra_args=[--x]",
        "engine.env={A: b}",
    ],
)
def test_whatever_can_change_the_outcome_changes_the_key(write_suite, tmp_path, override):
    path = write_suite(SUITE)
    assert plan(path, tmp_path).cells[0].id.key != plan(path, tmp_path, override).cells[0].id.key


@pytest.mark.parametrize("override", ["engine.start_timeout_s=5", "name=other"])
def test_what_cannot_change_it_does_not(write_suite, tmp_path, override):
    path = write_suite(SUITE)
    assert plan(path, tmp_path).cells[0].id.key == plan(path, tmp_path, override).cells[0].id.key


def test_a_variant_that_is_to_be_built_has_no_key_yet(write_suite, tmp_path, fake_quantize):
    made = plan(write_suite(INT4), tmp_path)
    assert not made.faults
    assert [v.name for v in made.to_build()] == ["int4"]
    assert made.variants[1].fit.packed == 14
    unbuilt = made.of("int4")
    assert unbuilt and all(c.identity is None for c in unbuilt)


def test_group_sizes_patterns_and_settings_are_refused_together(write_suite, tmp_path, fake_quantize):
    text = INT4.replace("group_size: 128", "group_size: 96, ignore: ['re:visual.*', lm_head]").replace(
        "tasks: [demo_vl]", "tasks: [demo_vl_text]\n    apply_chat_template: false\n    num_fewshot: 5"
    )
    found = told(write_suite(text), tmp_path)
    assert "96" in found and "32, 64, 128" in found and "language_model.layers.0" in found
    assert "re:visual.*" in found and "model.visual" in found and "re:.*visual.*" in found
    assert "apply_chat_template: is false" in found
    assert "num_fewshot: is 5" in found


def test_a_quantize_interpreter_that_is_missing_says_how_to_make_it(write_suite, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_QUANTIZE_PYTHON", str(tmp_path / "none"))
    environments.quantize.cache_clear()
    found = told(write_suite(INT4), tmp_path)
    environments.quantize.cache_clear()
    assert "no interpreter of the quantize environment" in found and "make .venv-quantize" in found
    monkeypatch.setenv("HARNESS_QUANTIZE_PYTHON", "/bin/true")
    assert "has no llmcompressor" in told(write_suite(INT4), tmp_path)
    environments.quantize.cache_clear()


@pytest.mark.parametrize(
    ("model", "right"),
    [
        ("nowhere", "name a checkpoint folder, `demo`"),
        ("Qwen/Qwen3-VL-8B-Instruct", "python -m harness fetch model Qwen/Qwen3-VL-8B-Instruct"),
    ],
)
def test_a_model_that_is_not_there_says_how_to_get_it(write_suite, tmp_path, model, right):
    with pytest.raises(Refused, match="there is no such folder") as caught:
        plan(write_suite(SUITE.replace("{model}", model)), tmp_path)
    assert right in str(caught.value)


def test_a_folder_that_is_no_checkpoint(write_suite, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused) as caught:
        plan(write_suite(SUITE.replace("{model}", str(tmp_path / "empty"))), tmp_path)
    assert [f.what for f in caught.value.faults] == [
        "is no checkpoint: it has no config.json",
        "is no checkpoint: it has no .safetensors file",
    ]


def test_a_model_that_is_not_there_hides_no_other_fault(write_suite, tmp_path):
    text = (
        SUITE.replace("{model}", "nowhere").replace("demo_vl", "demo_v").replace("bf16: {}", "bf16: {}\n  x: {checkpoint: y}")
    )
    with pytest.raises(Refused) as caught:
        plan(write_suite(text), tmp_path, "engine.extra_args=[--port=1]")
    said = [str(f) for f in caught.value.faults]
    assert len(said) == 4 and said[0].startswith("model nowhere: there is no such folder")
    assert (
        "unknown task 'demo_v'" in said[1]
        and "--port=1" in said[2]
        and said[3].startswith("variants.x.checkpoint: y: there is no")
    )


def test_calibration_data_that_a_build_needs_and_that_are_not_there(write_suite, tmp_path, fake_quantize):
    found = told(write_suite(INT4), tmp_path, "calibration.dataset=./nowhere")
    assert found.startswith("calibration.dataset: ./nowhere: no such file or folder") and found.count("nowhere") == 1
    assert "fetch dataset o/none" in told(write_suite(INT4), tmp_path, "calibration.dataset=o/none")
    with pytest.raises(Refused, match=r"model nowhere: .*\n.*fetch dataset o/none"):
        plan(write_suite(INT4.replace("{model}", "nowhere")), tmp_path, "calibration.dataset=o/none")
    (tmp_path / "empty").mkdir()
    assert "holds neither a .jsonl nor" in told(write_suite(INT4), tmp_path, f"calibration.dataset={tmp_path / 'empty'}")
    # Where nothing is calibrated nothing is missed.
    rtn = INT4.replace("group_size: 128", "method: rtn, observer: minmax")
    assert told(write_suite(rtn), tmp_path, "calibration.dataset=./nowhere") == ""


def _invented(packed: Path) -> None:
    def change(config):
        config["quantization_config"]["config_groups"]["group_0"]["weights"]["invented"] = 1

    shapes.edit_config(packed, change)


def _without_section(packed: Path) -> None:
    shapes.edit_config(packed, lambda config: config.pop("quantization_config"))


def _nan(packed: Path) -> None:
    def change(table):
        name = next(n for n in table if n.endswith(".weight_scale"))
        table[name][1][0, 0] = float("nan")

    shapes.edit_tensors(packed, change)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_invented, "weights.invented: unknown to the installed compressed-tensors 0.17"),
        (_without_section, "missing, yet 14 Linears are packed"),
        (_nan, "values are NaN or Inf"),
        (lambda packed: (packed / "preprocessor_config.json").unlink(), "without it no server takes a picture"),
        (lambda packed: (packed / "tokenizer.json").write_text("{"), "is not a JSON object"),
        (lambda packed: shapes.edit_config(packed, lambda c: c.pop("architectures")), "names no architecture"),
        (lambda packed: shapes.edit_config(packed, lambda c: c.update(vision_config=None)), "vision_config: is no object"),
        (lambda packed: shapes.edit_config(packed, lambda c: c.update(quantization_config=[])), "quantization_config"),
    ],
)
def test_a_checkpoint_that_no_server_reads_is_refused_with_its_variant(write_suite, tmp_path, checkpoint, damage, said):
    packed = shapes.write_quantized(tmp_path / "packed", checkpoint)
    suite = write_suite(SUITE.replace("bf16: {}", "bf16: {}\n  mine: {checkpoint: " + str(packed) + "}"))
    assert told(suite, tmp_path) == ""
    damage(packed)
    found = told(suite, tmp_path)
    assert found.startswith(f"variants.mine.checkpoint: {packed}: ") and said in found


def test_two_checkpoints_that_are_not_there_are_not_one(write_suite, tmp_path):
    two = "bf16: {}\n  a: {checkpoint: x/m-int4}\n  b: {checkpoint: y/n-int4}"
    found = told(write_suite(SUITE.replace("bf16: {}", two)), tmp_path)
    assert found.count("there is no such folder") == 2 and "same checkpoint" not in found


def test_one_checkpoint_under_two_names_needs_repeat(write_suite, tmp_path):
    twins = SUITE.replace("bf16: {}", "bf16: {}\n  again: {}")
    assert "is the same checkpoint as bf16" in told(write_suite(twins), tmp_path)
    made = plan(write_suite(twins.replace("again: {}", "again: {repeat: 1}")), tmp_path)
    assert not made.faults and len({c.id.key for c in made.cells}) == 10


def test_only_keeps_the_cells_that_match(write_suite, tmp_path):
    path = write_suite(SUITE)
    assert [c.point["task"] for c in plan(path, tmp_path, only="*chart").cells] == ["demo_vl_chart"]
    assert "matches no Cell" in told(path, tmp_path, only="nothing")


def test_a_port_that_is_taken(write_suite, tmp_path):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port} is in use" in told(write_suite(SUITE), tmp_path, f"engine.port={port}")


def test_an_unknown_task_is_refused_once(write_suite, tmp_path):
    found = plan(write_suite(SUITE.replace("demo_vl", "demo_v")), tmp_path).faults
    assert len(found) == 1 and "unknown task 'demo_v'; did you mean 'demo_vl'?" in str(found[0])


@pytest.mark.parametrize("path", sorted((ROOT / "suites").rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_suite_that_ships_can_be_planned(path, tmp_path, fake_quantize, monkeypatch):
    if path.parent.name == "qwen3_vl_8b":  # they are for a GPU, which has kernels of its own
        monkeypatch.setattr("harness.plan.plan._generation", lambda: "hopper")
    assert told(path, tmp_path, "model=demo", "calibration={dataset: demo}") == ""


def test_the_cache_of_content_hashes_sees_a_change(write_suite, tmp_path, checkpoint):
    from harness.checkpoints.locate import content_hash

    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    before = content_hash(copy)
    (copy / "generation_config.json").write_text('{"temperature": 0.1}')
    assert content_hash(copy) != before


def test_one_recipe_under_two_names_is_refused_before_it_is_built_twice(write_suite, tmp_path, fake_quantize):
    twins = INT4.replace("  int4:\n", "  int4:\n    recipe: {group_size: 128}\n  twin:\n")
    assert "variants.twin: is the same checkpoint as int4" in told(write_suite(twins), tmp_path)


def test_a_product_that_is_not_what_its_manifest_says(write_suite, tmp_path, fake_quantize, checkpoint):
    path = plan(write_suite(INT4), tmp_path).variants[1].path
    shapes.write_quantized(path, checkpoint)
    assert "has no manifest.json" in told(write_suite(INT4), tmp_path)
    listed = {p.name: {"sha256": file_sha256(p)} for p in path.iterdir()}
    (path / "manifest.json").write_text(json.dumps({"files": listed}))
    made = plan(write_suite(INT4), tmp_path)
    assert not made.faults and made.variants[1].built
    weights = path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 255
    weights.write_bytes(data)
    found = told(write_suite(INT4), tmp_path)
    assert "is not what its manifest.json says" in found and "--force" in found


def test_weights_that_are_cut_short(write_suite, tmp_path, checkpoint):
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(Refused, match="not a whole safetensors file"):
        plan(write_suite(SUITE.replace("{model}", str(copy))), tmp_path)


def test_a_suite_that_measures_nothing_and_arguments_that_are_the_harness_s(write_suite, tmp_path):
    assert "nothing would be measured" in told(write_suite(SUITE), tmp_path, "workloads={}")
    assert "--port=1 is set by the harness" in told(write_suite(SUITE), tmp_path, "engine.extra_args=[--port=1]")


def test_accuracy_of_random_weights_is_refused_and_their_memory_is_not(write_suite, tmp_path, checkpoint):
    marked = shutil.copytree(checkpoint, tmp_path / "shape")
    (marked / "random_weights.json").write_text('{"shape": "T"}')
    text = SUITE.replace("{model}", str(marked))
    said = told(write_suite(text), tmp_path)
    assert said.startswith("variants.bf16: has random weights, so its accuracy means nothing")
    planned = plan(write_suite(text.replace("accuracy:\n    tasks: [demo_vl]", "memory: {}")), tmp_path)
    assert planned.faults == [] and planned.random_weights("bf16")


def test_a_shape_is_one_switch_and_is_calibrated_on_what_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = load_suite(ROOT / "suites" / "qwen3_vl_8b" / "speed.yaml", ["model={shape: qwen3_vl_8b}"])
    assert suite.calibration.dataset == "demo"
    with pytest.raises(Refused, match="make it: python -m harness shape qwen3_vl_8b"):
        make_plan(suite, tmp_path / "checkpoints")
