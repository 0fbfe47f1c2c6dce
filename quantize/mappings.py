"""AWQ mappings: which layers a smooth pattern and its balance patterns pair up, told from names and shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

from harness.checkpoints.headers import matches
from harness.checkpoints.patterns import pattern_error, propose
from harness.families import Family
from harness.util.errors import Fault
from quantize.methods.awq import Smoothing
from quantize.methods.base import MappingFacts


def resolve_mappings(
    mappings: Sequence[Smoothing], family: Family, known: dict[str, tuple[int, ...]], packed: set[str]
) -> tuple[list[Fault], list[MappingFacts]]:
    """What each mapping resolves to, and what is wrong with it. known: shapes by module name."""
    faults, facts = [], []
    for mapping in mappings:
        where = f"mapping {mapping.smooth!r}"
        broken = [e for p in (mapping.smooth, *mapping.balance) if (e := pattern_error(p))]
        if broken:
            faults.append(Fault(where, f"not a regular expression ({broken[0]})"))
            continue
        fact, touched = _resolve(mapping, family, known, packed)
        facts.append(fact)
        if touched:
            faults.append(
                Fault(where, f"reaches into the vision tower ({touched})", f"scope it to the language model: {family.scope}")
            )
        elif fact.resolved == 0:
            real, proposal = propose(mapping.smooth, sorted(known))
            faults.append(
                Fault(
                    where,
                    f"resolves to no layer ({fact.reason or f'a real name: {real}'})",
                    "" if fact.reason else f"perhaps {proposal!r}",
                )
            )
    return faults, facts


def _resolve(
    mapping: Smoothing, family: Family, known: dict[str, tuple[int, ...]], packed: set[str]
) -> tuple[MappingFacts, str]:
    """Pair every smooth layer with the balance layers of its decoder layer, as llm-compressor's match_modules_set
    does for patterns that match once a layer."""
    smooths = [name for name in known if matches(mapping.smooth, name)]
    balances = [[name for name in known if matches(pattern, name)] for pattern in mapping.balance]
    touched = next((n for n in [*smooths, *(b for group in balances for b in group)] if family.part_of(n) == "visual"), "")
    resolved, reasons = 0, []
    for smooth in smooths:
        layer = family.layer_of(smooth)
        sets = [[n for n in group if family.layer_of(n) == layer] for group in balances]
        flat = [n for group in sets for n in group]
        if not all(sets):
            reasons.append(f"{layer or smooth} has no {mapping.balance[[not s for s in sets].index(True)]}")
        elif not any(n in packed for n in flat):
            reasons.append(f"none of {', '.join(flat)} is packed")
        elif clash := _size_clash(smooth, flat, known):
            reasons.append(clash)
        else:
            resolved += 1
    return MappingFacts(
        smooth=mapping.smooth, resolved=resolved, skipped=len(reasons), reason=reasons[0] if reasons else ""
    ), touched


def _size_clash(smooth: str, balance: list[str], known: dict[str, tuple[int, ...]]) -> str:
    """The smooth layer's outputs must be the balance layers' inputs; under grouped-query attention v_proj's are not
    o_proj's (llm-compressor, _check_layers_are_compatible)."""
    out = known[smooth][0]
    for name in balance:
        if len(known[name]) == 2 and known[name][1] != out:
            return f"{smooth} gives {out}, {name} takes {known[name][1]}: {out} vs {known[name][1]}"
    return ""
