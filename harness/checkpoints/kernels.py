"""Which vLLM kernel a quantized Linear gets, and what that kernel computes in, by vLLM's own rules, without importing it.

Read in vLLM 0.32.0, model_executor/kernels/linear: `__init__.py` (`_POSSIBLE_*KERNELS`, the order of preference a
platform, and `init_*_linear_kernel`), the kernels' `is_supported` and `can_implement`, the least capability of each scheme in
layers/quantization/compressed_tensors/schemes, and layers/quantization/utils/{marlin_utils,machete_utils}.py (the tables).
tests/checkpoints/test_kernels.py compares with the installed vLLM's source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harness.checkpoints.headers import Linear
from harness.checkpoints.schemes import FULL, Numbers, Scheme
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


def cpu(weights: Numbers, k: int, n: int) -> str:
    """Why CPUWNA16LinearKernel cannot run it; "" when it can."""
    if weights.bits != 4:
        return "the CPU kernel runs 4 bit only"
    if weights.group_size and weights.group_size % 2:
        return "the CPU kernel takes even group sizes"
    if k % 32 or n % 32:
        return f"the CPU kernel takes sizes that are multiples of 32, not [{n}, {k}]"
    return ""


def marlin(weights: Numbers, k: int, n: int) -> str:
    """Why MarlinLinearKernel cannot run it; "" when it can. Sizes do not matter: it pads them."""
    if weights.bits not in ((4, 8) if weights.symmetric else (4,)):
        return "Marlin runs " + ("4 and 8 bit without zero points" if weights.symmetric else "4 bit with zero points")
    if (weights.group_size or -1) not in MARLIN_GROUPS:
        return f"Marlin takes the group sizes {', '.join(map(str, MARLIN_GROUPS))}"
    return ""


def machete(weights: Numbers, k: int, n: int) -> str:
    """Why MacheteLinearKernel (Hopper) cannot run it; "" when it can."""
    if weights.bits not in (4, 8):
        return "Machete runs 4 and 8 bit"
    if (weights.group_size or -1) not in MACHETE_GROUPS:
        return f"Machete takes the group sizes {', '.join(map(str, MACHETE_GROUPS))}"
    if k % MACHETE_BLOCK[0] or n % MACHETE_BLOCK[1]:
        return f"Machete takes in_features in multiples of {MACHETE_BLOCK[0]}, out_features of {MACHETE_BLOCK[1]}"
    return ""


def blocks_of_128(weights: Numbers, k: int, n: int) -> str:
    """Why a kernel for scales of 128 x 128 blocks cannot run it."""
    if weights.block != (128, 128):
        return f"the kernels for block FP8 take blocks of 128 x 128, not {weights.grouped}"
    return (
        ""
        if k % 128 == 0 and n % 64 == 0
        else f"DeepGEMM takes out_features in multiples of 64, in_features of 128, not [{n}, {k}]"
    )


def per_tensor(weights: Numbers, k: int, n: int) -> str:
    """Why a kernel for one scale a tensor cannot run it."""
    return "" if weights.per == "tensor" else f"takes one scale a tensor, not {weights.grouped}"


def per_channel(weights: Numbers, k: int, n: int) -> str:
    """Why a CPU cannot run FP8: its build has no operator for activations with stored scales (static_scaled_fp8_quant)."""
    return "vLLM's CPU build takes FP8 activations with scales found while serving alone" if weights.per == "tensor" else ""


def any_shape(weights: Numbers, k: int, n: int) -> str:
    """A kernel that takes every shape, or pads it."""
    return ""


Rule = Callable[[Numbers, int, int], str]
Chosen = tuple[tuple[str, Rule], ...]

TARGETS = {"cpu": 0, "cpu_amx": 0, "turing": 75, "ampere": 80, "ada": 89, "hopper": 90, "blackwell": 100, "blackwell_rtx": 120}
"""Generations of processors and cards, with NVIDIA's compute capability as vLLM writes it; ampere stands for 8.0 to 8.7.
cpu_amx is an x86 processor with AMX tiles (Sapphire Rapids and later)."""


def generation(capability: int | None) -> str:
    """The target of a card of this compute capability (90 for 9.0), the last one that it is not below; hopper's Machete and
    blackwell's FP4 are theirs alone, so what lies between counts as what came before. None: not told, taken for ampere."""
    known = {value: name for name, value in TARGETS.items() if value}
    return known[max((value for value in known if capability and value <= capability), default=TARGETS["ampere"])]


CPUS = ("cpu", "cpu_amx")
GPUS = tuple(target for target in TARGETS if target not in CPUS)

MARLIN: Chosen = (("MarlinLinearKernel", marlin),)
MARLIN_FP8: Chosen = (("MarlinFP8ScaledMMLinearKernel", any_shape),)
MARLIN_NVFP4: Chosen = (("MarlinNvFp4LinearKernel", any_shape),)
MARLIN_MXFP4: Chosen = (("MarlinMxFp4LinearKernel", any_shape),)


def _everywhere(kernels: Chosen, but: dict[str, Chosen]) -> dict[str, Chosen]:
    return dict.fromkeys(GPUS, kernels) | but


CHANNELS: Chosen = (("ChannelWiseTorchFP8ScaledMMLinearKernel", per_channel),)
CUTLASS_FP8: Chosen = (("CutlassFP8ScaledMMLinearKernel", any_shape),)
DEEP_GEMM: Chosen = (
    ("FlashInferFp8DeepGEMMDynamicBlockScaledKernel", blocks_of_128),
    ("CutlassFp8BlockScaledMMKernel", any_shape),
)

KERNELS: dict[str, dict[str, Chosen]] = {
    "wna16": _everywhere(
        MARLIN,
        {
            "cpu": (("CPUWNA16LinearKernel", cpu),),
            "cpu_amx": (("CPUWNA16LinearKernel", cpu),),
            "hopper": (("MacheteLinearKernel", machete), *MARLIN),
        },
    ),
    # Before Ada, vLLM serves FP8 with activations as FP8 weights alone (CompressedTensorsW8A8Fp8.get_min_capability).
    "fp8": _everywhere(
        CUTLASS_FP8,
        {
            "cpu": CHANNELS,
            "cpu_amx": (("CPUFp8PerTensorScaledMMLinearKernel", per_tensor), *CHANNELS),
            "blackwell": (("FlashInferFP8ScaledMMLinearKernel", per_tensor), *CUTLASS_FP8),
            "blackwell_rtx": (("FlashInferFP8ScaledMMLinearKernel", per_tensor), *CUTLASS_FP8),
            "turing": MARLIN_FP8,
            "ampere": MARLIN_FP8,
        },
    ),
    "fp8_w8a16": _everywhere(MARLIN_FP8, {}),
    "fp8_block": _everywhere(
        MARLIN_FP8,
        {
            "cpu_amx": (("CPUFp8BlockScaledMMKernel", any_shape),),
            "hopper": DEEP_GEMM,
            "blackwell": DEEP_GEMM,
            "blackwell_rtx": DEEP_GEMM[-1:],
        },
    ),
    "int8": _everywhere(
        (("CutlassInt8ScaledMMLinearKernel", any_shape),),
        {"cpu": (("CPUInt8ScaledMMLinearKernel", any_shape),), "cpu_amx": (("CPUInt8ScaledMMLinearKernel", any_shape),)},
    ),
    "nvfp4": _everywhere(
        MARLIN_NVFP4,
        {
            "blackwell": (("FlashInferCuteDslNvFp4LinearKernel", any_shape),),
            "blackwell_rtx": (("FlashInferCutlassNvFp4LinearKernel", any_shape),),
        },
    ),
    "nvfp4a16": _everywhere(MARLIN_NVFP4, {"blackwell": (("FlashInferCuteDslNvFp4W4A16LinearKernel", any_shape),)}),
    "mxfp4": _everywhere(
        MARLIN_MXFP4, dict.fromkeys(("blackwell", "blackwell_rtx"), (("FlashInferMxFp4LinearKernel", any_shape),))
    ),
    "mxfp4a16": _everywhere(MARLIN_MXFP4, {}),
}
"""Kernels by the kind of the scheme (schemes.Scheme.kind) and the target, in vLLM's order of preference. On Hopper what
Machete cannot run falls to Marlin; beyond those vLLM has slow ones (Triton, Conch, emulation) that serve no purpose here and
are not counted. Where Humming's package is installed, vLLM puts its kernels before Marlin's on Hopper. A target that a kind
does not name has no kernel for it."""
NO_FORECAST = ("w4a8", "mxfp8", "mxfp8a16", "other")
"""Kinds whose kernels are not forecast; they are read from the log when they are served."""


def kernel_for(target: str, scheme: Scheme, k: int, n: int) -> tuple[str | None, str]:
    """The kernel's class name and "", or None and the reasons of every kernel that was asked.

    target: one of TARGETS. k is in_features, n out_features, both of the joined layer (`merged`).
    """
    reasons = []
    for name, rule in KERNELS.get(scheme.kind, {}).get(target, ()):
        why = rule(scheme.weights, k, n)
        if not why:
            return name, ""
        reasons.append(why)
    return None, "; ".join(reasons) or f"vLLM has no kernel for {scheme.words} on {target}"


WEIGHTS_ONLY = re.compile(
    r"""^(Marlin|Machete|Conch|Exllama|TritonW4A16|CPUWNA16|ZentorchWNA16|XPUwNa16|XPUW8A16|RDNA
    |CPUFp8BlockScaledMM|CPUFp8PerTensor|FlashInferCuteDslNvFp4W4A16|B12xNvFp4W4A16|UnpackedAtLoad)""",
    re.VERBOSE,
)
"""Kernels that widen weights and leave activations as they are, whatever the scheme asks for."""


def computed_as(kernel: str, scheme: Scheme) -> str:
    """What a kernel really computes with on a checkpoint of `scheme`, such as W4A16; empty where its name does not tell.

    A weight's bits are those of the values that it can have, in whatever precision they are multiplied.
    """
    if WEIGHTS_ONLY.match(kernel):
        return bits_named((scheme.bits[0], FULL))
    # Humming quantizes activations or falls back to 16 bits, by what it finds out while it is built.
    return "" if kernel.startswith("Humming") and scheme.activations else scheme.name


def together(computed: Iterable[str]) -> str:
    """What several kernels or schemes are computed in; empty when that of one of them is not known, or there is none."""
    every = list(computed)
    return ", ".join(sorted(dict.fromkeys(every))) if all(every) else ""


@dataclass(frozen=True)
class Service:
    """How vLLM would serve the Linears of one scheme."""

    kernels: dict[str, int] = field(default_factory=dict)
    """Linears by the kernel's class name; empty where it is not forecast."""
    computed_as: str = ""
    """What they are computed in, such as W4A16; empty where it is not forecast."""
    without: Linear | None = None
    """A Linear that no kernel runs."""
    why: str = ""
    """Why not."""


def served_by(target: str, scheme: Scheme, linears: list[Linear], family: Family) -> Service:
    """Which kernels serve `linears`, all quantized to `scheme`, on `target` (see TARGETS)."""
    if scheme.kind in NO_FORECAST:
        return Service()
    counts: Counter[str] = Counter()
    without: tuple[Linear, str] | None = None
    for one in linears:
        name, why = kernel_for(target, scheme, *merged(one, linears, family))
        if name is not None:
            counts[name] += 1
        elif without is None:
            without = (one, why)
    return Service(dict(counts), together(computed_as(name, scheme) for name in counts), *(without or ()))


def bits_named(bits: tuple[int, int]) -> str:
    """W4A16."""
    return "W{}A{}".format(*bits)


def kernel_short(name: str) -> str:
    """A kernel's class name as tables print it: CPU WNA16, Marlin, Machete."""
    short = re.sub(r"(ScaledMM)?(Linear)?Kernel$", "", name)
    return {"CPUWNA16": "CPU WNA16"}.get(short, short)
