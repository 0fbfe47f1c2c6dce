"""Model families: names on disk and in the model, every tensor of a config, and what a plan makes of them from headers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from harness.checkpoints.headers import read_config, tensors
from harness.checkpoints.verify import verify
from harness.families import FAMILIES, Family, family_of
from quantize.fit import plan_recipe
from quantize.recipe import recipe_of
from tests.helpers import shapes

TINY = {name: family for family in FAMILIES for name, sizes in family.shapes.items() if sizes.tiny}
LLAVA = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.image_newline": "image_newline",
    "lm_head.": "language_model.lm_head.",
}
QWEN2 = {"model.language_model.": "model.", "model.visual.": "visual."}
STORED: dict[str, dict[str, str]] = {
    "qwen2_5_vl": QWEN2,
    "qwen2_vl": QWEN2,
    "internvl": LLAVA,
    "mistral3": LLAVA,
    "llava_onevision": LLAVA | {"model.vision_tower.": "vision_tower.vision_model."},
    "gemma3": LLAVA | {"model.vision_tower.": "vision_tower.vision_model."},
}
"""Where a family's checkpoints, as they are published, have other names than the loaded model: beginnings of names."""
PACKED = {"qwen3_5": 16, "glm4v": 12}
"""Linears that a recipe packs, by family; 14 of two layers elsewhere."""


def stored_as(family: Family, module: str) -> str:
    """A tensor's name on disk."""
    for begin, put in STORED.get(family.name, {}).items():
        if module.startswith(begin):
            return put + module.removeprefix(begin)
    return module


def checkpoint(folder: Path, name: str) -> Path:
    """Headers of a tiny shape as it would be published, with the files beside them."""
    family = TINY[name]
    config = {**family.shapes[name].config, "model_type": family.model_types[0], "architectures": [family.classes[1]]}
    wanted = family.parameters(config)
    assert wanted is not None
    folder.mkdir()
    shapes.write_json(folder / "config.json", config)
    shapes.write_header(folder / "model.safetensors", {stored_as(family, one): shape for one, shape in wanted.items()})
    for file, content in shapes.SIDE_FILES.items():
        shapes.write_json(folder / file, content)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.mark.parametrize("name", TINY)
def test_the_tensors_of_a_family_are_those_that_transformers_makes(name, monkeypatch):
    from harness.util import environments

    environments.prepare_imports()
    import torch
    import transformers

    family = TINY[name]
    config_class, model_class = (getattr(transformers, one) for one in family.classes)
    config = config_class(**family.shapes[name].config)
    with torch.device("meta"):
        model = model_class(config)
    made = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if config.get_text_config().tie_word_embeddings:
        del made["lm_head.weight"]
    assert family.parameters(json.loads(config.to_json_string())) == made


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen3_vl_8b", 8.767123696),
        ("qwen3_vl_4b", 4.437815808),
        ("qwen2_5_vl_7b", 8.292166656),
        ("qwen3_vl_30b_a3b", 31.070754032),
        ("internvl3_8b", 7.944373760),
    ],
)
def test_real_sizes_have_as_many_parameters_as_the_published_models(name, billions):
    (family,) = [one for one in FAMILIES if name in one.shapes]
    wanted = family.parameters(family.shapes[name].config)
    assert wanted is not None and sum(map(math.prod, wanted.values())) == round(billions * 1e9)


@pytest.mark.parametrize("name", [name for name, family in TINY.items() if not family.unbuilt])
@pytest.mark.parametrize("method", ["awq", "rtn"])
def test_a_recipe_packs_the_language_model_alone(tmp_path, name, method):
    source, family = checkpoint(tmp_path / "source", name), TINY[name]
    faults, facts = plan_recipe(source, recipe_of({"method": method, "group_size": 32}))
    assert faults == [] and facts.packed == PACKED.get(family.name, 14)
    assert facts.expected_bytes < facts.source_bytes
    if method == "awq":
        assert len(facts.mappings) == len(family.mappings) and all(one.resolved and not one.skipped for one in facts.mappings)


@pytest.mark.parametrize("name", TINY)
def test_what_is_missing_is_told_without_a_source(tmp_path, name):
    source, family = checkpoint(tmp_path / "source", name), TINY[name]
    assert not [fault for fault in verify(source).faults if "missing" in fault.what or "not ask" in fault.what]
    table = {one.name: one.shape for one in tensors(source).values()}
    assert set(tensors(source)) == set(family.parameters(read_config(source)) or ())
    last = [one for one in table if ".1." in family.module_of(one)]
    language = next(one for one in last if family.part_of(family.module_of(one)) == "language")
    visual = next(one for one in last if family.part_of(family.module_of(one)) == "visual")
    for lost in (language, visual):
        shapes.write_header(source / "model.safetensors", {one: shape for one, shape in table.items() if one != lost})
        told = [str(fault) for fault in verify(source).faults]
        assert any("missing" in line and family.module_of(lost) in line for line in told), told


def test_a_mixture_of_experts_and_an_unknown_family_are_not_built_and_say_why(tmp_path):
    source = checkpoint(tmp_path / "moe", "qwen3_vl_moe_tiny")
    (fault,), _ = plan_recipe(source, recipe_of({"method": "awq"}))
    assert "'qwen3_vl_moe': cannot be quantized here: its experts are tensors of three dimensions" in str(fault)
    other = shapes.write_source(tmp_path / "other")
    shapes.edit_config(other, lambda config: config.update(model_type="quite_new_vl"))
    (fault,), _ = plan_recipe(other, recipe_of({"method": "rtn"}))
    assert "'quite_new_vl': cannot be quantized here: no file in harness/families/ says" in str(fault)
    assert not family_of({"model_type": "quite_new_vl"}).known


@pytest.mark.parametrize(
    ("family", "stored", "module"),
    [
        ("qwen2_5_vl", "model.layers.3.self_attn.q_proj.weight", "model.language_model.layers.3.self_attn.q_proj.weight"),
        ("qwen2_5_vl", "visual.merger.mlp.0.bias", "model.visual.merger.mlp.0.bias"),
        ("qwen2_5_vl", "model.language_model.norm.weight", "model.language_model.norm.weight"),
        ("qwen2_5_vl", "lm_head.weight", "lm_head.weight"),
        ("gemma3", "vision_tower.vision_model.post_layernorm.bias", "model.vision_tower.post_layernorm.bias"),
        ("gemma3", "vision_tower.post_layernorm.bias", "model.vision_tower.post_layernorm.bias"),
        ("internvl", "language_model.lm_head.weight", "lm_head.weight"),
        ("internvl", "language_model.model.norm.weight", "model.language_model.norm.weight"),
        ("idefics3", "model.text_model.norm.weight", "model.text_model.norm.weight"),
    ],
)
def test_names_on_disk_become_those_of_the_loaded_model(family, stored, module):
    (one,) = [one for one in FAMILIES if one.name == family]
    assert one.module_of(stored) == module and one.module_of(module) == module


def test_a_window_and_a_linear_attention_attend_to_less():
    gemma, hybrid = family_of({"model_type": "gemma3"}), family_of({"model_type": "qwen3_5"})
    assert gemma.attended({"num_hidden_layers": 6, "sliding_window": 1024}, 4096) == 5 * 1024 + 4096
    assert hybrid.attended({"layer_types": ["linear_attention"] * 3 + ["full_attention"]}, 100) == 100
