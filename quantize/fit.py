"""What can be built and what can be served, told from shapes alone. Reads safetensors headers; milliseconds, no torch.

`plan_recipe` collects every fault of a recipe at once: patterns that match nothing, group sizes that divide no layer,
mappings that resolve to nothing, formats that pack but that no kernel of the target runs.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.checkpoints.headers import (
    Linear,
    Tensor,
    linears_of,
    matches,
    named_modules,
    read_config,
    tensors,
)
from harness.checkpoints.kernels import TARGETS, Service, served_by
from harness.checkpoints.patterns import pattern_error, propose, safe_match
from harness.checkpoints.schemes import stored_bytes
from harness.families import Family, Part, family_of
from harness.util.errors import Fault, OfSource, Refused
from harness.util.strict import Strict
from quantize.methods.base import MappingFacts, Quantizing, Recipe, Rounding
from quantize.recipe import Calibration

SIZES = (16, 32, 64, 128, 256, 512, 1024)
"""Group sizes offered when one does not fit."""


class IgnoreFacts(Strict):
    """What one ignore pattern keeps in high precision."""

    pattern: str
    """As written in the recipe."""
    matches: int
    """Modules with a weight that it matches."""
    by_part: dict[Part, int] = Field(default_factory=dict)
    """The same, by part."""
    linears: int = 0
    """Linears among them."""


class FitFacts(Strict):
    """What a recipe would do to a source, as read from its headers."""

    linears: dict[Part, int] = Field(default_factory=dict)
    """Linears of the source, by part."""
    packed: int = 0
    """Linears that would be packed."""
    ignore: list[IgnoreFacts] = Field(default_factory=list)
    """Each pattern's matches."""
    mappings: list[MappingFacts] = Field(default_factory=list)
    """Each mapping's layers; empty for methods without any."""
    target: str | None = "cpu"
    """What the kernels were asked for."""
    scheme: str = ""
    """What the packed Linears become, in words; empty for methods that pack none."""
    scheme_bits: str = ""
    """The bits it asks for, such as W4A16."""
    kernels: dict[str, int] = Field(default_factory=dict)
    """vLLM's kernel class and how many packed Linears it serves."""
    computed_as: str = ""
    """What those compute in, such as W4A16; empty where it is not known."""
    source_bytes: int = 0
    """Bytes of the source's tensors."""
    expected_bytes: int = 0
    """Bytes of the finished checkpoint's tensors."""
    calibration_host_bytes: int = 0
    """Host memory the build needs, roughly; 0 when the recipe needs no calibration."""
    calibration_device_bytes: int = 0
    """Memory of the device the search runs on, roughly."""


def plan_recipe(
    source: Path,
    recipe: Recipe,
    target: str | None = "cpu",
    calibration: Calibration | None = None,
    interpreter: Path | None = None,
) -> tuple[list[Fault], FitFacts]:
    """Everything wrong with building `recipe` from `source` for `target` (one of kernels.TARGETS; None: whether it
    packs is asked, not what serves it).

    `interpreter` is the quantize environment's Python: with it, an unknown observer is a fault as well. A source that
    is no checkpoint is a fault, not an exception.
    """
    try:
        config, table = read_config(source), tensors(source)
    except Refused as refused:
        return list(refused.faults), FitFacts(target=target)
    family = family_of(config)
    recipe = recipe.resolved(family)
    found = linears_of(config, table)
    source_bytes = sum(t.nbytes for t in table.values())
    counts = dict(Counter(one.part for one in found))
    faults = _source_faults(source, config, found)
    if family.unbuilt and recipe.needs_model:
        what, right = f"cannot be quantized here: {family.unbuilt}", "serve a checkpoint of it that was made elsewhere"
        faults.append(OfSource(f"model_type {config.get('model_type')!r}", what, right))
        return faults, FitFacts(target=target, source_bytes=source_bytes, linears=counts)
    if target is not None and target not in TARGETS:
        faults.append(Fault(f"target {target!r}", "unknown", f"one of {', '.join(TARGETS)}"))
    known = named_modules(config, table)
    ignore_faults, ignore_facts = _ignored(recipe.ignored, family, known, found)
    faults += ignore_faults
    kept = resolve_ignore(recipe.ignored, found)
    packed = [one for one in found if one.name not in kept]
    base: dict[str, Any] = {"linears": counts, "ignore": ignore_facts, "target": target, "source_bytes": source_bytes}
    if not isinstance(recipe, Quantizing):
        return faults, FitFacts(**base, expected_bytes=source_bytes)
    faults += _part_faults(packed, family)
    # Shapes are judged for what should be packed: a vision tower that slipped through is its own fault, named above.
    meant = [one for one in packed if one.part == "language"]
    faults += _shape_faults(recipe, meant)
    service = served_by(target, recipe.scheme, meant, family) if target in TARGETS else Service()
    faults += [] if any(_indivisible(recipe, one) for one in meant) else _kernel_faults(recipe, target, service)
    own_faults, mapping_facts = recipe.faults(family, known, packed)
    faults += own_faults
    faults += _observer_faults(recipe, interpreter)
    host, device = _memory(recipe, calibration or Calibration(), config, table, packed)
    return faults, FitFacts(
        **base,
        packed=len(packed),
        mappings=mapping_facts,
        kernels=service.kernels,
        scheme=recipe.scheme.words,
        scheme_bits=recipe.scheme.name,
        computed_as=service.computed_as,
        expected_bytes=source_bytes
        + sum(
            packed_bytes(recipe, one) - table[f"{one.name}.weight"].nbytes for one in packed if f"{one.name}.weight" in table
        ),
        calibration_host_bytes=host,
        calibration_device_bytes=device,
    )


def linears(source: Path) -> list[Linear]:
    """The Linears of a checkpoint. Raises Refused when it is none."""
    return linears_of(read_config(source), tensors(source))


def resolve_ignore(patterns: list[str], found: list[Linear]) -> set[str]:
    """Names of the Linears that the patterns keep in high precision."""
    return {one.name for one in found if any(safe_match(p, one.name) for p in patterns)}


def packed_bytes(recipe: Quantizing, linear: Linear) -> int:
    """Bytes of a Linear's tensors in the recipe's scheme."""
    return stored_bytes(recipe.scheme, linear.out_features, linear.in_features)


def offered_observers(interpreter: Path) -> list[str]:
    """The observers the llm-compressor beside `interpreter` registers, read from its source; [] when it is not found.

    Read, not imported: importing it takes ten seconds, a plan a tenth of one.
    """
    names: set[str] = set()
    # Not resolved: a virtual environment's interpreter is a link, and its packages are beside the link.
    for file in interpreter.parent.parent.glob("lib/python*/site-packages/llmcompressor/observers/*.py"):
        text = file.read_text(encoding="utf-8")
        for call in re.findall(r"@Observer\.register\(([^)]*)\)", text):
            names.update(re.findall(r"[\"']([\w-]+)[\"']", call))
    return sorted(names)


# -- the faults --------------------------------------------------------------------------------------------------------


def _source_faults(source: Path, config: dict[str, Any], found: list[Linear]) -> list[Fault]:
    if "quantization_config" in config or any(one.packed for one in found):
        return [OfSource(f"source {source}", "is quantized already", "the BF16 checkpoint it was made from")]
    if not any(one.part == "language" for one in found):
        return [OfSource(f"source {source}", "has no Linear in its language model that could be packed")]
    return []


def _ignored(
    patterns: list[str], family: Family, known: dict[str, tuple[int, ...]], found: list[Linear]
) -> tuple[list[Fault], list[IgnoreFacts]]:
    faults, facts = [], []
    for pattern in patterns:
        broken = pattern_error(pattern)
        if broken:
            faults.append(Fault(f"ignore {pattern!r}", f"not a regular expression ({broken})"))
            continue
        hits = [name for name in known if matches(pattern, name)]
        by_part = dict(Counter(family.part_of(name) for name in hits))
        linears = sum(matches(pattern, one.name) for one in found)
        facts.append(IgnoreFacts(pattern=pattern, matches=len(hits), by_part=by_part, linears=linears))
        if not hits:
            real, proposal = propose(pattern, sorted(known))
            faults.append(Fault(f"ignore {pattern!r}", f"matches no module (a real name: {real})", f"perhaps {proposal!r}"))
    return faults, facts


def _part_faults(packed: list[Linear], family: Family) -> list[Fault]:
    faults = []
    for part in ("visual", "lm_head"):
        hit = [one.name for one in packed if one.part == part]
        if hit:
            proposal = next((p for p in family.ignore if safe_match(p, hit[0])), "")
            if not proposal:
                proposal = "re:.*" + re.escape(next(p for p in hit[0].split(".") if family.part_of(p) == part)) + ".*"
            faults.append(
                Fault(
                    f"ignore: {hit[0]}",
                    f"{len(hit)} {part} Linears would be packed, which costs accuracy and wins little",
                    f"add {proposal!r}",
                )
            )
    return faults


def _indivisible(recipe: Quantizing, linear: Linear) -> bool:
    group = recipe.scheme.weights.group_size
    return group is not None and linear.in_features % group != 0


def _shape_faults(recipe: Quantizing, packed: list[Linear]) -> list[Fault]:
    bad = [one for one in packed if _indivisible(recipe, one)]
    if not bad:
        return []
    group = recipe.scheme.weights.group_size
    more = f", and {len(bad) - 1} more layers like it" if len(bad) > 1 else ""
    what = f"does not divide in_features {bad[0].in_features} of {bad[0].name}{more}"
    if not isinstance(recipe, Rounding):
        return [Fault(recipe.where, f"its group of {group} {what}", "another method, or these layers in `ignore`")]
    fit = [size for size in SIZES if all(one.in_features % size == 0 for one in packed)]
    own = [size for size in SIZES if bad[0].in_features % size == 0]
    right = (
        f"sizes that divide every layer: {', '.join(map(str, fit))}"
        if fit
        else f"sizes that divide this layer: {', '.join(map(str, own)) or 'none'}"
    )
    return [Fault(f"group_size {group}", what, f"{right}, or -1 for one scale an output channel")]


def _kernel_faults(recipe: Quantizing, target: str | None, service: Service) -> list[Fault]:
    if service.without is None:
        return []
    one = service.without
    what = f"packs, but no kernel of target {target} runs {one.name} [{one.out_features}, {one.in_features}]"
    return [Fault(recipe.where, what, service.why)]


def _observer_faults(recipe: Quantizing, interpreter: Path | None) -> list[Fault]:
    offered = offered_observers(interpreter) if interpreter else []
    if not offered or recipe.observer in offered:
        return []
    near = difflib.get_close_matches(recipe.observer, offered, 1, 0.4)
    return [
        Fault(
            f"observer {recipe.observer!r}",
            "is not offered by the installed llm-compressor",
            (f"perhaps {near[0]!r}; " if near else "") + f"one of {', '.join(offered)}",
        )
    ]


def _memory(
    recipe: Quantizing, calibration: Calibration, config: dict[str, Any], table: dict[str, Tensor], packed: list[Linear]
) -> tuple[int, int]:
    """Rough upper limits of the build's memory in bytes, host and device; (0, 0) when it needs no calibration.

    With every sample at its longest, N = samples * max_seq_length tokens. The search of one decoder layer holds the
    layer's inputs, the kept inputs of attention, MLP and down_proj, and two outputs: N * (5 * hidden + intermediate)
    values of 2 bytes. The host holds the source, a second copy of its decoder layers, and N * hidden values.
    """
    if not recipe.calibrates or not packed:
        return 0, 0
    text = family_of(config).text_of(config)
    hidden, intermediate = int(text.get("hidden_size", 0)), int(text.get("intermediate_size", 0))
    tokens = calibration.samples * calibration.max_seq_length
    family = family_of(config)
    layers = sum(t.nbytes for n, t in table.items() if family.layer_of(n) and family.part_of(n) == "language")
    by_layer: Counter[str] = Counter()
    for one in packed:
        by_layer[family.layer_of(one.name)] += 2 * one.in_features * one.out_features
    one_layer = max(by_layer.values())
    host = sum(t.nbytes for t in table.values()) + layers + tokens * hidden * 2
    return host, 3 * one_layer + tokens * (5 * hidden + intermediate) * 2
