"""A plan's Cells as pieces of work that processes can take: groups of one engine, in chains that stay on one device.

All of it is plain data. What is measured side by side, and what never is, is decided here; docs/cluster.md says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.plan.plan import Plan, PlannedCell, PlannedVariant
from harness.suite.schema import Suite
from harness.util import files
from harness.workloads import kind_of

ANSWERS = "answers"
"""The name of the chain of accuracy Cells that are asked in one shuffled order, every arm in turn."""
TIMED = "speed"
"""The name of the chain of all Cells whose figure is a time."""


@dataclass(frozen=True)
class Group:
    """The Cells that one engine measures."""

    number: int
    """Its place among the run's engine starts, from 1: the name of its log."""
    variant: PlannedVariant
    cells: tuple[PlannedCell, ...]
    checkpoint: str
    """The checkpoint's place as Records name it; `variant.path` may be a copy of it."""
    random_weights: bool = False


@dataclass(frozen=True)
class Chain:
    """Groups that one process measures one after the other on one device, and what it must know for that."""

    name: str
    suite: Suite
    folder: Path
    """The Run's folder."""
    groups: tuple[Group, ...]
    timed: bool = False
    after: tuple[str, ...] = ()
    """Names of the chains whose Records it starts from."""
    reference: dict[str, str] = field(default_factory=dict)
    """Keys of the baseline's Cells whose answers others start from, by task."""
    store: str | None = None
    """Where checkpoints come from and Records go to, when machines share no folder."""

    @property
    def gpus(self) -> int:
        """The most GPUs that one of its engines needs."""
        return max(self.suite.engine_of(group.variant.name).tensor_parallel_size for group in self.groups)

    @property
    def cells(self) -> list[PlannedCell]:
        """All of its Cells, in the order they are measured."""
        return [cell for group in self.groups for cell in group.cells]

    def only(self, keys: set[str]) -> Chain:
        """The same with those Cells alone; it may have no groups left."""
        kept = (replace(g, cells=tuple(c for c in g.cells if c.id.key in keys)) for g in self.groups)
        return replace(self, groups=tuple(group for group in kept if group.cells))


def store_of(suite: Suite) -> str | None:
    """The store that stands in for a shared folder; None where there is one."""
    return suite.cluster.store if suite.executor != "local" else None


def chains(plan: Plan, missing: Iterable[PlannedCell], folder: Path, apart: bool) -> list[Chain]:
    """The missing Cells in chains; apart: whether there is more than one device to measure on.

    On one device all is one chain, and a variant's Cells share an engine start. On several, Cells whose figure is a time
    stay one chain, so that the arms take turns on the very same card; the others are a chain a variant.
    """
    cells = list(missing)
    if not cells:
        return []
    if together := [c for c in cells if c.workload in plan.suite.in_one_order]:
        # Every arm of it, done or not: how far one is asked hangs on the others.
        mine = [c for c in plan.cells if c.workload in plan.suite.in_one_order and c.identity is not None and not c.taken]
        rest = [c for c in cells if c not in together]
        first = _chain(plan, ANSWERS, folder, mine, mine, 0)
        later = chains(plan, rest, folder, apart)
        shift = len(first.groups)
        return [first, *(replace(c, groups=tuple(replace(g, number=g.number + shift) for g in c.groups)) for c in later)]
    if not apart:
        return [_chain(plan, "all", folder, cells, cells, 0)]
    speed, rest = ([c for c in cells if kind_of(c.workload).timed is timed] for timed in (True, False))
    found = [_chain(plan, TIMED, folder, speed, cells, 0)] if speed else []
    for variant in dict.fromkeys(v.name for v, _ in plan.turns(rest)):
        number = sum(len(chain.groups) for chain in found)
        found.append(_chain(plan, variant, folder, [c for c in rest if c.variant == variant], cells, number))
    return found


def _chain(plan: Plan, name: str, folder: Path, cells: list[PlannedCell], every: list[PlannedCell], number: int) -> Chain:
    groups = tuple(
        Group(number + i, replace(variant, fit=None), tuple(mine), files.shown(variant.path), plan.random_weights(variant.name))
        for i, (variant, mine) in enumerate(plan.turns(cells), 1)
    )
    # What is measured against the baseline's answers waits for them (measure.measure_group); without others it comes after.
    baseline = plan.suite.baseline
    alone = all(kind_of(c.workload).relative_to for c in cells)
    starts_from = {kind_of(c.workload).relative_to for c in cells}
    brings = any(c.variant == baseline and c.workload in starts_from for c in every)
    after = (baseline,) if alone and brings and name != baseline else ()
    return Chain(
        name=name,
        suite=plan.suite,
        folder=folder,
        groups=groups,
        timed=any(kind_of(c.workload).timed for c in cells),
        after=after,
        reference={
            c.point["task"]: c.id.key
            for c in plan.every
            if c.variant == baseline and c.workload in starts_from and c.identity is not None
        },
        store=store_of(plan.suite),
    )
