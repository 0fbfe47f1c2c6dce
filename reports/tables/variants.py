"""The tables of the variants themselves: size on disk, which layers are packed, what served them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.checkpoints.kernels import WEIGHTS_ONLY, bits_named
from harness.checkpoints.schemes import FULL
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
                {"variant": name, "scheme": found.scheme or (found.maker and f"{found.maker} (not read)") or "none"}
                | {
                    f"{part} packed / plain": _packed(packed.get(part, 0), plain.get(part, 0))
                    for part in PARTS
                    if part in packed or part in plain
                }
            )
    return Table("Structure (Linear layers)", frame(rows, "0 / 0"))


def _packed(packed: int, plain: int) -> Figure:
    return Figure(f"{packed} / {plain}", {" packed": packed, " plain": plain})


def engines(records: Iterable[Record], facts: RunFacts) -> Table:
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
                "kernel": _kernels(engine),
                "computed as": _computed_as(engine, facts.variant(r.cell.variant).structure),
                "KV cache, tokens": number(tokens, ",") if tokens else NOT_MEASURED,
                "weights in memory": number(weights, ".2f", "GiB") if weights is not None else f"{NOT_MEASURED} ({why})",
                "versions": ", ".join(f"{n} {v}" for n, v in versions.items()),
            },
        )
    return Table("Engine", frame(list(rows.values())))


def _kernels(engine: dict[str, Any]) -> str:
    """Every kernel by its class name, with how many Linears it serves where there are several."""
    named: dict[str, int | None] = engine.get("kernels") or ({engine["kernel"]: None} if engine.get("kernel") else {})
    if not named:
        why = (engine.get("reasons") or {}).get("kernel")
        return f"{NOT_MEASURED} ({why})" if why else "none (not packed)"
    several = len(named) > 1
    return ", ".join(f"{name} ({count} Linears)" if several and count else name for name, count in named.items())


def _computed_as(engine: dict[str, Any], found: Structure | None) -> str:
    """Bits of weights and activations; of earlier Records, which knew INT4 alone, from the kernel's name."""
    asked, computed = engine.get("scheme_bits"), engine.get("computed_as")
    if computed:
        return str(computed) if computed == asked else f"{computed}, not {asked}"
    if engine.get("kernel") and found and found.num_bits and WEIGHTS_ONLY.match(engine["kernel"]):
        return bits_named((found.num_bits, FULL))
    return NOT_MEASURED if asked or engine.get("kernel") else bits_named((FULL, FULL))
