"""Checkpoints that are not whole: shards against their index, tensors against the config, from the headers alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import demo
from harness.checkpoints import shards
from harness.checkpoints.headers import read_config, tensors
from harness.checkpoints.verify import servable_faults, verify
from harness.families import family_of
from harness.families.qwen3_vl import QWEN3_VL_8B
from tests.helpers import shapes

SECOND = "model-00002-of-00002.safetensors"
LAYER = "model.language_model.layers.1."


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The demo model, in a folder of its own."""
    return Path(shutil.copytree(demo.MODEL_DIR, tmp_path / "model"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A source of small shapes whose config says too little for its family's names."""
    return shapes.write_source(tmp_path / "own")


def lines(folder: Path) -> list[str]:
    found = [str(fault) for fault in servable_faults(folder)]
    assert set(found) <= {str(fault) for fault in verify(folder).faults}
    return found


def split(folder: Path, index: bool = True) -> list[str]:
    """Put a checkpoint's tensors into two shards; returns their names, in the order of the shards."""
    table = {name: (t.dtype, t.read()) for name, t in sorted(tensors(folder).items())}
    names, weights = list(table), {}
    (folder / "model.safetensors").unlink()
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        shapes.write_safetensors(folder / file, {name: table[name] for name in part})
        weights |= dict.fromkeys(part, file)
    if index:
        shapes.write_json(folder / shards.INDEX, {"weight_map": weights})
    return names


def test_a_family_knows_every_tensor_of_a_real_checkpoint(model: Path):
    """Against the demo, which transformers wrote, and the published size of the 8B."""
    wanted = family_of(read_config(model)).parameters(read_config(model))
    assert wanted == {name: tensor.shape for name, tensor in tensors(model).items()}
    config = QWEN3_VL_8B | {"model_type": "qwen3_vl"}
    sizes = family_of(config).parameters(config)
    assert sizes is not None and len(sizes) == 750
    assert sum(int(np.prod(shape)) for shape in sizes.values()) == 8_767_123_696
    assert lines(model) == []


def test_two_shards_with_their_index_are_whole(model: Path):
    split(model)
    assert lines(model) == []


def test_a_tensor_in_two_shards_is_refused_whichever_the_index_names(model: Path):
    names = split(model)
    first = model / "model-00001-of-00002.safetensors"
    table = {name: (t.dtype, t.read()) for name, t in tensors(model).items() if t.file == first}
    shapes.write_safetensors(first, table | {names[-1]: ("BF16", np.zeros(4))})
    (told,) = lines(model)
    assert told.startswith("model-00001-of-00002.safetensors and model-00002-of-00002.safetensors: both hold " + names[-1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda f: (f / "model-00002-of-00002.safetensors").unlink(),
            "names model-00002-of-00002.safetensors, which is not there",
        ),
        (lambda f: shutil.copy(demo.MODEL_DIR / "model.safetensors", f), "model.safetensors: stands beside the shards"),
        (lambda f: (f / shards.INDEX).unlink(), "missing beside several safetensors files"),
        (lambda f: (f / shards.INDEX).write_text("{"), "model.safetensors.index.json: is not JSON"),
        (lambda f: (f / shards.INDEX).write_text('{"weight_map": [1]}'), "is no weight index"),
    ],
)
def test_an_index_and_shards_that_do_not_belong_together(model: Path, change: Any, told: str):
    split(model)
    change(model)
    found = lines(model)
    assert told in found[0] and len(found) == 1


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (lambda n: n.startswith(LAYER), f"11 that config.json asks for are missing: {LAYER}input_layernorm.weight"),
        (lambda n: n == "lm_head.weight", "1 that config.json asks for are missing: lm_head.weight"),
        (lambda n: n.endswith("language_model.norm.weight"), "are missing: model.language_model.norm.weight"),
        (lambda n: n == "model.visual.blocks.0.attn.qkv.bias", "are missing: model.visual.blocks.0.attn.qkv.bias"),
    ],
)
def test_a_tensor_that_is_not_there(model: Path, lost: Any, told: str):
    shapes.edit_tensors(model, lambda table: [table.pop(name) for name in list(table) if lost(name)])
    (found,) = lines(model)
    assert told in found


def test_tensors_that_the_config_does_not_ask_for_and_other_shapes(model: Path):
    shapes.edit_config(model, lambda c: c["text_config"].update(num_hidden_layers=3, vocab_size=700))
    found = lines(model)
    assert "11 that config.json does not ask for: model.language_model.layers.3.input_layernorm.weight" in found[0]
    assert "lm_head.weight: has shape [768, 256], config.json asks for [700, 256]" in found


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (lambda n: ".layers.1." in n, "decoder layers are missing: model.language_model.layers.1"),
        (lambda n: n.endswith("layers.1.self_attn.o_proj.weight"), "1 that other decoder layers have are missing"),
        (lambda n: n.endswith("layers.1.self_attn.q_proj.weight"), "has k_proj, v_proj and no q_proj, which a server joins"),
        (lambda n: n == "lm_head.weight", "lm_head.weight: missing, and config.json does not tie it"),
    ],
)
def test_a_family_that_is_not_known_is_judged_by_its_layers(own: Path, lost: Any, told: str):
    shapes.edit_config(own, lambda c: c.update(model_type="of_another_family", architectures=["XForConditionalGeneration"]))
    assert lines(own) == []
    shapes.edit_tensors(own, lambda table: [table.pop(name) for name in list(table) if lost(name)])
    assert any(told in line for line in lines(own)), lines(own)


def test_layers_of_several_kinds_are_not_held_against_each_other(own: Path):
    kinds = {"layer_types": ["full_attention", "linear_attention"]}
    shapes.edit_config(own, lambda c: c.update(model_type="of_another_family", text_config=c["text_config"] | kinds))
    shapes.edit_tensors(own, lambda table: table.pop("model.language_model.layers.1.self_attn.o_proj.weight"))
    assert lines(own) == []


# --- formats


def groups(folder: Path, **fields: Any) -> None:
    def change(config: dict[str, Any]) -> None:
        section = config["quantization_config"]
        section.update(fields)

    shapes.edit_config(folder, change)


def weights_of(folder: Path) -> dict[str, Any]:
    group: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    return group["weights"]


def test_groups_of_several_widths_are_judged_each_by_its_own(packed: Path):
    def widen(table: dict[str, Any]) -> None:
        for name in [n for n in table if n.endswith("down_proj.weight_packed")]:
            table[name] = ("I32", np.repeat(table[name][1], 2, axis=1))

    four, eight = weights_of(packed), weights_of(packed) | {"num_bits": 8}
    shapes.edit_tensors(packed, widen)
    assert "4 bit of [256, 512] take [256, 64]" in lines(packed)[0]
    rest = {"targets": ["Linear"], "weights": four}
    groups(packed, config_groups={"a": rest, "b": {"targets": ["re:.*down_proj$"], "weights": eight}})
    assert lines(packed) == []


FORMATS = {
    "float-quantized": ({"num_bits": 8, "type": "float", "strategy": "channel"}, "F8_E4M3", 1, False),
    "int-quantized": ({"num_bits": 8, "type": "int", "strategy": "channel"}, "I8", 1, False),
    "nvfp4-pack-quantized": ({"num_bits": 4, "type": "float", "group_size": 16, "strategy": "tensor_group"}, "U8", 2, True),
    "mxfp4-pack-quantized": ({"num_bits": 4, "type": "float", "group_size": 32, "strategy": "group"}, "U8", 2, True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_beside_packed_integers(packed: Path, name: str):
    args, dtype, a_byte, packs = FORMATS[name]

    def rewrite(table: dict[str, Any]) -> None:
        for one in [n.removesuffix(".weight_packed") for n in table if n.endswith(".weight_packed")]:
            n, k = (int(v) for v in table[f"{one}.weight_shape"][1])
            for ending in (".weight_packed", ".weight_shape", ".weight_scale"):
                table.pop(one + ending)
            table[f"{one}.weight_packed" if packs else f"{one}.weight"] = (dtype, np.ones((n, k // a_byte)))
            size = args.get("group_size")
            table[f"{one}.weight_scale"] = ("U8" if size else "BF16", np.ones((n, k // size if size else 1)))
            if name.startswith("nvfp4"):
                table[f"{one}.weight_global_scale"] = ("F32", np.ones(1))

    shapes.edit_tensors(packed, rewrite)
    groups(packed, format=name, config_groups={"g": {"targets": ["Linear"], "weights": args, "format": name}})
    assert lines(packed) == []
    one = "model.language_model.layers.0.self_attn.q_proj"
    shapes.edit_tensors(packed, lambda table: table.update({f"{one}.weight_scale": ("BF16", np.ones((3, 1)))}))
    assert any(f"{one}.weight_scale: has shape [3, 1]" in line for line in lines(packed))
    shapes.edit_tensors(packed, lambda table: table.pop(f"{one}.weight_scale"))
    assert any(f"{one}.weight_scale: missing beside {name} weights" in line or "not packed" in line for line in lines(packed))


def test_what_is_not_judged_is_said(packed: Path):
    groups(packed, format="of-tomorrow")
    shapes.edit_config(packed, lambda c: c["quantization_config"]["config_groups"]["group_0"].pop("format", None))
    report = verify(packed)
    assert report.faults == [] and report.notes == ["tensors of the format 'of-tomorrow' are not judged"]
    shapes.edit_config(packed, lambda c: c.update(quantization_config={"quant_method": "gptq", "bits": 4}))
    assert verify(packed).notes == ["the tensors of a section by 'gptq' are not judged: vLLM reads it by itself"]


# --- chat templates


def test_the_template_that_is_used_is_the_one_vllm_takes(model: Path):
    from harness.checkpoints import chat_template

    text = (model / "chat_template.jinja").read_text()
    assert [t.file for t in chat_template.templates(model)] == ["chat_template.jinja"]
    shapes.write_json(model / "chat_template.json", {"chat_template": "{{ messages[0] }}"})
    used = chat_template.used(model)
    assert used is not None and (used.file, used.text) == ("chat_template.json", "{{ messages[0] }}")
    note = "vLLM will use the chat template in chat_template.json; chat_template.jinja holds another"
    assert verify(model).notes == [note] and lines(model) == []
    shapes.write_json(model / "chat_template.json", {"chat_template": text})
    assert verify(model).notes == []


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("chat_template.jinja", None, "chat template: there is none in chat_template.jinja"),
        ("chat_template.jinja", "{% for m in messages %}", "chat_template.jinja: is no Jinja template: line 1"),
        ("chat_template.json", "{", "chat_template.json: is not JSON"),
        ("chat_template.json", "{}", "chat_template.json: has no chat_template"),
    ],
)
def test_a_template_that_no_server_can_use_is_refused(model: Path, name: str, content: str | None, told: str):
    (model / name).unlink() if content is None else (model / name).write_text(content)
    assert any(told in line for line in lines(model)), lines(model)


def test_a_tokenizers_own_template_counts_where_there_is_no_other(model: Path):
    from harness.checkpoints import chat_template

    (model / "chat_template.jinja").unlink()
    config = json.loads((model / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": "{{ 1 }}"}, {"name": "tools", "template": "{{ 2 }}"}]
    for template in ("{{ 1 }}", named):
        shapes.write_json(model / "tokenizer_config.json", config | {"chat_template": template})
        used = chat_template.used(model)
        assert used is not None and (used.file, used.text) == ("tokenizer_config.json", "{{ 1 }}")
