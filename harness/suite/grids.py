"""The axes of a suite: what `grid` and `settings` stand for, written out as variants."""

from __future__ import annotations

import itertools
from typing import Any

from quantize.methods import METHODS, method_of


def expand_grid(data: dict[str, Any]) -> dict[str, Any]:
    """`grid: {group_size: [32, 128], observer: [minmax, mse]}` becomes one variant for each combination."""
    if "grid" not in data:
        return data
    data = dict(data)
    grid = data.pop("grid")
    if not isinstance(grid, dict):
        raise ValueError("grid: a mapping of recipe fields to lists of values")
    axes = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
    variants = dict(data.get("variants") or {})
    for values in itertools.product(*axes.values()):
        recipe = dict(zip(axes, values, strict=True))
        variants.setdefault(_grid_name(recipe), {"recipe": recipe})
    return data | {"variants": variants}


def _grid_name(recipe: dict[str, Any]) -> str:
    """`awq-w4-g128-mse` for a recipe of a grid; what its method has no such fields for is left out, fields beyond the usual
    four are appended as key and value."""
    method = str(recipe.get("method", "awq"))
    kind = method_of(method)
    fields = kind.model_fields if kind and not kind.of_earlier_versions else METHODS[0].model_fields
    parts, known = [method], {"method"}
    if "group_size" in fields:
        group = recipe.get("group_size", fields["group_size"].default)
        parts += [
            f"w{recipe.get('num_bits', fields['num_bits'].default)}",
            "channel" if group == -1 else f"g{group}",
            str(recipe.get("observer", fields["observer"].default)),
        ]
        known |= {"num_bits", "group_size", "observer"}
    if "symmetric" in recipe:
        parts.append("sym" if recipe["symmetric"] else "asym")
        known.add("symmetric")
    return "-".join(parts + [f"{k}-{v}" for k, v in recipe.items() if k not in known])


def expand_settings(data: dict[str, Any]) -> dict[str, Any]:
    """`settings: {machete: {}, marlin: {env: ...}}` serves every variant once under each, as VARIANT@SETTING."""
    if "settings" not in data:
        return data
    data = dict(data)
    axis, variants = data.pop("settings"), data.get("variants")
    if not isinstance(axis, dict) or not axis or not all(isinstance(v, dict | None) for v in axis.values()):
        raise ValueError(
            "settings: a mapping of names to engine settings, such as {default: {}, wide: {max_num_batched_tokens: 8192}}"
        )
    if not isinstance(variants, dict) or not all(isinstance(v, dict | None) for v in variants.values()):
        return data  # what is wrong with them is told by their own field
    served = {}
    for setting, changed in axis.items():
        for name, spec in variants.items():
            own = spec or {}
            before = own.get("engine") or {}
            if not isinstance(before, dict):
                return data  # what is wrong with it is told by its own field
            engine = {**before, **(changed or {})}
            served[f"{name}@{setting}"] = {**own, "engine": engine, "settings": str(setting)}
    return data | {"variants": served, "baseline": f"{data.get('baseline', 'bf16')}@{next(iter(axis))}"}
