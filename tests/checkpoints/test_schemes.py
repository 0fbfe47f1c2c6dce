"""What a checkpoint is quantized to, whoever made it, and what vLLM computes it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.checkpoints import kernels, schemes, served
from harness.checkpoints.schemes import Numbers, Scheme
from harness.checkpoints.verify import structure
from tests.helpers import shapes

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
TOKENS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True}


def section(weights: dict[str, Any], inputs: dict[str, Any] | None = None, form: str = "pack-quantized") -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {"quantization_config": {"quant_method": "compressed-tensors", "format": form, "config_groups": {"g": group}}}


@pytest.mark.parametrize(
    ("config", "name", "kind", "words"),
    [
        (section(INT4), "W4A16", "wna16", "INT4, group 128, symmetric"),
        (section(INT4 | {"strategy": "channel", "group_size": None}), "W4A16", "wna16", "INT4, per channel, symmetric"),
        (section(FP4), "W4A16", "nvfp4a16", "NVFP4, group 16"),
        (section(FP4, FP4 | {"dynamic": "local"}), "W4A4", "nvfp4", "NVFP4, group 16, activations NVFP4 group 16"),
        (
            section({"num_bits": 8, "type": "float", "strategy": "channel"}, TOKENS, "float-quantized"),
            "W8A8",
            "fp8",
            "FP8, per channel, activations FP8 per token",
        ),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}}, "W4A16", "wna16",
         "INT4, group 64, asymmetric"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}}, "W8A16", "wna16",
         "INT8, per channel, symmetric"),
        ({"text_config": {"quantization_config": {"quant_method": "auto-round", "bits": 4}}}, "W4A16", "wna16",
         "INT4, group 128, symmetric"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "W8A8", "fp8_block",
         "FP8, blocks of 128 x 128, activations FP8 group 128"),
    ],
)  # fmt: skip
def test_sections_of_every_maker(config: dict[str, Any], name: str, kind: str, words: str):
    (scheme,) = schemes.schemes_of(config)
    assert (scheme.name, scheme.kind, scheme.words) == (name, kind, words)


def test_what_is_not_known_is_no_scheme():
    assert schemes.schemes_of({}) == [] and schemes.maker_of({}) is None
    strange = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    assert schemes.schemes_of(strange) == [] and schemes.maker_of(strange) == "bitsandbytes"
    with pytest.raises(ValueError, match="bits"):
        schemes.schemes_of(section(INT4 | {"num_bits": "four"}))


def test_arguments_come_back_as_they_were():
    for weights, inputs in ((INT4, None), (FP4, FP4 | {"dynamic": "local"}), (INT4 | {"group_size": 32}, TOKENS)):
        (scheme,) = schemes.schemes_of(section(weights, inputs))
        again = section(scheme.weights.arguments(), scheme.activations and scheme.activations.arguments())
        assert schemes.schemes_of(again) == [scheme]


def test_bytes_of_a_weight():
    (scheme,) = schemes.schemes_of(section(INT4))
    assert schemes.stored_bytes(scheme, 256, 512) == 256 * 512 // 2 + 256 * 4 * 2 + 16
    assert schemes.stored(scheme.model_copy(update={"format": "of-tomorrow"}), 1, 1) is None


def floats(bits: int, **more: Any) -> Numbers:
    return Numbers(bits=bits, kind="float", **more)


MICRO: dict[str, Any] = {"group_size": 16, "scaled_by": "nv"}
NV = Scheme(weights=floats(4, **MICRO), activations=floats(4, dynamic=True, **MICRO), format="nvfp4-pack-quantized")
FP8 = Scheme(weights=floats(8, per="channel"), activations=floats(8, per="token", dynamic=True), format="float-quantized")


@pytest.mark.parametrize(
    ("scheme", "target", "kernel", "computed"),
    [
        (NV, "hopper", "MarlinNvFp4LinearKernel", "W4A16"),
        (NV, "blackwell", "FlashInferCuteDslNvFp4LinearKernel", "W4A4"),
        (NV, "cpu", None, None),
        (FP8, "ampere", "MarlinFP8ScaledMMLinearKernel", "W8A16"),
        (FP8, "ada", "CutlassFP8ScaledMMLinearKernel", "W8A8"),
        (FP8, "cpu", "ChannelWiseTorchFP8ScaledMMLinearKernel", "W8A8"),
    ],
)
def test_a_card_without_the_numbers_computes_with_others(scheme: Scheme, target: str, kernel: str | None, computed: str | None):
    name, why = kernels.kernel_for(target, scheme, 4096, 4096)
    assert name == kernel
    if name is None:
        assert why == f"vLLM has no kernel for {scheme.words} on {target}"
    else:
        assert kernels.computed_as(name, scheme) == computed


def test_a_kernel_whose_name_does_not_tell_is_not_known():
    assert kernels.computed_as("HummingNvFp4LinearKernel", NV) == ""
    assert kernels.computed_as("HummingNvFp4LinearKernel", NV.model_copy(update={"activations": None})) == "W4A16"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return shapes.write_quantized(tmp_path / "packed", shapes.write_source(tmp_path / "source"))


def test_what_will_serve_a_checkpoint_is_told_before_it_is_served(packed: Path):
    found, faults = served.forecast(packed, "hopper", "variants.x")
    assert faults == [] and (found.asked, found.computed_as) == ("W4A16", "W4A16")
    assert sum(n or 0 for n in found.kernels.values()) == 14
    shapes.edit_config(packed, lambda c: c.update(section(FP4, FP4, "nvfp4-pack-quantized")))
    _, (fault,) = served.forecast(packed, "cpu", "variants.x")
    assert fault.where == "variants.x" and "NVFP4" in fault.what and "no kernel" in fault.what
    shapes.edit_config(packed, lambda c: c.update(quantization_config={"quant_method": "bitsandbytes"}))
    assert served.forecast(packed, "cpu", "variants.x") == (served.Served(scheme="bitsandbytes (not read)"), [])


def test_a_scheme_of_another_maker_stands_in_the_structure(packed: Path):
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    shapes.edit_config(packed, lambda c: c.update(quantization_config=awq))
    found = structure(packed)
    assert (found.maker, found.scheme) == ("awq", "INT4, group 128, asymmetric")


def test_what_the_log_named_is_told_with_counts_where_the_forecast_agrees(packed: Path):
    names, _ = served.forecast(packed, "hopper", "")
    told = served.told(packed, [(name, "CompressedTensorsWNA16") for name in names.kernels], "hopper")
    assert told.kernels == names.kernels and told.computed_as == "W4A16"
    told = served.told(packed, [("KernelOfTomorrow", "CompressedTensorsWNA16")], "hopper")
    assert told.kernels == {"KernelOfTomorrow": None}


def test_of_several_schemes_one_whose_kernel_is_not_known_leaves_the_whole_unknown(packed: Path):
    def two(config: dict[str, Any]) -> None:
        groups = config["quantization_config"]["config_groups"]
        groups["b"] = {"targets": ["re:.*down_proj$"], "weights": INT4 | {"num_bits": 8}, "input_activations": TOKENS}

    shapes.edit_config(packed, two)
    told = served.told(packed, [("MarlinLinearKernel", "CompressedTensorsWNA16")], "hopper")
    assert told.asked == "W4A16, W8A8" and told.computed_as == ""
