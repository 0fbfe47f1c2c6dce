"""Everything that is wrong with a checkpoint, in one pass: headers, small tensors and slices; no torch, no loading.

Works on any compressed-tensors checkpoint. With a source it also checks that nothing was lost or changed on the way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.checkpoints.headers import (
    Tensor,
    linears_of,
    matches,
    modules,
    named_modules,
    read_config,
    tensors,
    weight_files,
)
from harness.checkpoints.readable import config_faults, readable
from harness.checkpoints.sidefiles import missing_files, side_file_faults, unreadable_files
from harness.checkpoints.values import is_packed, some, source_faults, tie_faults, value_faults
from harness.families import family_of
from harness.util.errors import Fault, Refused
from harness.util.strict import Strict

Check = tuple[str, Callable[[], list[Fault]]]
"""What is looked at, and what looks."""


class Storage(Strict):
    """What a checkpoint takes on disk."""

    total_bytes: int
    """Bytes of all files in the folder, the build's own manifest left out."""
    safetensors_bytes: int
    """Bytes of the safetensors files."""
    safetensors_files: int
    """How many safetensors files."""


class Structure(Strict):
    """Linears by part, packed and plain."""

    packed: dict[str, int] = Field(default_factory=dict)
    """Packed Linears of each part (language, visual, lm_head, embeddings)."""
    plain: dict[str, int] = Field(default_factory=dict)
    """Plain Linears of each part."""
    num_bits: int | None = None
    """Bits of the packed weights, from the config; null when nothing is packed."""
    group_size: int | None = None
    """Group size, -1 for per channel; null when nothing is packed."""
    symmetric: bool | None = None
    """Whether there are no zero points; null when nothing is packed."""


class Found(Strict):
    """One fault, as JSON carries it."""

    where: str
    """File, tensor, module or config field."""
    what: str
    """What is wrong with it."""
    right: str = ""
    """What would be right."""

    def __str__(self) -> str:
        return str(Fault(self.where, self.what, self.right))


class Report(Strict):
    """The outcome of `verify`."""

    checkpoint: Path
    """The folder."""
    source: Path | None
    """What it was compared with."""
    faults: list[Found]
    """Empty when all is well."""
    structure: Structure | None = None
    """Null when the weights cannot be read."""
    storage: Storage | None = None
    """Null when the folder is none."""


def storage(checkpoint: Path) -> Storage:
    """Sizes on disk of a checkpoint folder."""
    files = [p for p in checkpoint.iterdir() if p.is_file() and p.name != "manifest.json"]
    weights = weight_files(checkpoint)
    return Storage(
        total_bytes=sum(p.stat().st_size for p in files),
        safetensors_bytes=sum(p.stat().st_size for p in weights),
        safetensors_files=len(weights),
    )


def structure(checkpoint: Path) -> Structure:
    """Linears of a checkpoint by part, packed and plain. Raises Refused when its weights cannot be read."""
    return _structure(read_config(checkpoint), tensors(checkpoint))


def _structure(config: dict[str, Any], table: dict[str, Tensor]) -> Structure:
    counts: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for one in linears_of(config, table):
        counts[one.packed][one.part] = counts[one.packed].get(one.part, 0) + 1
    weights = _weight_args(config)
    if not counts[True] or not weights:
        return Structure(packed=counts[True], plain=counts[False])
    group = weights[0].get("group_size")
    return Structure(
        packed=counts[True],
        plain=counts[False],
        num_bits=weights[0].get("num_bits"),
        group_size=-1 if group is None else group,
        symmetric=weights[0].get("symmetric", True),
    )


def verify(checkpoint: Path, source: Path | None = None) -> Report:
    """Every fault of `checkpoint`, compared with `source` where one is given. Never raises for a bad checkpoint."""
    if not checkpoint.is_dir():
        return _report(checkpoint, source, [Fault(str(checkpoint), "no such folder")])
    faults: list[Fault] = []
    try:
        config = read_config(checkpoint)
    except Refused as refused:
        return _report(checkpoint, source, list(refused.faults))
    table, original = _read(checkpoint, faults), None
    if source is not None:
        try:
            original = (read_config(source), tensors(source))
        except Refused as refused:
            faults += refused.faults
    checks: list[Check] = [
        ("model.safetensors.index.json", lambda: _index_faults(checkpoint, table)),
        ("side files", lambda: side_file_faults(checkpoint, source, config)),
        *_needed(checkpoint, config, table),
    ]
    if table:
        checks += [
            (SECTION, lambda: _section_faults(config, table)),
            (SECTION, lambda: _scheme_faults(config, table)),
            (SECTION, lambda: _placement_faults(config, table)),
            ("config.json", lambda: tie_faults(config, table)),
        ]
    if table and original is not None:
        checks.append(("tensors", lambda: source_faults(config, table, *original)))
    for where, check in checks:
        faults += _tried(where, check)
    structure = None
    if table:
        try:
            structure = _structure(config, table)
        except UNREADABLE as error:
            faults.append(_unreadable(SECTION, error))
    return _report(checkpoint, source, faults, structure, storage(checkpoint))


def servable_faults(checkpoint: Path) -> list[Fault]:
    """What a server refuses or answers noise from, whoever made the checkpoint and in whatever format: a section that
    cannot be read here, packed weights without one, damaged scales and norms, no tokenizer or preprocessor. A part of
    what `verify` finds."""
    faults: list[Fault] = []
    try:
        config, table = read_config(checkpoint), _read(checkpoint, faults)
    except Refused as refused:
        return list(refused.faults)
    checks = [*_needed(checkpoint, config, table), ("side files", lambda: missing_files(checkpoint, config))]
    return faults + [fault for where, check in checks for fault in _tried(where, check)]


def _needed(checkpoint: Path, config: dict[str, Any], table: dict[str, Tensor]) -> list[Check]:
    """What any server asks of any checkpoint."""
    return [
        (SECTION, lambda: readable(checkpoint)),
        (SECTION, lambda: _missing_section(config, table)),
        ("tensors", lambda: value_faults(table)),
        ("config.json", lambda: config_faults(config, table)),
        ("side files", lambda: unreadable_files(checkpoint)),
    ]


SECTION = "config.json: quantization_config"
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, IndexError, ZeroDivisionError)


def _tried(where: str, check: Callable[[], list[Fault]]) -> list[Fault]:
    """What a check finds; a value of a kind that it cannot read is a fault as well, not an exception."""
    try:
        return check()
    except Refused as refused:
        return list(refused.faults)
    except UNREADABLE as error:
        return [_unreadable(where, error)]


def _unreadable(where: str, error: Exception) -> Fault:
    return Fault(where, f"holds a value that cannot be read ({type(error).__name__}: {error})")


def _report(
    checkpoint: Path,
    source: Path | None,
    faults: list[Fault],
    structure: Structure | None = None,
    storage: Storage | None = None,
) -> Report:
    unique = dict.fromkeys(faults)
    return Report(
        checkpoint=checkpoint,
        source=source,
        structure=structure,
        storage=storage,
        faults=[Found(where=f.where, what=f.what, right=f.right) for f in unique],
    )


def _read(checkpoint: Path, faults: list[Fault]) -> dict[str, Tensor]:
    from harness.checkpoints.headers import header

    table: dict[str, Tensor] = {}
    files = weight_files(checkpoint)
    if not files:
        faults.append(Fault(str(checkpoint), "holds no .safetensors file"))
    for file in files:
        try:
            table |= header(file)
        except Refused as refused:
            faults += refused.faults
    return table


def _weight_args(config: dict[str, Any]) -> list[dict[str, Any]]:
    groups = (config.get("quantization_config") or {}).get("config_groups") or {}
    return [g["weights"] for g in groups.values() if isinstance(g, dict) and isinstance(g.get("weights"), dict)]


def _index_faults(checkpoint: Path, table: dict[str, Tensor]) -> list[Fault]:
    path = checkpoint / "model.safetensors.index.json"
    if not path.is_file():
        several = len(weight_files(checkpoint)) > 1
        return [Fault(path.name, "missing beside several safetensors files")] if several else []
    try:
        named: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        return [Fault(path.name, f"not a weight index ({error})")]
    faults = [
        Fault(path.name, f"names {shard}, which is not there", "fetch or build that shard")
        for shard in sorted(set(named.values()))
        if not (checkpoint / shard).is_file()
    ]
    lost = [
        n for n, shard in named.items() if (checkpoint / shard).is_file() and (n not in table or table[n].file.name != shard)
    ]
    extra = [n for n in table if n not in named]
    if lost:
        faults.append(Fault(path.name, f"names tensors that their shard does not hold: {some(lost)}"))
    if extra:
        faults.append(Fault(path.name, f"does not name tensors that the shards hold: {some(extra)}"))
    return faults


def _missing_section(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    packed = sum(name.endswith(".weight_packed") for name in table)
    if not packed or config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config"):
        return []
    right = "the section the build wrote; without it a server reads noise or refuses"
    return [Fault(SECTION, f"missing, yet {packed} Linears are packed", right)]


def _section_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    section, packed = config.get("quantization_config"), [n for n in table if n.endswith(".weight_packed")]
    if not section:
        return []
    if section.get("quant_method") not in (None, "compressed-tensors"):
        return [Fault("config.json: quantization_config.quant_method", f"is {section['quant_method']!r}", "compressed-tensors")]
    if not packed and section.get("format") == "pack-quantized":
        return [
            Fault(
                "config.json: quantization_config",
                "says pack-quantized, yet no Linear is packed",
                "a checkpoint saved compressed",
            )
        ]
    return []


def _scheme_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    """Packed tensors against the scheme: zero points, shapes, the parts a packed Linear is made of."""
    weights = _weight_args(config)
    if not weights:
        return []
    args = weights[0]
    symmetric, bits, group = args.get("symmetric", True), int(args.get("num_bits") or 8), args.get("group_size")
    packed = [one for one in linears_of(config, table) if one.packed]
    if not packed:
        return []
    faults = []
    zero = [n for n in table if n.endswith(".weight_zero_point")]
    if symmetric and zero:
        faults.append(
            Fault(zero[0], f"a zero point in a symmetric scheme ({len(zero)} in all)", "symmetric: false, or no zero points")
        )
    lacking = [one.name for one in packed if not symmetric and f"{one.name}.weight_zero_point" not in table]
    if lacking:
        faults.append(Fault(f"{lacking[0]}.weight_zero_point", f"missing in an asymmetric scheme ({len(lacking)} in all)"))
    for part in ("weight_scale", "weight_shape"):
        without = [one.name for one in packed if f"{one.name}.{part}" not in table]
        if without:
            faults.append(Fault(f"{without[0]}.{part}", f"missing beside packed weights ({len(without)} in all)"))
    for one in packed:
        faults += _shape_faults(one.name, one.in_features, one.out_features, bits, group, table)
    return faults


def _shape_faults(name: str, k: int, n: int, bits: int, group: int | None, table: dict[str, Tensor]) -> list[Fault]:
    faults = []
    words = (n, -(-k * bits // 32))
    stored = table[f"{name}.weight_packed"].shape
    if stored != words and f"{name}.weight_shape" in table:
        faults.append(Fault(f"{name}.weight_packed", f"has shape {list(stored)}, {bits} bit of [{n}, {k}] take {list(words)}"))
    scale = table.get(f"{name}.weight_scale")
    wanted = (n, 1 if group in (None, -1) else -(-k // group))
    if scale is not None and f"{name}.weight_shape" in table and scale.shape != wanted:
        faults.append(
            Fault(
                f"{name}.weight_scale",
                f"has shape {list(scale.shape)}, group size "
                f"{'per channel' if group is None else group} of [{n}, {k}] takes {list(wanted)}",
            )
        )
    return faults


def _placement_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    """Packed where the config says and nowhere else; every ignore entry names something."""
    section = config.get("quantization_config")
    if not section or not any(n.endswith(".weight_packed") for n in table):
        return []
    faults = []
    every, family = linears_of(config, table), family_of(config)
    for part in ("visual", "lm_head", "embeddings"):
        wrong = [n for n in modules(table) if is_packed(n, table) and family.part_of(n) == part]
        if wrong:
            faults.append(Fault(f"{wrong[0]}.weight_packed", f"{len(wrong)} {part} layers are packed", "only language Linears"))
    ignore = [str(p) for p in section.get("ignore") or []]
    covered = {one.name for one in every if any(_match(p, one.name) for p in ignore)}
    targets = {t for g in (section.get("config_groups") or {}).values() for t in g.get("targets") or []}
    if "Linear" in targets:
        open_ = [one.name for one in every if not one.packed and one.name not in covered]
        if open_:
            faults.append(
                Fault(
                    "config.json: quantization_config.ignore",
                    f"does not cover {len(open_)} Linears that are not packed: {some(open_)}",
                    "their names as the checkpoint's tensors have them",
                )
            )
    both = [one.name for one in every if one.packed and one.name in covered]
    if both:
        faults.append(
            Fault("config.json: quantization_config.ignore", f"covers {len(both)} Linears that are packed: {some(both)}")
        )
    known = named_modules(config, table)
    stray = [p for p in ignore if not any(_match(p, name) for name in known)]
    if stray:
        faults.append(
            Fault(
                "config.json: quantization_config.ignore",
                f"{len(stray)} entries match no module: {some(stray)}",
                f"a real name: {next(iter(known))}",
            )
        )
    return faults


def _match(pattern: str, name: str) -> bool:
    try:
        return matches(pattern, name)
    except re.error:
        return False
