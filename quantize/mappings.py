"""AWQ mappings: which layers a smooth pattern and its balance patterns pair up, told from names and shapes alone."""

from __future__ import annotations

import re

from harness.checkpoints.headers import matches, part_of
from harness.checkpoints.patterns import pattern_error, propose
from harness.util.errors import Fault
from harness.util.strict import Strict
from quantize.recipe import Mapping, Recipe


class MappingFacts(Strict):
    """What one AWQ mapping resolves to."""

    smooth: str
    """The mapping's smooth pattern."""
    resolved: int
    """Layers that are searched."""
    skipped: int
    """Layers that match but cannot be searched."""
    reason: str = ""
    """Why those are skipped (the first's reason)."""


def resolve_mappings(
    recipe: Recipe, known: dict[str, tuple[int, ...]], packed: set[str]
) -> tuple[list[Fault], list[MappingFacts]]:
    """What each of the recipe's mappings resolves to, and what is wrong with it. known: shapes by module name."""
    faults, facts = [], []
    for mapping in recipe.mappings:
        where = f"mapping {mapping.smooth!r}"
        broken = [e for p in (mapping.smooth, *mapping.balance) if (e := pattern_error(p))]
        if broken:
            faults.append(Fault(where, f"not a regular expression ({broken[0]})"))
            continue
        fact, touched = _resolve(mapping, known, packed)
        facts.append(fact)
        if touched:
            faults.append(
                Fault(
                    where, f"reaches into the vision tower ({touched})", "scope it to the language model: re:.*language_model.*"
                )
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


def _resolve(mapping: Mapping, known: dict[str, tuple[int, ...]], packed: set[str]) -> tuple[MappingFacts, str]:
    """Pair every smooth layer with the balance layers of its decoder layer, as llm-compressor's match_modules_set
    does for patterns that match once a layer."""
    smooths = [name for name in known if matches(mapping.smooth, name)]
    balances = [[name for name in known if matches(pattern, name)] for pattern in mapping.balance]
    touched = next((n for n in [*smooths, *(b for group in balances for b in group)] if part_of(n) == "visual"), "")
    resolved, reasons = 0, []
    for smooth in smooths:
        layer = layer_of(smooth)
        sets = [[n for n in group if layer_of(n) == layer] for group in balances]
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


def layer_of(name: str) -> str:
    """The decoder layer that a module lies in, or nothing."""
    found = re.match(r".*?\.layers\.\d+(?=\.|$)", name)
    return found.group(0) if found else ""


def _size_clash(smooth: str, balance: list[str], known: dict[str, tuple[int, ...]]) -> str:
    """The smooth layer's outputs must be the balance layers' inputs; under grouped-query attention v_proj's are not
    o_proj's (llm-compressor, _check_layers_are_compatible)."""
    out = known[smooth][0]
    for name in balance:
        if len(known[name]) == 2 and known[name][1] != out:
            return f"{smooth} gives {out}, {name} takes {known[name][1]}: {out} vs {known[name][1]}"
    return ""
