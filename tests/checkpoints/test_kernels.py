"""The rules in harness/checkpoints/kernels.py against the installed vLLM's own source (read, not imported)."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from harness.checkpoints import kernels
from harness.checkpoints.headers import Linear
from harness.checkpoints.schemes import Numbers, Scheme
from harness.families import FAMILIES


def vllm_file(relative: str) -> Path:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / relative
    if not path.is_file():
        pytest.skip(f"this vLLM has no {relative}")
    return path


def constant(path: Path, name: str) -> object:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no {name}")


def weights(bits: int = 4, symmetric: bool = True) -> Scheme:
    return Scheme(weights=Numbers(bits=bits, per="group", group_size=128, symmetric=symmetric), format="pack-quantized")


UTILS = "model_executor/layers/quantization/utils/"


def test_the_tables_are_vllms():
    assert constant(vllm_file(UTILS + "marlin_utils.py"), "MARLIN_SUPPORTED_GROUP_SIZES") == list(kernels.MARLIN_GROUPS)
    machete = vllm_file(UTILS + "machete_utils.py")
    assert constant(machete, "MACHETE_PREPACKED_BLOCK_SHAPE") == list(kernels.MACHETE_BLOCK)
    assert f"return {list(kernels.MACHETE_GROUPS)}" in machete.read_text()
    text = vllm_file("model_executor/kernels/linear/mixed_precision/cpu.py").read_text()
    assert "group_size % 2 != 0" in text and text.count("% 32 != 0") == 2


VLLMS = {
    "wna16": "_POSSIBLE_KERNELS",
    "fp8": "_POSSIBLE_FP8_KERNELS",
    "fp8_w8a16": "_POSSIBLE_WFP8A16_KERNELS",
    "fp8_block": "_POSSIBLE_FP8_BLOCK_KERNELS",
    "int8": "_POSSIBLE_INT8_KERNELS",
    "nvfp4": "_POSSIBLE_NVFP4_KERNELS",
    "nvfp4a16": "_POSSIBLE_NVFP4_KERNELS",
    "mxfp4": "_POSSIBLE_MXFP4_KERNELS",
    "mxfp4a16": "_POSSIBLE_MXFP4_KERNELS",
}
"""vLLM's own lists by the kind of the scheme."""


def vllms_order(name: str) -> dict[str, list[str]]:
    """Kernels by platform in vLLM's order of preference, from its source."""
    for node in ast.walk(ast.parse(vllm_file("model_executor/kernels/linear/__init__.py").read_text())):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            assert isinstance(node.value, ast.Dict)
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {ast.unparse(k).rpartition(".")[2]: [ast.unparse(e) for e in v.elts] for k, v in pairs if k}  # type: ignore[attr-defined]
    raise AssertionError(f"vLLM has no {name}")


@pytest.mark.parametrize("kind", kernels.KERNELS)
def test_the_kernels_named_are_vllms_in_its_order(kind: str):
    order = vllms_order(VLLMS[kind])
    assert kernels.KERNELS[kind]
    for target, chosen in kernels.KERNELS[kind].items():
        own = order["CPU" if target in kernels.CPUS else "CUDA"]
        places = [own.index(name) for name, _ in chosen]
        assert places == sorted(places), target


def test_capabilities_are_vllms():
    """The least capability that each scheme names, and the cards whose own kernels are named."""
    schemes = "model_executor/layers/quantization/compressed_tensors/schemes/"
    text = {n: vllm_file(f"{schemes}compressed_tensors_{n}.py").read_text() for n in ("w8a8_fp8", "wNa16", "w4a4_nvfp4")}
    assert "return 89" in text["w8a8_fp8"] and "return 75" in text["wNa16"] and "return 75" in text["w4a4_nvfp4"]
    linear = "model_executor/kernels/linear/"
    assert "is_device_capability(90)" in vllm_file(linear + "mixed_precision/machete.py").read_text()
    assert "has_device_capability(100)" in vllm_file(linear + "mxfp4/flashinfer.py").read_text()
    assert "is_device_capability_family(100)" in vllm_file(linear + "nvfp4/flashinfer.py").read_text()
    assert "_is_amx_tile_supported()" in vllm_file(linear + "scaled_mm/cpu.py").read_text()


def test_fused_layers_are_asked_for_together():
    found = [Linear(f"m.layers.0.self_attn.{n}_proj", "language", 256, o) for n, o in (("q", 256), ("k", 64), ("v", 64))]
    joined = kernels.merged(found[1], found, FAMILIES[0])
    assert joined == (256, 384)
    # k alone would not fit Machete, joined with q and v it does
    assert kernels.kernel_for("hopper", weights(), 256, 64)[0] == "MarlinLinearKernel"
    assert kernels.kernel_for("hopper", weights(), *joined)[0] == "MacheteLinearKernel"


@pytest.mark.parametrize(
    ("target", "bits", "symmetric", "kernel"),
    [
        ("cpu", 8, True, None),
        ("cpu", 4, False, "CPUWNA16LinearKernel"),
        ("ampere", 8, True, "MarlinLinearKernel"),
        ("ampere", 8, False, None),
        ("hopper", 8, False, "MacheteLinearKernel"),
        ("ampere", 3, True, None),
    ],
)
def test_bits_and_zero_points(target: str, bits: int, symmetric: bool, kernel: str | None):
    assert kernels.kernel_for(target, weights(bits, symmetric), 256, 256)[0] == kernel


def test_short_names():
    assert [kernels.kernel_short(f"{n}LinearKernel") for n in ("CPUWNA16", "Marlin", "Machete")] == [
        "CPU WNA16",
        "Marlin",
        "Machete",
    ]


@pytest.mark.parametrize(
    ("capability", "target"),
    [(75, "turing"), (86, "ampere"), (89, "ada"), (90, "hopper"), (103, "blackwell"), (121, "blackwell_rtx"), (None, "ampere")],
)
def test_generations(capability: int | None, target: str):
    assert kernels.generation(capability) == target
