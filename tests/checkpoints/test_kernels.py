"""The rules in harness/checkpoints/kernels.py against the installed vLLM's own source (read, not imported)."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from harness.checkpoints import kernels
from harness.checkpoints.headers import Linear
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


UTILS = "model_executor/layers/quantization/utils/"


def test_the_tables_are_vllms():
    assert constant(vllm_file(UTILS + "marlin_utils.py"), "MARLIN_SUPPORTED_GROUP_SIZES") == list(kernels.MARLIN_GROUPS)
    machete = vllm_file(UTILS + "machete_utils.py")
    assert constant(machete, "MACHETE_PREPACKED_BLOCK_SHAPE") == list(kernels.MACHETE_BLOCK)
    assert f"return {list(kernels.MACHETE_GROUPS)}" in machete.read_text()
    text = vllm_file("model_executor/kernels/linear/mixed_precision/cpu.py").read_text()
    assert "group_size % 2 != 0" in text and text.count("% 32 != 0") == 2


def test_the_kernels_named_are_vllms():
    text = vllm_file("model_executor/kernels/linear/__init__.py").read_text()
    for target in kernels.KERNELS.values():
        assert all(f"    {name}," in text for name, _ in target)


def test_fused_layers_are_asked_for_together():
    found = [Linear(f"m.layers.0.self_attn.{n}_proj", "language", 256, o) for n, o in (("q", 256), ("k", 64), ("v", 64))]
    joined = kernels.merged(found[1], found, FAMILIES[0])
    assert joined == (256, 384)
    # k alone would not fit Machete, joined with q and v it does
    assert kernels.kernel_for("machete", 4, 128, True, 256, 64)[0] == "MarlinLinearKernel"
    assert kernels.kernel_for("machete", 4, 128, True, *joined)[0] == "MacheteLinearKernel"


@pytest.mark.parametrize(
    ("target", "bits", "symmetric", "kernel"),
    [
        ("cpu", 8, True, None),
        ("cpu", 4, False, "CPUWNA16LinearKernel"),
        ("marlin", 8, True, "MarlinLinearKernel"),
        ("marlin", 8, False, None),
        ("machete", 8, False, "MacheteLinearKernel"),
        ("marlin", 3, True, None),
    ],
)
def test_bits_and_zero_points(target: str, bits: int, symmetric: bool, kernel: str | None):
    assert kernels.kernel_for(target, bits, 128, symmetric, 256, 256)[0] == kernel


def test_short_names():
    assert [kernels.kernel_short(f"{n}LinearKernel") for n in ("CPUWNA16", "Marlin", "Machete")] == [
        "CPU WNA16",
        "Marlin",
        "Machete",
    ]
