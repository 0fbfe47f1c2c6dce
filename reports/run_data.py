"""A Run read once: what every table, plot and page is made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from harness.compare.answers import Comparison
from harness.compare.arms import arms_of
from harness.compare.early import EarlyVerdict, early_verdicts
from harness.compare.runs import compare_run, comparing
from harness.compare.tokens import Divergence, compare_divergence
from harness.compare.trials import SpeedComparison, compare_speed
from harness.compare.tune import compare_settings
from harness.record.folder import RunFolder
from harness.record.records import Record
from harness.record.run_facts import RunFacts
from harness.suite.gate_policy import policy_of
from harness.util.errors import Fault

MOST_BETS = 200_000
"""Of more samples than this the page tells no early verdict: all of them would have to be read again."""


@dataclass
class RunData:
    """The facts of run.json, the Records, and what their comparisons gave."""

    run: RunFolder
    facts: RunFacts
    records: list[Record]
    accuracy: list[Comparison] = field(default_factory=list)
    divergence: list[Divergence] = field(default_factory=list)
    speed: list[SpeedComparison] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    """What could not be compared, by kind: accuracy, divergence, speed."""

    @classmethod
    def of(cls, run: RunFolder) -> RunData:
        """Read everything; raises Refused when there is no Run, or when its run.json cannot be read."""
        source = cls(run, run.read(), list(run.records()))
        for kind, compare in (("accuracy", compare_run), ("divergence", compare_divergence), ("speed", compare_speed)):
            found, source.faults[kind] = compare(run, source.baseline)
            setattr(source, kind, found)
        return source

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with."""
        return self.facts.baseline

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.run.suite_name

    @property
    def model(self) -> str:
        """The model as the suite names it."""
        model = self.facts.suite.get("model", "unknown")
        return model if isinstance(model, str) else f"shape {model.get('shape')}"

    @cached_property
    def variants(self) -> list[str]:
        """Every variant of the suite or the Records, the baseline first."""
        names = [self.baseline, *self.facts.variants, *(r.cell.variant for r in self.records)]
        return list(dict.fromkeys(name for name in names if name in self.facts.variants or self._measured(name)))

    def _measured(self, name: str) -> bool:
        return any(r.cell.variant == name for r in self.records)

    @cached_property
    def settings(self) -> tuple[list[SpeedComparison], list[Fault]]:
        """Each checkpoint under the suite's engine settings against the first of them; nothing where there is no such axis."""
        return compare_settings(self.records, self.facts.settings)

    @cached_property
    def early(self) -> list[EarlyVerdict]:
        """Verdicts before the last question, against the recovery that the suite's gate asks for; none of very large Runs."""
        arms = arms_of(self.facts, self.records, self.baseline)
        pairs = comparing([((self.run, one.baseline), (self.run, one.candidate), one) for one in arms])
        if self.random_weights or sum(pair.samples for pair in pairs) > MOST_BETS:
            return []
        policy = policy_of(self.facts.suite.get("gate") or {}, self.run.path / "run.json")
        return early_verdicts(pairs, policy.accuracy.min_recovery)

    def taken(self) -> list[str]:
        """A sentence for each variant that another Run measured."""
        places = {r.cell.variant: (r.taken_from, r.provenance.identity["device"]["name"]) for r in self.records if r.taken_from}
        return [f"{name} was measured in another Run ({run}), on {device}." for name, (run, device) in places.items()]

    @property
    def absent(self) -> list[str]:
        """Keys of the Cells that were planned and have no Record, none that can be read, or lost their samples."""
        here = {record.cell.key for record in self.records}
        return [key for key in self.facts.cells if key not in here]

    @property
    def damage(self) -> dict[str, list[str]]:
        """Why Cells do not count although their Records are there, and their labels."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in self.absent:
            if why := self.run.damage(key):
                found[why].append(self.labels.get(key, key))
        return dict(found)

    @property
    def labels(self) -> dict[str, str]:
        """What the planned Cells are called, by key; empty for a Run of an earlier version."""
        return self.facts.labels

    @property
    def random_weights(self) -> bool:
        """Whether any Record is of a model that was never trained."""
        return any(r.random_weights for r in self.records)

    def of_workload(self, workloads: Iterable[str], variant: str | None = None, done: bool = True) -> list[Record]:
        """The Records of some workloads; finished ones only, unless told otherwise."""
        names = set(workloads)
        return [
            r
            for r in self.records
            if r.cell.workload in names and (variant in (None, r.cell.variant)) and (r.status == "done" or not done)
        ]

    def overall(self, variant: str) -> Comparison | None:
        """A candidate's comparison over all its tasks: the total, or the only task's."""
        mine = self._of_candidate[variant]
        return next((c for c in mine if c.total), mine[0] if len(mine) == 1 else None)

    @cached_property
    def _of_candidate(self) -> dict[str, list[Comparison]]:
        found: dict[str, list[Comparison]] = defaultdict(list)
        for comparison in self.accuracy:
            found[comparison.candidate].append(comparison)
        return found

    def unfinished(self, variant: str | None = None, workloads: Iterable[str] = ()) -> list[Record]:
        """Cells that failed or are invalid."""
        names = set(workloads)
        return [
            r
            for r in self.records
            if r.status != "done" and variant in (None, r.cell.variant) and (not names or r.cell.workload in names)
        ]
