"""The best variant under a constraint: the smallest whose recovery is shown to be high enough, or none, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.compare import stats
from harness.record.folder import RunFolder
from harness.util.errors import Fault, OneArm, Refused, Unlike
from reports.run_data import RunData
from reports.table import NOT_MEASURED, Table, frame, gib, percent
from reports.tables.summary import Line, lines, tasks_of

Answer = Literal["fits", "too large", "shown to be too low", "not shown", "not measured"]


@dataclass
class Choice:
    """One variant held against the constraint."""

    name: str
    size_gib: float | None
    """Weights in memory where that was measured, else on disk."""
    recovery: str
    answer: Answer
    why: str


@dataclass
class Pick:
    """What was chosen, or why nothing was."""

    chosen: Choice | None
    choices: list[Choice]
    verdict: str

    @property
    def status(self) -> int:
        """The command's exit status: 0 chosen, 1 none can be, 3 none is shown to be good enough."""
        if self.chosen:
            return 0
        return 3 if any(c.answer in ("not shown", "not measured") for c in self.choices) else 1

    def table(self) -> Table:
        """Every variant and what speaks against it."""
        rows = [
            {
                "variant": c.name,
                "weights": NOT_MEASURED if c.size_gib is None else gib(c.size_gib * 2**30),
                "recovery %": c.recovery,
                "answer": c.answer,
                "why": c.why,
            }
            for c in self.choices
        ]
        return Table("Pick", frame(rows), [self.verdict])


def pick(run: RunFolder, max_weights_gib: float | None, min_recovery: float | None) -> Pick:
    """The smallest variant within `max_weights_gib` whose recovery's lower bound is `min_recovery` or more.

    The lower bound is that of all variants looked at together (`stats.among`), and no task may be shown to keep less, as in
    the gate. The baseline recovers all of itself; a repeated baseline is no choice. Equal sizes: the higher lower bound.
    Raises Refused for a constraint that makes no sense.
    """
    Refused.if_any(_faults(max_weights_gib, min_recovery))
    source = RunData.of(run)
    tasks = len(tasks_of(source))
    found = [line for line in lines(source) if not (line.comparison and line.comparison.noise)]
    # The best of twelve whose recovery is the limit has a lower bound above it in one Run of four: the choosing is allowed for.
    looks = sum(line.recovery is not None and not _too_large(line, max_weights_gib) for line in found)
    choices = [(line, _choice(line, source, tasks, max_weights_gib, min_recovery, looks)) for line in found]
    fitting = [(line, c) for line, c in choices if c.answer == "fits"]
    fitting.sort(key=lambda pair: (pair[1].size_gib or 0.0, -(pair[0].recovery.low if pair[0].recovery else 1.0)))
    chosen = fitting[0][1] if fitting else None
    asked = " and ".join(
        ([f"weights of at most {max_weights_gib:g} GiB"] if max_weights_gib is not None else [])
        + ([f"a recovery of at least {100 * min_recovery:g} % at its lower bound"] if min_recovery is not None else [])
    )
    verdict = f"{chosen.name}: the smallest variant with {asked or 'known weights'}." if chosen else f"None has {asked}."
    return Pick(chosen, [c for _, c in choices], verdict)


def _faults(max_weights_gib: float | None, min_recovery: float | None) -> list[Fault]:
    faults = []
    if max_weights_gib is not None and not max_weights_gib > 0:
        faults.append(Fault("--max-weights-gib", f"is {max_weights_gib:g}", "use a size above 0"))
    if min_recovery is not None and not 0 < min_recovery <= 1.5:
        right = f"it is a share: did you mean {min_recovery / 100:g}?" if 1.5 < min_recovery <= 150 else "use a share, as 0.98"
        faults.append(Fault("--min-recovery", f"is {min_recovery:g}", right))
    return faults


def _too_large(line: Line, most: float | None) -> bool:
    return most is not None and line.size_gib is not None and line.size_gib > most


def _choice(line: Line, source: RunData, tasks: int, most: float | None, least: float | None, looks: int) -> Choice:
    r, c = line.recovery and stats.among(line.recovery, looks), line.comparison
    low_on = [t for t in source.accuracy if least is not None and t.candidate == line.name and t.recovery.high < least]
    shown = f"{percent(r.value)} [{percent(r.low)}, {percent(r.high)}]" if r else NOT_MEASURED
    is_baseline = line.name == source.baseline
    made = Choice(line.name, line.size_gib, "100.00" if is_baseline else shown, "fits", "")
    if line.size_gib is None:
        made.answer, made.why = "not measured", "its size is not known: it was not built here"
    elif _too_large(line, most):
        made.answer, made.why = "too large", f"{line.size_gib:.2f} GiB, more than {most:g}"
    elif least is None or (is_baseline and least <= 1):
        pass
    elif source.random_weights:
        made.answer, made.why = "not measured", "random weights have no accuracy"
    elif r is None or c is None:
        refused = [str(f) for f in source.faults["accuracy"] if isinstance(f, Unlike | OneArm) and f.candidate == line.name]
        why = "; ".join([*line.reasons.values(), *refused[:1]])
        made.answer, made.why = "not measured", why or "no accuracy against the baseline"
    elif line.compared < tasks:
        made.answer, made.why = "not measured", f"only {line.compared} of {tasks} tasks can be compared"
    elif c.verdict == "degenerate":
        made.answer, made.why = "shown to be too low", "its answers are none"
    elif c.at_chance:
        made.answer, made.why = (
            "not shown",
            "the baseline is not shown to be better than guessing",
        )
    elif low_on and not r.high < least:
        task, bound = low_on[0].task, percent(low_on[0].recovery.high)
        made.answer, made.why = "shown to be too low", f"on {task} the upper bound, {bound} %, lies below {100 * least:g} %"
    elif r.high < least:
        made.answer, made.why = (
            "shown to be too low",
            f"the upper bound, {percent(r.high)} %, lies below {100 * least:g} %",
        )
    elif r.low < least:
        needed = c.questions_needed(least)
        more = f"; {needed:,} questions would show it, were there no loss" if needed and needed > c.n else ""
        made.answer, made.why = (
            "not shown",
            f"the lower bound{_for(looks)}, {percent(r.low)} %, lies below {100 * least:g} %{more}",
        )
    return made


def _for(looks: int) -> str:
    return f" for {looks} variants together" if looks > 1 else ""
