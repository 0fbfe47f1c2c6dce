from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checkpoints.patterns import propose
from quantize.fit import linears, offered_observers, packed_bytes, plan_recipe
from quantize.methods.awq import Smoothing
from quantize.recipe import Calibration
from tests.helpers import shapes
from tests.helpers.recipes import recipe

NAMES = sorted(n.removesuffix(".weight") for n in shapes.qwen3_vl())


def faults(source: Path, target: str | None = "cpu", **fields: object) -> list[str]:
    return [str(f) for f in plan_recipe(source, recipe(**fields), target)[0]]


def test_the_default_recipe_fits(source: Path):
    found, facts = plan_recipe(source, recipe(), "cpu")
    assert found == []
    assert facts.linears == {"lm_head": 1, "language": 14, "visual": 12}
    assert facts.packed == 14
    assert [(m.resolved, m.skipped) for m in facts.mappings] == [(2, 0)] * 3
    assert {i.pattern: i.by_part for i in facts.ignore} == {
        "re:.*visual.*": {"visual": 20},
        "lm_head": {"lm_head": 1},
        "re:.*embed_tokens$": {"embeddings": 1},
    }
    assert [i.linears for i in facts.ignore] == [12, 1, 0] and facts.packed + 12 + 1 == sum(facts.linears.values())
    assert facts.kernels == {"CPUWNA16LinearKernel": 14}


def test_a_group_size_that_divides_nothing_names_layer_size_and_what_would(source: Path):
    (line,) = faults(source, group_size=96)
    assert "in_features" in line and "model.language_model.layers.0." in line
    assert re.search(r"in_features (256|512)", line)
    assert "16, 32, 64, 128, 256" in line


@pytest.mark.parametrize("target", ["ampere", "hopper"])
def test_what_packs_without_a_kernel_is_another_reason(source: Path, target: str):
    for size in (16, 256):
        (line,) = faults(source, target, group_size=size)
        assert "packs, but no kernel" in line and "-1, 32, 64, 128" in line
    expected = {"ampere": ["Marlin"] * 3, "hopper": ["Marlin", "Machete", "Machete"]}[target]
    for size, kernel in zip((32, 64, 128), expected, strict=True):
        found, facts = plan_recipe(source, recipe(group_size=size), target)
        assert found == [] and facts.kernels == {f"{kernel}LinearKernel": 14}


def test_an_ignore_pattern_that_matches_nothing_shows_a_name_and_a_pattern(source: Path):
    lines = faults(source, ignore=["re:visual.*", "lm_head"])
    assert "'re:visual.*'" in lines[0] and "model.visual.blocks.0" in lines[0] and "re:.*visual.*" in lines[0]
    assert any("12 visual Linears would be packed" in line for line in lines)


@pytest.mark.parametrize(
    ("pattern", "proposal"),
    [
        ("re:visual.*", "re:.*visual.*"),
        ("model.visaul", "re:.*visual.*"),
        ("re:.*vision.*", "re:.*visual.*"),
        ("lm_haed", "re:.*lm_head$"),
        ("embed_token", "re:.*embed_token"),
        ("re:^mlp.*", "re:.*mlp.*"),
    ],
)
def test_proposals_are_near_and_match(pattern: str, proposal: str):
    real, found = propose(pattern, NAMES)
    assert found == proposal and real in NAMES
    assert any(re.match(found.removeprefix("re:"), n) for n in NAMES)


@settings(deadline=None)
@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_.*[]()0123456789", min_size=1, max_size=30), st.booleans())
def test_a_proposal_always_matches_something(text: str, regex: bool):
    real, found = propose(("re:" if regex else "") + text, NAMES)
    assert real in NAMES
    assert any(re.match(found.removeprefix("re:"), name) for name in NAMES)


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 40))
def test_any_tail_of_a_name_leads_to_a_pattern_that_matches_that_name(name: str, cut: int):
    tail = name[cut % len(name) :].lstrip(".") or name
    found = propose("re:" + re.escape(tail) + "$", NAMES)[1]
    assert any(re.match(found.removeprefix("re:"), n) for n in NAMES)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["re:.*visual.*", "lm_head", "re:.*embed_tokens$", "re:.*q_proj$", "re:.*layers.0.*"]), unique=True
    )
)
def test_ignored_and_packed_are_the_linears_together(source: Path, patterns: list[str]):
    _, facts = plan_recipe(source, recipe(ignore=patterns), None)
    kept = [
        one
        for one in linears(source)
        if any(re.match(p.removeprefix("re:"), one.name) if p.startswith("re:") else p == one.name for p in patterns)
    ]
    assert facts.packed + len(kept) == sum(facts.linears.values())


@settings(deadline=None)
@given(st.integers(1, 1024))
def test_a_group_size_fits_when_it_divides_every_layer(source: Path, size: int):
    refused = any("does not divide" in line for line in faults(source, None, group_size=size))
    assert refused == any(one.in_features % size for one in linears(source) if one.part == "language")


@settings(deadline=None)
@given(st.sampled_from([-1, 32, 64, 128]), st.booleans(), st.sampled_from([4, 8]))
def test_smaller_groups_and_zero_points_only_add_bytes(source: Path, size: int, symmetric: bool, bits: int):
    one = next(x for x in linears(source) if x.part == "language")
    bytes_ = packed_bytes(recipe(group_size=size, symmetric=symmetric, num_bits=bits), one)
    floor = one.in_features * one.out_features * bits // 8
    assert floor < bytes_ < floor * 1.5
    assert bytes_ <= packed_bytes(recipe(group_size=32, symmetric=False, num_bits=bits), one)


def test_a_mapping_of_v_to_o_is_skipped_under_grouped_query_attention(source: Path):
    found, facts = plan_recipe(
        source, recipe(mappings=[*recipe().mappings, Smoothing(smooth="re:.*v_proj$", balance=["re:.*o_proj$"])])
    )
    assert (facts.mappings[3].resolved, facts.mappings[3].skipped) == (0, 2)
    assert "128 vs 256" in facts.mappings[3].reason
    assert ["resolves to no layer" in str(f) for f in found] == [True]


def test_a_mapping_that_reaches_the_vision_tower_is_refused(source: Path):
    (line,) = faults(source, mappings=[{"smooth": "re:.*norm1$", "balance": ["re:.*qkv$"]}])
    assert "vision tower" in line


def test_a_broken_pattern_is_one_line(source: Path):
    lines = faults(source, ignore=["re:.*visual.*", "lm_head", "re:.*(embed"])
    assert len(lines) == 1 and "not a regular expression" in lines[0]


def test_faults_come_together(source: Path):
    lines = faults(
        source,
        group_size=96,
        ignore=["re:.*visual.*", "lm_head", "re:head"],
        mappings=[{"smooth": "re:nothing", "balance": ["re:.*q_proj$"]}],
    )
    assert len(lines) == 3


def test_a_folder_that_is_no_checkpoint_is_a_fault(tmp_path: Path):
    assert "no config.json" in faults(tmp_path)[0]
    shapes.write_json(tmp_path / "config.json", {})
    assert "no .safetensors" in faults(tmp_path)[0]
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert "not a whole safetensors file" in faults(tmp_path)[0]


def test_a_quantized_source_is_refused(source: Path, tmp_path: Path):
    lines = faults(shapes.write_quantized(tmp_path / "q", source))
    assert any("is quantized already" in line for line in lines)


def test_a_tied_head_may_be_ignored_by_name(tmp_path: Path):
    assert faults(shapes.write_source(tmp_path / "tied", tie=True)) == []


def test_observers_are_asked_of_the_other_environment(source: Path, tmp_path: Path):
    package = tmp_path / "lib/python3.11/site-packages/llmcompressor/observers"
    package.mkdir(parents=True)
    (package / "min_max.py").write_text('@Observer.register("minmax", alias=["memoryless_minmax"])\nclass A: ...\n')
    (package / "mse.py").write_text("@Observer.register('mse')\nclass B: ...\n")
    interpreter = tmp_path / "bin" / "python"
    assert offered_observers(interpreter) == ["memoryless_minmax", "minmax", "mse"]
    (fault,), _ = plan_recipe(source, recipe(observer="mze"), interpreter=interpreter)
    assert "perhaps 'mse'" in str(fault)
    assert offered_observers(tmp_path / "nowhere" / "bin" / "python") == []


def test_the_8b_model_is_planned_from_headers_in_a_moment(tmp_path: Path):
    table = shapes.qwen3_vl(
        hidden=4096,
        mlp=12288,
        layers=36,
        heads=32,
        kv_heads=8,
        head_dim=128,
        vocabulary=151936,
        vision=1152,
        vision_mlp=4304,
        blocks=27,
        mergers=3,
    )
    shapes.write_header(tmp_path / "model.safetensors", table)
    shapes.write_json(tmp_path / "config.json", shapes.config(hidden=4096, mlp=12288, layers=36))
    start = time.perf_counter()
    found, facts = plan_recipe(tmp_path, recipe(), "hopper", Calibration(samples=128, max_seq_length=2048))
    assert time.perf_counter() - start < 1
    assert found == [] and facts.kernels == {"MacheteLinearKernel": 252}
    assert 16.5e9 < facts.source_bytes < 17.6e9 and 6.3e9 < facts.expected_bytes < 7.7e9
    assert facts.calibration_host_bytes > facts.source_bytes and facts.calibration_device_bytes > 2**30
    (line,) = [str(f) for f in plan_recipe(tmp_path, recipe(ignore=["lm_head"]))[0] if "packed" in str(f)]
    assert "visual" in line
