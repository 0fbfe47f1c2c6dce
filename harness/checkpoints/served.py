"""How vLLM serves a quantized checkpoint: forecast from its headers, and read from what its log names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.checkpoints.headers import Linear, is_quantized, linears_of, read_config, tensors
from harness.checkpoints.kernels import TARGETS, computed_as, served_by, together
from harness.checkpoints.schemes import Scheme, maker_of, schemes_of
from harness.checkpoints.section import group_of, groups_of
from harness.families import family_of
from harness.util.errors import Fault, Refused

NAMES = {
    "wna16": r"WNA16|AutoGPTQ|AutoAWQ|mixed-precision",
    "int8": "Int8",
    "fp8": "Fp8|FP8",
    "nvfp4": "NVFP4|NvFp4",
    "mxfp4": "MXFP4|Mxfp4",
    "mxfp8": "MXFP8|Mxfp8",
    "w4a8": "W4A8",
}
"""How vLLM's log calls the layers of a scheme, by the beginning of Scheme.kind."""


@dataclass(frozen=True)
class Served:
    """What serves a checkpoint's quantized Linears."""

    scheme: str = ""
    """Its schemes in words; empty for a plain checkpoint."""
    asked: str = ""
    """The bits that they ask for, such as W4A16."""
    kernels: dict[str, int | None] = field(default_factory=dict)
    """Linears by the kernel's class name; None where it is not known how many of them."""
    computed_as: str = ""
    """The bits that are computed with; empty where it is not known."""


def _linears(config: dict[str, object], path: Path) -> dict[Scheme, list[Linear]]:
    """The quantized Linears by their scheme; of another maker's none are seen in the headers."""
    table = tensors(path)
    groups, found = groups_of(config), [one for one in linears_of(config, table) if is_quantized(one.name, table)]
    sorted_: dict[Scheme, list[Linear]] = {}
    for one in found:
        group = group_of(groups, one.name)
        if group is not None:
            sorted_.setdefault(group.scheme, []).append(one)
    return sorted_


def forecast(checkpoint: Path, target: str, where: str) -> tuple[Served, list[Fault]]:
    """What will serve a checkpoint on `target` (kernels.TARGETS), and a fault where nothing can. where: how the fault calls it.

    A checkpoint that cannot be read is not judged here.
    """
    try:
        config = read_config(checkpoint)
        schemes = schemes_of(config)
        linears = _linears(config, checkpoint) if schemes else {}
    except (Refused, ValueError):
        return Served(), []
    if not schemes:
        maker = maker_of(config)
        return Served(scheme=f"{maker} (not read)" if maker else ""), []
    counts: Counter[str] = Counter()
    computed: list[str] = []
    faults = []
    for scheme in schemes if target in TARGETS else []:
        service = served_by(target, scheme, linears.get(scheme) or [_typical()], family_of(config))
        if scheme in linears:
            counts.update(service.kernels)
        computed.append(service.computed_as)
        if service.without is not None:
            what = f"is {scheme.words}, which no kernel of vLLM runs on this device ({target}): {service.why}"
            faults.append(Fault(where, what, "another scheme, or a card that has one (docs/schemes.md)"))
    known: dict[str, int | None] = {**counts}
    return Served(_words(schemes), _asked(schemes), known, together(computed)), faults


def _typical() -> Linear:
    """A Linear that every kernel takes, where the headers do not tell a maker's own."""
    return Linear("layers.0.mlp.down_proj", "language", 4096, 4096, True)


def told(checkpoint: Path, named: Iterable[tuple[str, str]], target: str) -> Served:
    """What serves a checkpoint, by the (kernel, layers) that vLLM's log named; with counts where the forecast agrees."""
    expected, _ = forecast(checkpoint, target, "")
    try:
        schemes = schemes_of(read_config(checkpoint))
    except (Refused, ValueError):
        schemes = []
    pairs = list(dict.fromkeys(named))
    kernels = list(dict.fromkeys(kernel for kernel, _ in pairs))
    counts: dict[str, int | None] = dict.fromkeys(kernels)
    if set(kernels) == set(expected.kernels):
        counts = {kernel: expected.kernels[kernel] for kernel in kernels}
    computed = (together(computed_as(name, one) for name, layers in pairs if one in _of(layers, schemes)) for one in schemes)
    return Served(expected.scheme, expected.asked, counts, together(computed))


def _of(layers: str, schemes: Sequence[Scheme]) -> list[Scheme]:
    """The schemes that vLLM means by its name for the layers; the only one there is, however it is called."""
    if len(schemes) < 2:
        return list(schemes)
    return [one for one in schemes if any(one.kind.startswith(k) and re.search(name, layers) for k, name in NAMES.items())]


def _words(schemes: Iterable[Scheme]) -> str:
    return "; ".join(scheme.words for scheme in schemes)


def _asked(schemes: Iterable[Scheme]) -> str:
    return ", ".join(sorted({scheme.name for scheme in schemes}))
