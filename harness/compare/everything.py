"""Everything that two variants, or two Runs, can be compared in: accuracy, divergence, speed and memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.compare.answers import Comparison, held
from harness.compare.arms import ARM_FIELDS, Arms, arms_of
from harness.compare.early import EarlyVerdict, early_verdicts
from harness.compare.runs import compare_arms, comparing
from harness.compare.tokens import Divergence, compare_divergence
from harness.compare.trials import SpeedComparison, compare_trials
from harness.record.folder import RunFolder
from harness.record.records import Record
from harness.record.run_facts import RunFacts
from harness.util.errors import Fault, Refused, Unlike, nearest


@dataclass
class Compared:
    """What was compared, and why some of it should not have been."""

    baseline: str
    """What the tables call the baseline."""
    accuracy: list[Comparison] = field(default_factory=list)
    divergence: list[Divergence] = field(default_factory=list)
    speed: list[SpeedComparison] = field(default_factory=list)
    early: list[EarlyVerdict] = field(default_factory=list)
    """Verdicts before the last question, where they were asked for."""
    faults: list[Fault] = field(default_factory=list)
    """Fields in which arms differ, and documents that do not pair."""
    damaged: list[Fault] = field(default_factory=list)
    """Cells whose Records are there and do not count, because they or their samples are not what was measured."""
    left_out: dict[str, list[Fault]] = field(default_factory=lambda: {"accuracy": [], "divergence": [], "speed": []})
    """Cells that failed or are invalid, and what one arm alone has, by kind."""

    def add(self, kind: str, faults: list[Fault]) -> None:
        """Sort faults into those that make arms unlike and those that leave something out."""
        self.faults += [f for f in faults if isinstance(f, Unlike)]
        self.left_out[kind] += [f for f in faults if not isinstance(f, Unlike)]


def compare_all(
    run: RunFolder,
    earlier: RunFolder | None = None,
    variants: tuple[str, str] | None = None,
    anyway: bool = False,
    early: tuple[float, int] | None = None,
) -> Compared:
    """Compare within a Run, or a Run with an earlier one; `variants` names baseline and candidate.

    anyway: arms that were not measured alike are compared all the same; the faults say in what they differ. early: the recovery
    that must be kept and the order's seed, where it is asked how many questions would have been enough. Raises Refused
    for a variant that is not there, and when nothing is there to compare.
    """
    facts, records = run.read(), list(run.records())
    damaged = [
        Fault(where.read().labels.get(key, key), why, "run it again")
        for where in (run, earlier)
        if where is not None
        for key in where.read().cells
        if (why := where.damage(key))
    ]
    before = earlier or run
    past = list(before.records()) if earlier else records
    pairs = _arms(facts, records, past, earlier, variants)
    where = f" in {earlier.path.resolve().name}" if earlier else ""
    arms = [Arms(f"{pair.baseline}{where}", pair.candidate) for pair in pairs]
    found = Compared(arms[0].baseline)
    found.damaged = damaged
    bases = [pair.baseline for pair in pairs]
    sides = [((before, base), (run, pair.candidate), pair) for base, pair in zip(bases, arms, strict=True)]
    for base, pair, (some, faults) in zip(bases, arms, compare_arms(sides, anyway=anyway), strict=True):
        found.accuracy += some
        found.add("accuracy", faults)
        of = [[r for r in rows if r.cell.variant == name] for rows, name in ((past, base), (records, pair.candidate))]
        speed, faults = compare_trials(of[0], of[1], pair, ARM_FIELDS)
        found.add("speed", faults)
        if anyway and any(isinstance(f, Unlike) for f in faults):
            speed, _ = compare_trials(of[0], of[1], pair, [*ARM_FIELDS, *_top_fields(of)])
        found.speed += speed
    if early is not None:
        found.early = early_verdicts(comparing(sides, anyway=anyway), *early)
    if earlier is None:
        divergence, faults = compare_divergence(run, facts.baseline)
        chosen = {(pair.baseline, pair.candidate) for pair in arms}
        found.divergence = [d for d in divergence if (d.baseline, d.candidate) in chosen]
        found.add("divergence", faults)
    if not (found.accuracy or found.speed or found.divergence or found.faults):
        raise Refused(Fault(str(run.path), f"has nothing that {arms[0]} were both measured in"))
    found.accuracy = held(found.accuracy)
    found.faults = list(dict.fromkeys(found.faults))
    return found


def _arms(
    facts: RunFacts,
    records: list[Record],
    past: list[Record],
    earlier: RunFolder | None,
    variants: tuple[str, str] | None,
) -> list[Arms]:
    """The pairs of variants to compare, each by its name in its own Run; raises Refused for names that are not there."""
    here, there = (dict.fromkeys(r.cell.variant for r in rows) for rows in (records, past))
    if variants:
        Refused.if_any(
            Fault("--variants", f"there is no variant {name!r}{nearest(name, known) or f'; there are: {chr(44).join(known)}'}")
            for name, known in ((variants[0], there), (variants[1], here))
            if name not in known
        )
        if earlier is None and variants[0] == variants[1]:
            return _nothing(f"was to compare {variants[0]} with itself")
        pairs = [variants]
    elif earlier is not None:
        pairs = [(name, name) for name in here if name in there]
    else:
        return arms_of(facts, records, facts.baseline) or _nothing("has no candidate beside its baseline")
    if not pairs:
        return _nothing("has no variant in common with the other Run")
    return [Arms(base, candidate) for base, candidate in pairs]


def _nothing(what: str) -> list[Arms]:
    raise Refused(Fault("the Run", what, "name two with --variants, or another Run with --baseline"))


def _top_fields(arms: list[list[Record]]) -> set[str]:
    return {name for rows in arms for record in rows for name in record.provenance.identity}
