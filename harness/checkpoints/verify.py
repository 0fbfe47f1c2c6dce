"""Everything that is wrong with a checkpoint, in one pass: headers, small tensors and slices; no torch, no loading.

Works on any compressed-tensors checkpoint. With a source it also checks that nothing was lost or changed on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.checkpoints import chat_template, section, shards
from harness.checkpoints.headers import Tensor, linears_of, read_config, tensors, weight_files
from harness.checkpoints.readable import config_faults, readable
from harness.checkpoints.schemes import Scheme, maker_of, schemes_of
from harness.checkpoints.sidefiles import side_file_faults, unreadable_files
from harness.checkpoints.values import source_faults, tie_faults, value_faults
from harness.checkpoints.whole import completeness_faults
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
    schemes: list[Scheme] = Field(default_factory=list)
    """What its section says they are, each scheme once; empty without one, and in Runs of earlier versions."""
    maker: str | None = None
    """Whose section of quantization it is (`quant_method`); null when there is none."""

    @property
    def scheme(self) -> str | None:
        """The schemes in words; None when nothing is quantized, or by a maker that is not known."""
        if self.schemes:
            return "; ".join(scheme.words for scheme in self.schemes)
        if not self.num_bits:
            return None
        group = "per channel" if self.group_size == -1 else f"group {self.group_size}"
        return f"INT{self.num_bits}, {group}, {'symmetric' if self.symmetric else 'asymmetric'}"


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
    notes: list[str] = Field(default_factory=list)
    """What is no fault and should be known: which of several chat templates counts, what is not judged."""
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
    schemes = schemes_of(config)
    known: dict[str, Any] = {"packed": counts[True], "plain": counts[False], "maker": maker_of(config), "schemes": schemes}
    if not counts[True] or not schemes:
        return Structure(**known)
    weights = schemes[0].weights
    return Structure(
        **known,
        num_bits=weights.bits,
        group_size=weights.group_size or -1,
        symmetric=weights.symmetric,
    )


def verify(checkpoint: Path, source: Path | None = None) -> Report:
    """Every fault of `checkpoint`, compared with `source` where one is given. Never raises for a bad checkpoint."""
    if not checkpoint.is_dir():
        return _report(checkpoint, source, [Fault(str(checkpoint), "no such folder")])
    try:
        config = read_config(checkpoint)
    except Refused as refused:
        return _report(checkpoint, source, list(refused.faults))
    table, faults = shards.read(checkpoint)
    original = None
    if source is not None:
        try:
            original = (read_config(source), tensors(source))
        except Refused as refused:
            faults += refused.faults
    checks = _checks(checkpoint, source, config, table, whole=not faults)
    checks.append((SECTION, lambda: section.stray_faults(config, table)))
    if table and original is not None:
        checks.append(("tensors", lambda: source_faults(config, table, *original)))
    for where, check in checks:
        faults += _tried(where, check)
    structure = None
    notes = chat_template.notes(checkpoint)
    if table:
        try:
            structure = _structure(config, table)
            notes += section.not_judged(config, table)
        except UNREADABLE:
            faults.append(_unreadable(SECTION))
    return _report(checkpoint, source, faults, structure, storage(checkpoint), notes)


def servable_faults(checkpoint: Path) -> list[Fault]:
    """Why no server is to be started on a checkpoint, whoever made it and in whatever format: it would refuse, or answer
    noise. What `verify` finds without a source, but for what a server passes over."""
    try:
        config = read_config(checkpoint)
    except Refused as refused:
        return list(refused.faults)
    table, faults = shards.read(checkpoint)
    for where, check in _checks(checkpoint, None, config, table, whole=not faults):
        faults += _tried(where, check)
    return list(dict.fromkeys(faults))


def _checks(
    checkpoint: Path, source: Path | None, config: dict[str, Any], table: dict[str, Tensor], whole: bool
) -> list[Check]:
    """What any server asks of any checkpoint. whole: whether every file is there, so that what is missing is missing."""
    checks: list[Check] = [
        (SECTION, lambda: readable(checkpoint)),
        ("config.json", lambda: config_faults(config, table)),
        ("side files", lambda: unreadable_files(checkpoint)),
        ("side files", lambda: side_file_faults(checkpoint, source, config)),
        ("chat template", lambda: chat_template.faults(checkpoint)),
    ]
    if table:
        checks += [
            ("tensors", lambda: completeness_faults(config, table) if whole else []),
            ("tensors", lambda: value_faults(table)),
            (SECTION, lambda: section.section_faults(config, table)),
            (SECTION, lambda: section.tensor_faults(config, table) if whole else []),
            (SECTION, lambda: section.placement_faults(config, table)),
            ("config.json", lambda: tie_faults(config, table)),
        ]
    return checks


SECTION = section.SECTION
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, IndexError, ZeroDivisionError)


def _tried(where: str, check: Callable[[], list[Fault]]) -> list[Fault]:
    """What a check finds; a value of a kind that it cannot read is a fault as well, not an exception."""
    try:
        return check()
    except Refused as refused:
        return list(refused.faults)
    except UNREADABLE:
        return [_unreadable(where)]


def _unreadable(where: str) -> Fault:
    return Fault(where, "holds a value of another kind than belongs there", "the file of the build, or of the source model")


def _report(
    checkpoint: Path,
    source: Path | None,
    faults: list[Fault],
    structure: Structure | None = None,
    storage: Storage | None = None,
    notes: list[str] | None = None,
) -> Report:
    unique = dict.fromkeys(faults)
    return Report(
        checkpoint=checkpoint,
        source=source,
        structure=structure,
        storage=storage,
        notes=notes or [],
        faults=[Found(where=f.where, what=f.what, right=f.right) for f in unique],
    )
