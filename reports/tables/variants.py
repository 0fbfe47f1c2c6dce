"""The tables of the variants themselves: size on disk, which layers are packed, what served them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.checkpoints.verify import Structure
from harness.record.records import Record
from harness.record.run_facts import RunFacts
from reports.table import NOT_MEASURED, PARTS, Figure, Table, frame, gib, number


def storage(facts: RunFacts) -> Table:
    """Size on disk, as a model's author would print it."""
    base = facts.variant(facts.baseline).storage
    rows: list[dict[str, Any]] = []
    for name, variant in facts.variants.items():
        size = variant.storage
        if not size:
            rows.append(
                {
                    "variant": name,
                    "weights": f"{NOT_MEASURED} ({'imported' if variant.origin == 'imported' else 'not built'})",
                    "safetensors files": NOT_MEASURED,
                    "whole folder": NOT_MEASURED,
                    "of the baseline": NOT_MEASURED,
                }
            )
            continue
        ratio = size.safetensors_bytes / base.safetensors_bytes if base else None
        rows.append(
            {
                "variant": name,
                "weights": gib(size.safetensors_bytes),
                "safetensors files": size.safetensors_files,
                "whole folder": gib(size.total_bytes),
                "of the baseline": NOT_MEASURED if ratio is None else number(100 * ratio, ".1f", "%"),
            }
        )
    return Table("Storage", frame(rows))


def structure(facts: RunFacts) -> Table:
    """How many Linear layers of each part are packed, and how many are plain."""
    rows = []
    for name, variant in facts.variants.items():
        found = variant.structure
        if found:
            packed, plain = found.packed, found.plain
            rows.append(
                {"variant": name, "scheme": _scheme(found)}
                | {
                    f"{part} packed / plain": _packed(packed.get(part, 0), plain.get(part, 0))
                    for part in PARTS
                    if part in packed or part in plain
                }
            )
    return Table("Structure (Linear layers)", frame(rows, "0 / 0"))


def _packed(packed: int, plain: int) -> Figure:
    return Figure(f"{packed} / {plain}", {" packed": packed, " plain": plain})


def _scheme(found: Structure) -> str:
    if not found.num_bits:
        return "none"
    group = "per channel" if found.group_size == -1 else f"group {found.group_size}"
    return f"INT{found.num_bits}, {group}, {'symmetric' if found.symmetric else 'asymmetric'}"


def engines(records: Iterable[Record]) -> Table:
    """Which kernel served which variant, on what, with which versions."""
    rows: dict[str, dict[str, Any]] = {}
    for r in records:
        engine, identity = r.provenance.engine, r.provenance.identity
        versions = {name: version for name, version in identity["versions"].items() if version}
        tokens, weights = engine.get("kv_cache_tokens"), engine.get("weights_gib")
        why = engine.get("reasons", {}).get("weights_gib", "")
        rows.setdefault(
            r.cell.variant,
            {
                "variant": r.cell.variant,
                "device": identity["device"]["name"],
                "INT4 kernel": engine.get("kernel") or "none (not packed)",
                "KV cache, tokens": number(tokens, ",") if tokens else NOT_MEASURED,
                "weights in memory": number(weights, ".2f", "GiB") if weights is not None else f"{NOT_MEASURED} ({why})",
                "versions": ", ".join(f"{n} {v}" for n, v in versions.items()),
            },
        )
    return Table("Engine", frame(list(rows.values())))
