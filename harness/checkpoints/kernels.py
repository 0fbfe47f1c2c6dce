"""Which vLLM kernel a packed Linear gets, by vLLM's own rules, without importing vLLM.

Read in vLLM 0.32.0, model_executor/kernels/linear: `__init__.py` (`_POSSIBLE_KERNELS`, the order of preference a
platform), `mixed_precision/cpu.py`, `marlin.py`, `machete.py` (`can_implement`), and
model_executor/layers/quantization/utils/{marlin_utils,machete_utils}.py (the tables). tests/checkpoints/test_kernels.py
asks the installed vLLM's own functions and compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.checkpoints.headers import Linear
from harness.families import Family

MARLIN_GROUPS = (-1, 32, 64, 128)
"""MARLIN_SUPPORTED_GROUP_SIZES in marlin_utils.py."""
MACHETE_GROUPS = (-1, 64, 128)
"""query_machete_supported_group_sizes for 16-bit activations in machete_utils.py."""
MACHETE_BLOCK = (64, 128)
"""MACHETE_PREPACKED_BLOCK_SHAPE: in_features and out_features are multiples of these."""


def merged(linear: Linear, among: list[Linear], family: Family) -> tuple[int, int]:
    """in_features and out_features as vLLM asks for them: q, k, v and gate, up are one layer there."""
    parent, _, last = linear.name.rpartition(".")
    for group in family.fused:
        if last in group:
            names = {f"{parent}.{name}" for name in group}
            return linear.in_features, sum(x.out_features for x in among if x.name in names)
    return linear.in_features, linear.out_features


def cpu(bits: int, group: int, symmetric: bool, k: int, n: int) -> str:
    """Why CPUWNA16LinearKernel cannot run it; "" when it can."""
    if bits != 4:
        return "the CPU kernel runs 4 bit only"
    if group != -1 and group % 2:
        return "the CPU kernel takes even group sizes"
    if k % 32 or n % 32:
        return f"the CPU kernel takes sizes that are multiples of 32, not [{n}, {k}]"
    return ""


def marlin(bits: int, group: int, symmetric: bool, k: int, n: int) -> str:
    """Why MarlinLinearKernel cannot run it; "" when it can. Sizes do not matter: it pads them."""
    if bits not in ((4, 8) if symmetric else (4,)):
        return f"Marlin runs {'4 and 8 bit' if symmetric else '4 bit'} {'without' if symmetric else 'with'} zero points"
    if group not in MARLIN_GROUPS:
        return f"Marlin takes the group sizes {', '.join(map(str, MARLIN_GROUPS))}"
    return ""


def machete(bits: int, group: int, symmetric: bool, k: int, n: int) -> str:
    """Why MacheteLinearKernel (Hopper) cannot run it; "" when it can."""
    if bits not in (4, 8):
        return "Machete runs 4 and 8 bit"
    if group not in MACHETE_GROUPS:
        return f"Machete takes the group sizes {', '.join(map(str, MACHETE_GROUPS))}"
    if k % MACHETE_BLOCK[0] or n % MACHETE_BLOCK[1]:
        return f"Machete takes in_features in multiples of {MACHETE_BLOCK[0]}, out_features of {MACHETE_BLOCK[1]}"
    return ""


Rule = Callable[[int, int, bool, int, int], str]

KERNELS: dict[str, tuple[tuple[str, Rule], ...]] = {
    "cpu": (("CPUWNA16LinearKernel", cpu),),
    "marlin": (("MarlinLinearKernel", marlin),),
    "machete": (("MacheteLinearKernel", machete), ("MarlinLinearKernel", marlin)),
}
"""Kernels of a target in vLLM's order of preference. On Hopper what Machete cannot run falls to Marlin; beyond those
vLLM has slow ones (Triton, Conch) that serve no purpose here and are not counted."""


def kernel_for(target: str, bits: int, group: int, symmetric: bool, k: int, n: int) -> tuple[str | None, str]:
    """The kernel's class name and "", or None and the reasons of every kernel that was asked.

    k is in_features, n out_features, both of the joined layer (`merged`).
    """
    reasons = []
    for name, rule in KERNELS[target]:
        why = rule(bits, group, symmetric, k, n)
        if not why:
            return name, ""
        reasons.append(why)
    return None, "; ".join(reasons)


def kernel_short(name: str) -> str:
    """A kernel's class name as tables print it: CPU WNA16, Marlin, Machete."""
    short = re.sub(r"LinearKernel$", "", name)
    return {"CPUWNA16": "CPU WNA16"}.get(short, short)
