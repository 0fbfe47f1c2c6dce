from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.checkpoints.headers import tensors as read_tensors
from harness.checkpoints.readable import readable
from harness.checkpoints.verify import servable_faults, storage, structure, verify
from quantize.methods.noise import write as write_noise
from tests.helpers import shapes
from tests.helpers.recipes import recipe

Q = "model.language_model.layers.0.self_attn.q_proj"


def lines(folder: Path, source: Path | None) -> list[str]:
    return [str(f) for f in verify(folder, source).faults]


@pytest.mark.parametrize(("group", "symmetric"), [(128, True), (32, True), (-1, True), (128, False)])
def test_a_good_checkpoint_has_no_fault(source: Path, tmp_path: Path, group: int, symmetric: bool):
    folder = shapes.write_quantized(tmp_path / "q", source, group, symmetric)
    report = verify(folder, source)
    assert report.faults == [] and verify(folder).faults == [] and verify(source, source).faults == []
    assert report.structure is not None and report.storage is not None
    assert report.structure.packed == {"language": 14} and report.structure.plain == {"lm_head": 1, "visual": 12}
    assert (report.structure.num_bits, report.structure.group_size, report.structure.symmetric) == (4, group, symmetric)
    assert report.storage.safetensors_files == 1 and report.storage.total_bytes > report.storage.safetensors_bytes


def test_structure_and_storage_alone(source: Path, packed: Path):
    assert structure(source).packed == {} and structure(source).plain["language"] == 14
    assert storage(packed).total_bytes < storage(source).total_bytes


def test_every_fault_of_the_acceptance_list_in_one_pass(source: Path, packed: Path):
    def tensors(table: dict[str, Any]) -> None:
        table[f"{Q}.weight_zero_point"] = ("I32", np.zeros((32, 2)))
        scale = table["model.language_model.layers.1.mlp.up_proj.weight_scale"][1].copy()
        scale[3, 1] = np.nan
        table["model.language_model.layers.1.mlp.up_proj.weight_scale"] = ("BF16", scale)
        table["model.language_model.extra_table.weight"] = ("BF16", np.zeros((320, 256)))

    def config(content: dict[str, Any]) -> None:
        section = content["quantization_config"]
        section["ignore"] = [n.removeprefix("model.") for n in section["ignore"] if not n.startswith("re:")]

    shapes.edit_tensors(packed, tensors)
    shapes.edit_config(packed, config)
    (packed / "preprocessor_config.json").unlink()
    found = lines(packed, source)
    for part in (
        "does not cover 13 Linears",
        "entries match no module: visual.blocks.0",
        "preprocessor_config.json: missing",
        "zero point in a symmetric scheme",
        "up_proj.weight_scale: 1 of 1024 values are NaN",
        "second embedding-sized tensor",
    ):
        assert sum(part in line for line in found) == 1, (part, found)


def test_a_deleted_section_is_a_fault(source: Path, packed: Path):
    shapes.edit_config(packed, lambda c: c.pop("quantization_config"))
    assert any("missing, yet 14 Linears are packed" in line for line in lines(packed, source))


def test_a_section_without_packed_tensors_is_a_fault(source: Path, packed: Path, tmp_path: Path):
    shapes.write_safetensors(packed / "model.safetensors", {n: ("BF16", t.read()) for n, t in read_tensors(source).items()})
    assert any("no Linear is packed" in line for line in lines(packed, source))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(f"{Q}.weight_scale"), "q_proj.weight_scale: missing"),
        (lambda t: t.pop(f"{Q}.weight_packed"), "has no packed weight beside it (2 such tensors)"),
        (lambda t: t.update({f"{Q}.weight_scale": ("BF16", np.ones((256, 8)))}), "[256, 8], group size 128"),
        (lambda t: t.update({f"{Q}.weight_scale": ("BF16", np.zeros((256, 2)))}), "512 of 512 scales are zero"),
        (lambda t: t.update({f"{Q}.weight_packed": ("I32", np.zeros((256, 64)))}), "4 bit of [256, 256] take [256, 32]"),
        (lambda t: t.update({f"{Q}.weight_shape": ("I64", np.array([256, 512]))}), "the source has [256, 256]"),
        (lambda t: t.pop("model.language_model.norm.weight"), "1 of the source's are missing"),
        (lambda t: t.update({"model.language_model.norm.weight": ("BF16", np.full(256, 1e30))}), "not a trained norm weight"),
        (lambda t: t.update({"lm_head.weight": ("F32", t["lm_head.weight"][1])}), "is stored as F32"),
        (lambda t: t.update({"lm_head.weight": ("BF16", t["lm_head.weight"][1] * 2)}), "differs from the source's"),
        (lambda t: t.update({"model.visual.pos_embed.weight": ("BF16", np.zeros((64, 64)))}), "differs from the source's"),
        (lambda t: t.update({"stray.weight": ("BF16", np.zeros(7))}), "1 are not in the source: stray.weight"),
    ],
)
def test_tensors_that_are_wrong(source: Path, packed: Path, change: Any, said: str):
    shapes.edit_tensors(packed, change)
    assert any(said in line for line in lines(packed, source)), lines(packed, source)


def test_what_others_made_is_not_refused_for_its_format(source: Path, packed: Path):
    """AutoAWQ's section, and scales in bytes as the MX formats have them: a server may read both."""
    shapes.edit_tensors(packed, lambda t: t.update({f"{Q}.weight_scale": ("U8", np.zeros((256, 8)))}))
    shapes.edit_config(packed, lambda c: c.update(quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128}))
    assert servable_faults(packed) == []
    assert servable_faults(source) == []


def test_zero_points_lacking_in_an_asymmetric_scheme(source: Path, tmp_path: Path):
    folder = shapes.write_quantized(tmp_path / "q", source, symmetric=False)
    shapes.edit_tensors(folder, lambda t: t.pop(f"{Q}.weight_zero_point"))
    assert any("missing in an asymmetric scheme (1 in all)" in line for line in lines(folder, source))


def test_a_packed_vision_layer_is_a_fault(source: Path, packed: Path):
    name = "model.visual.merger.linear_fc1"

    def pack(table: dict[str, Any]) -> None:
        table.pop(f"{name}.weight")
        table[f"{name}.weight_packed"] = ("I32", np.zeros((256, 32)))
        table[f"{name}.weight_scale"] = ("BF16", np.ones((256, 2)))
        table[f"{name}.weight_shape"] = ("I64", np.array([256, 256]))

    shapes.edit_tensors(packed, pack)
    found = lines(packed, source)
    assert any("1 visual layers are packed" in line for line in found)
    assert any("covers 1 Linears that are packed" in line for line in found)


def test_a_head_beside_tied_embeddings_is_a_fault(tmp_path: Path):
    source = shapes.write_source(tmp_path / "tied", tie=True)
    folder = shapes.write_quantized(tmp_path / "q", source)
    assert lines(folder, source) == []
    shapes.edit_tensors(folder, lambda t: t.update({"lm_head.weight": ("BF16", np.zeros((320, 256)))}))
    assert any("a second embedding-sized tensor" in line for line in lines(folder, None))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", {"truncation": {"max_length": 64}}, "tokenizer.json: truncation"),
        ("tokenizer.json", {"padding": {"length": 64}}, "tokenizer.json: padding"),
        ("tokenizer.json", {"model": {"type": "WordPiece"}}, "differs from the source's in model"),
        ("preprocessor_config.json", {"patch_size": 16}, "differs from the source's in patch_size"),
        ("generation_config.json", {"temperature": 0.1}, "differs from the source's in temperature"),
    ],
)
def test_side_files_that_say_something_else(source: Path, packed: Path, name: str, content: dict[str, Any], said: str):
    shapes.write_json(packed / name, json.loads((packed / name).read_text()) | content)
    assert any(said in line for line in lines(packed, source))


def test_a_side_file_written_anew_with_the_same_content_is_fine(source: Path, packed: Path):
    content = json.loads((packed / "generation_config.json").read_text()) | {"transformers_version": "9"}
    (packed / "generation_config.json").write_text(json.dumps(content))
    assert lines(packed, source) == []


def test_without_a_source_the_leaked_truncation_and_the_lost_processor_show(packed: Path):
    content = json.loads((packed / "tokenizer.json").read_text()) | {"truncation": {"max_length": 64}}
    shapes.write_json(packed / "tokenizer.json", content)
    (packed / "preprocessor_config.json").unlink()
    found = lines(packed, None)
    assert any("truncation" in line for line in found) and any("preprocessor_config" in line for line in found)


def test_shards_and_index(source: Path, packed: Path):
    index = packed / "model.safetensors.index.json"
    names = list(read_tensors(packed))
    shapes.write_json(index, {"weight_map": {n: "model.safetensors" for n in names}})
    assert lines(packed, source) == []
    shapes.write_json(
        index,
        {
            "weight_map": {n: "model.safetensors" for n in names[1:]}
            | {"gone": "model-00002-of-00002.safetensors", "absent": "model.safetensors"}
        },
    )
    found = lines(packed, source)
    assert any("model-00002-of-00002.safetensors, which is not there" in line for line in found)
    assert any("does not hold: absent" in line for line in found)
    assert any("does not name tensors that the shards hold" in line for line in found)


def test_a_cut_file_and_a_missing_folder_are_lines_not_tracebacks(source: Path, packed: Path, tmp_path: Path):
    path = packed / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert any("cut short" in line for line in lines(packed, source))
    assert "no such folder" in lines(tmp_path / "nowhere", source)[0]
    (packed / "config.json").write_text("{")
    assert "not JSON" in lines(packed, source)[0]


def test_fields_the_installed_release_does_not_know_are_named_with_both_versions(packed: Path):
    assert readable(packed) == []
    shapes.edit_config(
        packed,
        lambda c: (
            c["quantization_config"].update(version="0.99.0")
            or c["quantization_config"]["config_groups"]["group_0"]["weights"].update(rounding="stochastic")
        ),
    )
    (fault,) = readable(packed)
    installed = metadata.version("compressed-tensors")
    assert "weights.rounding" in str(fault) and installed in str(fault) and "0.99.0" in str(fault)
    assert lines(packed, None) == [str(fault)]


def test_noise_changes_the_language_linears_and_nothing_else(source: Path, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_noise(source, recipe(method="noise", noise_std=0.5, seed=3), tmp_path / name)
    a, b, original = (read_tensors(folder) for folder in (tmp_path / "a", tmp_path / "b", source))
    assert a.keys() == original.keys()
    for name, tensor in original.items():
        was, now = tensor.read(), a[name].read()
        assert np.array_equal(now, b[name].read())
        if name.endswith("_proj.weight"):
            assert 0.4 < (now - was).std() / was.std() < 0.6 and abs((now - was).mean()) < was.std() * 0.02
        else:
            assert np.array_equal(was, now), name
    assert verify(tmp_path / "a", source).faults == []
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("quantization_config", "awq"),
        ("config_groups", [1]),
        ("ignore", 5),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_fault_and_no_exception(packed, section, value):
    path = packed / "config.json"
    config = json.loads(path.read_text())
    (config if section == "quantization_config" else config["quantization_config"])[section] = value
    path.write_text(json.dumps(config))
    assert verify(packed).faults


@pytest.mark.parametrize(("field", "value"), [("num_bits", "four"), ("group_size", "128"), ("group_size", 0)])
def test_odd_numbers_in_the_scheme(packed, field, value):
    path = packed / "config.json"
    config = json.loads(path.read_text())
    next(iter(config["quantization_config"]["config_groups"].values()))["weights"][field] = value
    path.write_text(json.dumps(config))
    assert verify(packed).faults
