"""Whole Runs compared by answers: every candidate with its baseline, on all tasks.

What came out is kept in the cache folder until a Record, a samples file or the code behind it changes, and where there is
much to read the cores share the work. What a comparison is stands in harness/compare/answers.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from harness.compare import answers, counts, looked, pairing, pictures, rows, sequential, stats
from harness.compare import arms as arms_module
from harness.compare.answers import Comparing, Comparison, held
from harness.compare.arms import ARM_FIELDS, Arms, arms_of
from harness.record import folder, health, order, records
from harness.record.folder import RunFolder
from harness.record.records import Record
from harness.util import errors, files
from harness.util.cached import Kept
from harness.util.errors import Fault, NoDocuments, NotDone, OneArm, Unlike
from harness.util.parallel import spread
from harness.workloads import workload_names

MANY = 500_000
"""Above so many samples the cores share the work; below, it takes less time than it saves."""
Side = tuple[RunFolder, str]
"""A Run and the name of a variant in it."""


def compare_run(run: RunFolder, baseline: str, anyway: bool = False) -> tuple[list[Comparison], list[Fault]]:
    """Every candidate of a Run against its baseline, task by task and then in total.

    A fault for each pair of arms that differ in more than the checkpoint, or in their documents: those are left out.
    anyway: they are compared all the same, as far as documents can be paired; the faults stay.
    """
    found: list[Comparison] = []
    faults: list[Fault] = []
    arms = arms_of(run.read(), run.records(), baseline)
    for some, wrong in compare_arms([((run, a.baseline), (run, a.candidate), a) for a in arms], anyway=anyway):
        found += some
        faults += wrong
    return held(found), list(dict.fromkeys(faults))


def compare_arms(
    sides: Sequence[tuple[Side, Side, Arms]], may_differ: Sequence[str] = ARM_FIELDS, anyway: bool = False
) -> list[tuple[list[Comparison], list[Fault]]]:
    """Pairs of variants (baseline, candidate, and what they are called), each as in `compare_run`.

    What came out is kept in the cache folder until a Record, a samples file or the code that compares changes.
    """
    pairs, keeps = comparing(sides, may_differ, anyway), []
    for ((run, base), (other, candidate), arms), pair in zip(sides, pairs, strict=True):
        name = [[str(run.path.resolve()), base], [str(other.path.resolve()), candidate]]
        state = files.digest([_code(), str(arms), pair.state()])
        keeps.append(Kept(json.dumps([name, list(may_differ), anyway]), state, OUTCOME))
    outcomes = [keep.find() for keep in keeps]
    missing = [pair for pair, outcome in zip(pairs, outcomes, strict=True) if outcome is None]
    many = sum(pair.samples for pair in missing) > MANY
    made = iter(spread(_outcomes, missing) if many else _outcomes(missing))
    told = []
    for keep, outcome in zip(keeps, outcomes, strict=True):
        outcome = outcome or keep.keep(next(made))
        told.append(outcome.told())
    return told


def comparing(
    sides: Sequence[tuple[Side, Side, Arms]], may_differ: Sequence[str] = ARM_FIELDS, anyway: bool = False
) -> list[Comparing]:
    """Pairs of variants with their accuracy Records, not compared yet."""
    of = _accuracy_records(run for *both, _ in sides for run, _ in both)
    return [
        Comparing((run, other), (of[id(run), base], of[id(other), candidate]), arms, may_differ, anyway)
        for (run, base), (other, candidate), arms in sides
    ]


def _accuracy_records(runs: Iterable[RunFolder]) -> dict[tuple[int, str], dict[str, Record]]:
    """The accuracy Records by the id of their Run's object and their variant, and below that by task."""
    found: dict[tuple[int, str], dict[str, Record]] = defaultdict(dict)
    for number, run in {id(run): run for run in runs}.items():
        for record in run.records():
            if record.cell.workload in workload_names("answers"):
                found[number, record.cell.variant][record.cell.point["task"]] = record
    return found


def _outcomes(pairs: Sequence[Comparing]) -> list[_Outcome]:
    """Compare every pair on one task, then on the next: a baseline's samples are read once, and held for one task only."""
    for task in dict.fromkeys(task for pair in pairs for task in pair.records[0]):
        for pair in pairs:
            pair.compare(task)
    return [_Outcome.of(pair) for pair in pairs]


@dataclass
class _Outcome:
    """What comes of two arms, in a form that can be kept."""

    comparisons: list[Comparison]
    faults: list[tuple[str, dict[str, str]]]
    """Kind and fields of each."""

    @classmethod
    def of(cls, pair: Comparing) -> _Outcome:
        """What a finished pair of arms gave."""
        found, faults = pair.outcome()
        return cls(found, [(type(fault).__name__, asdict(fault)) for fault in faults])

    def told(self) -> tuple[list[Comparison], list[Fault]]:
        """The comparisons, and the faults as what they were."""
        return self.comparisons, [KINDS[kind](**fields) for kind, fields in self.faults]


OUTCOME = TypeAdapter(_Outcome)
KINDS: dict[str, type[Fault]] = {kind.__name__: kind for kind in (Fault, Unlike, NotDone, NoDocuments, OneArm)}


@cache
def _code() -> list[str]:
    """Hashes of the code that a Comparison follows from."""
    return [
        files.file_sha256(Path(str(module.__file__)))
        for module in (
            answers,
            arms_module,
            counts,
            errors,
            folder,
            health,
            looked,
            order,
            pairing,
            pictures,
            records,
            rows,
            sequential,
            stats,
        )
    ]
