"""The section of quantization against the tensors: which Linear is in which group, and what its format is stored as.

Judged are compressed-tensors' formats that schemes.py knows, group by group; of another the report says that it does not judge
it. A section of another maker (AWQ, GPTQ, FP8) is a server's to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.checkpoints.headers import QUANTIZED, Linear, Tensor, is_quantized, linears_of, modules, named_modules
from harness.checkpoints.patterns import safe_match
from harness.checkpoints.schemes import FOUR_BIT, Scheme, Stored, scheme_of, stored
from harness.checkpoints.shards import some
from harness.checkpoints.values import is_packed
from harness.families import family_of
from harness.util.errors import Fault

SECTION = "config.json: quantization_config"


@dataclass(frozen=True)
class Group:
    """One entry of config_groups."""

    targets: tuple[str, ...]
    scheme: Scheme


DTYPES = {
    "float-quantized": ("F8_E4M3", "F8_E5M2"),
    "mxfp8-quantized": ("F8_E4M3",),
    "int-quantized": ("I8",),
    "nvfp4-pack-quantized": ("U8",),
    "mxfp4-pack-quantized": ("U8",),
}
"""What a weight of a format may be stored as."""
NOT_JUDGED = ("input_scale", "input_global_scale", "weight_zero_point")
"""Parts that some releases leave out or store in another shape; zero points are judged by themselves."""


def groups_of(config: dict[str, Any]) -> list[Group]:
    """The groups of compressed-tensors' section; empty for another's."""
    section = config.get("quantization_config") or {}
    if section.get("quant_method") not in (None, "compressed-tensors"):
        return []
    return [
        Group(_as_loaded(config, group.get("targets")), scheme_of(group, section))
        for group in (section.get("config_groups") or {}).values()
        if isinstance(group, dict) and isinstance(group.get("weights"), dict)
    ]


def _as_loaded(config: dict[str, Any], names: Any) -> tuple[str, ...]:
    """Patterns as the loaded model has the names: compressed-tensors writes names down as they are stored."""
    family = family_of(config)
    return tuple(name if name.startswith("re:") else family.module_of(name) for name in map(str, names or ()))


def group_of(groups: list[Group], module: str) -> Group | None:
    """The group of a Linear: one that names it goes before one for all Linears."""
    named = next((g for g in groups if any(safe_match(t, module) for t in g.targets)), None)
    return named or next((g for g in groups if "Linear" in g.targets), None)


def section_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    """A section that is missing or says what the tensors are not."""
    packed = [name for name in table if name.endswith(".weight_packed")]
    section = config.get("quantization_config")
    if not section and packed and not (config.get("text_config") or {}).get("quantization_config"):
        right = "the section the build wrote; without it a server reads noise or refuses"
        return [Fault(SECTION, f"missing, yet {len(packed)} Linears are packed", right)]
    if section and not packed and section.get("format") == "pack-quantized":
        return [Fault(SECTION, "says pack-quantized, yet no Linear is packed", "a checkpoint saved compressed")]
    return []


def tensor_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    """Each quantized Linear against the format of its group: parts, dtypes, shapes, zero points."""
    groups = groups_of(config)
    faults: list[Fault] = []
    lacking: dict[tuple[str, str], list[str]] = {}
    for one in linears_of(config, table):
        group = group_of(groups, one.name)
        if group is None or not is_quantized(one.name, table):
            continue
        parts = _parts(one, group.scheme)
        for part in parts or ():
            if f"{one.name}.{part}" not in table:
                lacking.setdefault((part, group.scheme.format), []).append(one.name)
        faults += _of_one(one, group.scheme, parts, table) if parts else []
    for (part, form), names in lacking.items():
        faults.append(Fault(f"{names[0]}.{part}", f"missing beside {form} weights ({len(names)} in all)"))
    return [*faults, *_zero_points(config, groups, table)]


def _parts(linear: Linear, scheme: Scheme) -> Stored | None:
    """What must be there for a Linear; None for a format that is not judged."""
    # Two values a byte, and no tensor that says how many there were: its in_features are those of the bytes.
    k = linear.in_features * (2 if scheme.format in FOUR_BIT else 1)
    parts = stored(scheme, linear.out_features, k)
    return parts and {name: part for name, part in parts.items() if name not in NOT_JUDGED}


def _of_one(one: Linear, scheme: Scheme, parts: Stored, table: dict[str, Tensor]) -> Iterator[Fault]:
    weight = table.get(f"{one.name}.{next(iter(parts))}")
    dtypes = DTYPES.get(scheme.format, ())
    if weight is not None and dtypes and weight.dtype not in dtypes:
        yield Fault(weight.name, f"is stored as {weight.dtype}, {scheme.format} has {' or '.join(dtypes)}")
        return
    if "weight_shape" in parts and f"{one.name}.weight_shape" not in table:
        return
    n, k = one.out_features, one.in_features * (2 if scheme.format in FOUR_BIT else 1)
    numbers = scheme.weights
    for part, (shape, _) in parts.items():
        tensor = table.get(f"{one.name}.{part}")
        # One value may be stored as [], [1] or [1, 1].
        if tensor is None or tensor.shape == shape or shape == (1,) or part == "weight_shape":
            continue
        if part.endswith("scale"):
            size = {"channel": "per channel"}.get(numbers.per, numbers.group_size or numbers.grouped)
            takes = f"group size {size} of [{n}, {k}] takes {list(shape)}"
        else:
            takes = f"{numbers.bits} bit of [{n}, {k}] take {list(shape)}"
        yield Fault(tensor.name, f"has shape {list(tensor.shape)}, {takes}")


def _zero_points(config: dict[str, Any], groups: list[Group], table: dict[str, Tensor]) -> Iterator[Fault]:
    extra, lacking = [], []
    for one in linears_of(config, table):
        group = group_of(groups, one.name)
        if group is None or not one.packed or group.scheme.format != "pack-quantized":
            continue
        there = f"{one.name}.weight_zero_point" in table
        if group.scheme.weights.symmetric and there:
            extra.append(f"{one.name}.weight_zero_point")
        elif not group.scheme.weights.symmetric and not there:
            lacking.append(f"{one.name}.weight_zero_point")
    if extra:
        yield Fault(
            extra[0], f"a zero point in a symmetric scheme ({len(extra)} in all)", "symmetric: false, or no zero points"
        )
    if lacking:
        yield Fault(lacking[0], f"missing in an asymmetric scheme ({len(lacking)} in all)")


def placement_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    """Quantized where the config says and nowhere else."""
    groups = groups_of(config)
    if not groups or not any(name.endswith(QUANTIZED) for name in table):
        return []
    section = config["quantization_config"]
    every, family = linears_of(config, table), family_of(config)
    ignore = _as_loaded(config, section.get("ignore"))
    faults = []
    named = {target for group in groups for target in group.targets} - {"Linear"}
    for part in ("visual", "lm_head", "embeddings"):
        wrong = [n for n in modules(table) if is_packed(n, table) and family.part_of(n) == part]
        wrong = [name for name in wrong if not any(safe_match(target, name) for target in named)]
        if wrong:
            faults.append(Fault(f"{wrong[0]}.weight_packed", f"{len(wrong)} {part} layers are packed", "only language Linears"))
    covered = {one.name for one in every if any(safe_match(pattern, one.name) for pattern in ignore)}
    open_ = [
        one.name
        for one in every
        if not is_quantized(one.name, table) and one.name not in covered and group_of(groups, one.name) is not None
    ]
    if open_:
        what = f"does not cover {len(open_)} Linears that are not packed: {some(open_)}"
        faults.append(Fault(f"{SECTION}.ignore", what, "their names as the checkpoint's tensors have them"))
    both = [one.name for one in every if is_quantized(one.name, table) and one.name in covered]
    if both:
        faults.append(Fault(f"{SECTION}.ignore", f"covers {len(both)} Linears that are packed: {some(both)}"))
    free = (one.name for one in every if one.name not in covered and not group_of(groups, one.name))
    loose = [name for name in free if is_quantized(name, table)]
    if loose:
        what = f"names no group of {len(loose)} Linears that are quantized: {some(loose)}"
        faults.append(Fault(f"{SECTION}.config_groups", what, "a target that matches them"))
    return faults


def stray_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    """Entries of `ignore` that match nothing: a server passes over them, and whoever wrote them meant something."""
    if not groups_of(config):
        return []
    ignore = _as_loaded(config, config["quantization_config"].get("ignore"))
    known = named_modules(config, table)
    stray = [pattern for pattern in ignore if not any(safe_match(pattern, name) for name in known)]
    if not stray or not known:
        return []
    what = f"{len(stray)} entries match no module: {some(stray)}"
    return [Fault(f"{SECTION}.ignore", what, f"a real name: {next(iter(known))}")]


def not_judged(config: dict[str, Any], table: dict[str, Tensor]) -> list[str]:
    """What of the section's tensors is not judged here, in sentences."""
    section = config.get("quantization_config")
    if not isinstance(section, dict):
        return []
    method = section.get("quant_method")
    if method not in (None, "compressed-tensors"):
        return [f"the tensors of a section by {method!r} are not judged: vLLM reads it by itself"]
    unknown = {group.scheme.format for group in groups_of(config) if stored(group.scheme, 1, 1) is None}
    return [f"tensors of the format {name!r} are not judged" for name in sorted(unknown)]
