"""From a suite to what would be done: variants, Cells with their keys, and every refusal at once.

Reads file headers and metadata only; nothing heavy is imported, nothing is written but the cache of content hashes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.checkpoints import headers, shape, verify
from harness.checkpoints.locate import checkpoint_faults, content_hash, manifest_faults, resolve_model, served_faults
from harness.checkpoints.served import Served, forecast
from harness.engine import device, server
from harness.families import family_of
from harness.plan import card_memory, other_runs
from harness.record.records import SCHEMA_VERSION, CellId, Record, cell_label
from harness.suite.schema import Suite
from harness.util import environments, files
from harness.util.errors import Fault, Refused, nearest
from harness.workloads import kind_of
from quantize import calibration, fit
from quantize.methods.base import Recipe


@dataclass
class PlannedVariant:
    """A variant with its checkpoint's place; `content` is None while it is not built."""

    name: str
    origin: Literal["source", "recipe", "checkpoint", "run"]
    path: Path
    """The checkpoint's folder; of a variant that is taken over, the Run's."""
    recipe: Recipe | None = None
    content: str | None = None
    fit: fit.FitFacts | None = None
    served: Served = field(default_factory=Served)
    """What will serve it, as far as that is known before it is served."""
    taken: list[Record] = field(default_factory=list)
    """The Records that are taken over from another Run."""

    @property
    def built(self) -> bool:
        return self.content is not None


@dataclass
class PlannedCell:
    """A Cell of the plan; without a key while its variant is not built."""

    variant: str
    workload: str
    point: dict[str, Any]
    identity: dict[str, Any] | None
    taken: CellId | None = None
    """The Cell of another Run that is taken over; nothing measures it here."""

    @property
    def id(self) -> CellId:
        assert self.identity is not None
        return self.taken or CellId(
            variant=self.variant, workload=self.workload, point=self.point, key=files.digest(self.identity)
        )

    @property
    def label(self) -> str:
        return cell_label(self.variant, self.workload, self.point)


@dataclass
class Plan:
    """What a run of the suite does."""

    suite: Suite
    source: Path
    variants: list[PlannedVariant]
    cells: list[PlannedCell]
    """Those to be done: all, or what --only keeps."""
    every: list[PlannedCell]
    """All Cells of the suite: the reports show what was measured of them."""
    faults: list[Fault]

    def to_build(self) -> list[PlannedVariant]:
        """Variants that have to be quantized, of those that have Cells."""
        used = {cell.variant for cell in self.cells}
        # One product may be served under several settings; it is built once.
        return list({v.path: v for v in reversed(self.variants) if not v.built and v.name in used}.values())[::-1]

    def random_weights(self, variant: str) -> bool:
        """Whether a variant's weights were never trained: its own mark, or its source's while it is not built."""
        planned = next(v for v in self.variants if v.name == variant)
        if planned.origin == "run":
            return any(record.random_weights for record in planned.taken)
        return shape.is_random(planned.path) or (planned.origin == "recipe" and shape.is_random(self.source))

    def of(self, variant: str) -> Iterator[PlannedCell]:
        """The Cells of one variant."""
        return (cell for cell in self.cells if cell.variant == variant)

    def turns(self, missing: Iterable[PlannedCell]) -> list[tuple[PlannedVariant, list[PlannedCell]]]:
        """The engine starts in their order, each with the Cells it measures.

        Trials are dealt over the suite's passes and every second pass runs backwards, so the arms alternate (A B, B A).
        A pass is a start of its own, also of the variant that ended the one before: what differs between starts is part
        of what is measured.
        """
        cells = list(missing)
        found: list[tuple[PlannedVariant, list[PlannedCell]]] = []
        # The baseline's answers are what relative workloads start from.
        order = sorted(self.variants, key=lambda v: v.name != self.suite.baseline)
        for number in range(self.suite.passes):
            for variant in order if number % 2 == 0 else reversed(order):
                mine = [
                    c
                    for c in cells
                    if c.variant == variant.name and (c.point.get("trial", 1) - 1) % self.suite.passes == number
                ]
                if mine:
                    found.append((variant, mine))
        return found


def make_plan(suite: Suite, checkpoints: Path, only: str | None = None) -> Plan:
    """Resolve the suite; raises Refused when there is no source, else collects all faults in the plan."""
    points, faults = _points(suite)
    try:
        source = resolve_model(suite.model)
    except Refused as refused:
        given = [_given(name, suite) for name, v in suite.variants.items() if v.run or v.checkpoint]
        faults += [
            *_calibration_faults(suite, None, (v.recipe for v in suite.variants.values())),
            *(f for _, g in given for f in g),
        ]
        raise Refused(*refused.faults, *dict.fromkeys(faults)) from None
    variants = []
    for name, asked in suite.variants.items():
        planned, found = _given(name, suite) if asked.run or asked.checkpoint else _made(name, suite, source, checkpoints)
        variants.append(planned)
        faults += found
    if all(variant.origin == "recipe" for variant in variants):
        faults += served_faults(source, "model: ")
    reference = next(v.content for v in variants if v.name == suite.baseline)
    cells = every = [cell for variant in variants for cell in _cells(suite, variant, reference, points)]
    if only:
        kept = [c for c in every if fnmatch.fnmatch(c.label, only) or fnmatch.fnmatch(c.label, f"*{only}*")]
        if not kept and not faults:
            faults.append(Fault(f"--only {only}", "matches no Cell" + nearest(only, [c.label for c in every])))
        together = [c.label for c in every if c.workload in suite.in_one_order]
        if 0 < len(set(together) & {c.label for c in kept}) < len(together):
            what = "parts Cells that are asked in one shuffled order, all tasks and arms together"
            faults.append(Fault(f"--only {only}", what, "keep all of accuracy or none of it"))
        cells = kept
    plan = Plan(suite, source, variants, cells, every, list(dict.fromkeys(faults)))
    plan.faults += (
        _calibration_faults(suite, source, (v.recipe for v in plan.to_build()))
        + _device_faults(plan)
        + _twins(plan)
        + _random_faults(plan)
    )
    return plan


def _points(suite: Suite) -> tuple[dict[str, list[dict[str, Any]]], list[Fault]]:
    """Each workload's points, and what is wrong with workloads and engine settings whatever the checkpoints are."""
    points: dict[str, list[dict[str, Any]]] = {}
    faults: list[Fault] = []
    for name, spec in suite.workloads.asked():
        kind = kind_of(name)()
        try:
            points[name] = kind.points(spec)
        except Refused as refused:
            faults += refused.faults
            continue
        measured = [suite.engine_of(v) for v, asked in suite.variants.items() if not asked.run]
        faults += [fault for settings in measured for fault in kind.faults(spec, points[name], settings)]
    faults += _order_faults(suite)
    if not any(suite.workloads.asked()):
        faults.append(Fault("workloads", "is empty: nothing would be measured", "for example accuracy: {tasks: [demo_vl]}"))
    faults += [fault for name in suite.variants for fault in server.setting_faults(suite.engine_of(name))]
    return points, faults


def _order_faults(suite: Suite) -> list[Fault]:
    """What cannot be asked in one shuffled order."""
    if not suite.in_one_order:
        return []
    right = "leave out accuracy.order and accuracy.stop"
    found = [
        Fault(f"variants.{name}.run", "was asked task by task, and accuracy.order is shuffled: answers would not pair", right)
        for name, asked in suite.variants.items()
        if asked.run
    ]
    if any(asked.settings is not None for asked in suite.variants.values()):
        found.append(Fault("accuracy.order", "is shuffled, which knows no settings axis", right))
    return found


def _given(name: str, suite: Suite) -> tuple[PlannedVariant, list[Fault]]:
    """A variant that is there already, as a Run or as a checkpoint, and what is wrong with it."""
    asked = suite.variants[name]
    if asked.run:
        try:
            taken = other_runs.records_of(asked.run, name, [kind for kind, _ in suite.workloads.asked()])
        except Refused as refused:
            faults = [fault.at(f"variants.{name}.run: ") for fault in refused.faults]
            return PlannedVariant(name, "run", asked.run), faults
        content = taken[0].provenance.identity["checkpoint"]
        return PlannedVariant(name, "run", asked.run, content=content, taken=taken), []
    assert asked.checkpoint is not None
    who = f"variants.{name}.checkpoint: "
    missing = [fault.at(who) for fault in checkpoint_faults(asked.checkpoint)]
    faults = missing or served_faults(asked.checkpoint, who)
    served, unserved = (Served(), []) if faults else forecast(asked.checkpoint, _generation(), who.removesuffix(": "))
    faults += unserved
    content = None if faults else content_hash(asked.checkpoint)
    return PlannedVariant(name, "checkpoint", asked.checkpoint, content=content, served=served), faults


def _made(name: str, suite: Suite, source: Path, checkpoints: Path) -> tuple[PlannedVariant, list[Fault]]:
    """The source itself, or a recipe's product, built or not."""
    variant = suite.variants[name]
    family = family_of(headers.read_config(source))
    recipe = variant.recipe and variant.recipe.resolved(family)
    if recipe is None:
        found = served_faults(source, f"variants.{name}: ")
        return PlannedVariant(name, "source", source, content=content_hash(source)), found
    try:
        quantize = environments.quantize()
        versions = quantize.versions(environments.QUANTIZE_PACKAGES)
    except Refused as refused:
        return PlannedVariant(name, "recipe", checkpoints / name, recipe), list(refused.faults)
    key = files.digest(
        {
            "source": content_hash(source),
            "recipe": recipe.identity(family),
            "calibration": suite.calibration.model_dump(mode="json"),
            "versions": versions,
        },
        10,
    )
    path = checkpoints / f"{name.removesuffix(f'@{variant.settings}')}-{key}"
    found, facts = fit.plan_recipe(source, recipe, _generation(), suite.calibration, quantize.python)
    faults = [fault.at(f"variants.{name}: ") for fault in found]
    served = Served(facts.scheme, facts.scheme_bits, {**facts.kernels}, facts.computed_as)
    planned = PlannedVariant(name, "recipe", path, recipe, fit=facts, served=served)
    if path.exists():
        damage = checkpoint_faults(path) or manifest_faults(path)
        faults += damage
        planned.content = None if damage else content_hash(path)
    return planned, faults


def _generation() -> str:
    """Whose kernels the device's vLLM would choose from; see kernels.TARGETS."""
    return str(device.describe().get("generation", "ampere"))


def _cells(
    suite: Suite, variant: PlannedVariant, reference: str | None, points: dict[str, list[dict[str, Any]]]
) -> Iterator[PlannedCell]:
    if variant.origin == "run":
        for record in variant.taken:
            yield PlannedCell(variant.name, record.cell.workload, record.cell.point, record.provenance.identity, record.cell)
        return
    for name, spec in suite.workloads.asked():
        kind = kind_of(name)()
        for point in points.get(name, ()):
            measured = kind.identity(spec, point)
            ready = variant.built
            if kind.relative_to:
                measured, ready = measured | {"reference": reference}, ready and reference is not None
            identity = cell_identity(suite, variant, name, measured) if ready else None
            yield PlannedCell(variant.name, name, point, identity)


def cell_identity(suite: Suite, variant: PlannedVariant, name: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Everything that can change a Cell's outcome; its hash is the Cell's key."""
    return {
        "schema": SCHEMA_VERSION,
        "workload": name,
        "checkpoint": variant.content,
        "repeat": suite.variants[variant.name].repeat,
        "measured": measured,
        "engine": suite.engine_of(variant.name).outcome_fields(),
        "versions": environments.serve().versions(environments.SERVE_PACKAGES),
        "device": {k: device.describe()[k] for k in ("kind", "name")},
    }


def _calibration_faults(suite: Suite, source: Path | None, recipes: Iterable[Recipe | None]) -> list[Fault]:
    """What is wrong with the calibration data that builds of these recipes need; source: the model, where it is known."""
    if not any(recipe and recipe.calibrates for recipe in recipes):
        return []
    tokens = family_of(headers.read_config(source)).image_tokens if source else ()
    return [fault.at("calibration.dataset: ") for fault in calibration.faults(suite.calibration, tokens)]


def _twins(plan: Plan) -> list[Fault]:
    """Two variants that are one checkpoint would share their Cells; `repeat` tells them apart on purpose."""
    faults: list[Fault] = []
    seen: dict[tuple[str, int, str], str] = {}
    for variant in (v for v in plan.variants if v.origin != "run"):
        # A recipe that is not built yet is told by its folder, whose name ends in the recipe's hash.
        unbuilt = variant.path.name.rpartition("-")[2] if variant.origin == "recipe" else str(variant.path)
        what = variant.content or unbuilt
        same = (what, plan.suite.variants[variant.name].repeat, str(plan.suite.engine_of(variant.name)))
        if same in seen:
            faults.append(
                Fault(
                    f"variants.{variant.name}",
                    f"is the same checkpoint as {seen[same]}",
                    "give one of them `repeat: 1` to measure it once more for the noise floor",
                )
            )
        seen[same] = variant.name
    taken = {cell.id.key: cell.variant for cell in plan.every if cell.taken}
    doubled = {c.variant: taken[c.id.key] for c in plan.every if taken and c.identity and not c.taken and c.id.key in taken}
    right = "leave one of them out, or give it `repeat: 1`"
    return faults + [Fault(f"variants.{a}", f"has Cells that {b} takes over from its Run", right) for a, b in doubled.items()]


def _random_faults(plan: Plan) -> list[Fault]:
    """Accuracy of weights that were never trained is refused: it would be a number without a meaning."""
    asked = dict.fromkeys(c.variant for c in plan.cells if kind_of(c.workload).trained_only and plan.random_weights(c.variant))
    what, right = "has random weights, so its accuracy means nothing", "measure latency, throughput and memory alone"
    return [Fault(f"variants.{name}", what, right) for name in asked]


def _device_faults(plan: Plan) -> list[Fault]:
    """Variants that are to be measured and do not fit the card, whether they are built yet or not."""
    if device.describe()["kind"] == "cpu":
        return []
    used = {cell.variant for cell in plan.cells}
    found = []
    for variant in (v for v in plan.variants if v.origin != "run"):
        size = verify.storage(variant.path).safetensors_bytes if variant.built else variant.fit and variant.fit.expected_bytes
        if variant.name in used and size:
            settings = plan.suite.engine_of(variant.name)
            expected = card_memory.forecast(variant.path if variant.built else plan.source, settings, size)
            found += card_memory.faults(variant.name, expected, settings)
    return found
