"""A policy over comparisons: pass, fail, inconclusive or blocked, with the reason for each line.

Accuracy is judged as non-inferiority: a variant passes when the whole interval of its recovery lies above what must be
kept, fails when the whole interval lies below, and is inconclusive in between. That nothing was shown is never a pass.
Speed and memory are judged in the same way against the same variant of an earlier Run on the same device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.compare import ratios, stats
from harness.compare.answers import Comparison
from harness.compare.arms import ARM_FIELDS, Arms
from harness.compare.runs import compare_arms, compare_run
from harness.compare.tokens import compare_divergence
from harness.compare.trials import SpeedComparison, compare_speed, compare_trials, direction
from harness.record.folder import RunFolder
from harness.record.health import Health
from harness.record.records import Record, computed_otherwise
from harness.suite.gate_policy import AccuracyPolicy, Policy
from harness.util.errors import Fault, NoDocuments, OneArm, Refused, Unlike, nearest
from harness.workloads import kind_of, workload_names

Outcome = Literal["pass", "fail", "inconclusive", "blocked"]
Kind = Literal["cell", "accuracy", "divergence", "speed", "memory"]
STATUS: dict[Outcome, int] = {"pass": 0, "fail": 1, "blocked": 3, "inconclusive": 3}
WORST: tuple[Outcome, ...] = ("fail", "blocked", "inconclusive", "pass")


@dataclass(frozen=True)
class Verdict:
    """One line of a gate."""

    kind: Kind
    candidate: str
    against: str
    """The baseline variant, or the Run that holds the same variant's history."""
    place: str
    """The task, the point, or the Cell."""
    metric: str
    outcome: Outcome
    reason: str
    value: stats.Interval | None = None
    """What was measured: a ratio, above 1 better than the baseline; for divergences nats per token."""
    limit: float | None = None
    """What `value` is held against, in its unit."""
    required: bool = True
    """Whether anything but `pass` on this line keeps the gate from passing; a `fail` always does."""

    @property
    def name(self) -> str:
        """`awq-int4-g128 against bf16: accuracy/all recovery`."""
        return f"{self.candidate} against {self.against}: {self.kind}/{self.place} {self.metric}".rstrip()


def outcome(verdicts: Iterable[Verdict]) -> Outcome:
    """The gate's own verdict: the worst of its lines that count."""
    counted = [v.outcome for v in verdicts if v.required or v.outcome == "fail"]
    return next(word for word in WORST if word in counted) if counted else "inconclusive"


def status(verdicts: Iterable[Verdict]) -> int:
    """Exit status: 0 pass, 1 fail, 3 inconclusive or blocked."""
    return STATUS[outcome(verdicts)]


def judge(run: RunFolder, policy: Policy, baseline: RunFolder | None = None) -> list[Verdict]:
    """Every line of the gate: the Run's Cells, its variants against its baseline, and against themselves in `baseline`.

    Raises Refused when arms were not measured alike or cannot be paired, and when there is nothing to judge.
    """
    _check(policy)
    facts = run.read()
    verdicts = list(_cells(run))
    found, faults = compare_run(run, facts.baseline)
    _refuse(faults)
    verdicts += _one_arm(faults, "accuracy", facts.baseline)
    verdicts += _accuracy_lines(found, policy.accuracy, facts.baseline)
    verdicts += _computed_otherwise(run, policy.accuracy, facts.baseline)
    verdicts += _divergence(run, policy.accuracy, facts.baseline)
    verdicts += _speedups(run, policy)
    verdicts += _history(run, policy, baseline)
    if not verdicts:
        raise Refused(_nothing(run, policy))
    return verdicts


def _nothing(run: RunFolder, policy: Policy) -> Fault:
    """Why there is no line at all: a policy that asks for nothing that the Run measured, or a Run without a candidate."""
    measured = dict.fromkeys(kind_of(r.cell.workload).judged_by() for r in run.records())
    unasked = [name for name in measured if getattr(policy, name) is None]
    if unasked:
        right = f"give the policy {' and '.join(f'`{name}:`' for name in unasked)}, see docs/ci.md"
        return Fault(str(run.path), f"measured {' and '.join(unasked)} alone, which the policy does not ask for", right)
    return Fault(str(run.path), "holds nothing to judge: no candidate was compared with its baseline")


def _check(policy: Policy) -> None:
    """Raise Refused for metrics of which nobody can say what is better, and for histories of two devices."""
    named = [("speed", m) for m in (policy.speed.metrics if policy.speed else ())]
    named += [("memory", m) for m in (policy.memory.metrics if policy.memory else ())]
    faults = [
        Fault(f"gate.{section}.metrics", f"{metric!r} has no better direction, so it cannot be judged")
        for section, metric in named
        if not direction(metric, "")
    ]
    if "device" in {field.partition(".")[0] for field in policy.may_differ}:
        faults.append(Fault("gate.may_differ", "names the device", "Runs of two devices are not each other's history"))
    Refused.if_any(faults)


def _refuse(faults: Iterable[Fault]) -> None:
    """Raise the faults that make arms incomparable; Cells that are not done have lines of their own."""
    Refused.if_any(f for f in faults if isinstance(f, Unlike | NoDocuments))


def _one_arm(faults: Iterable[Fault], kind: Kind, against: str, history: bool = False) -> Iterator[Verdict]:
    """What only one arm has: missing beside the baseline or where there was a history, new where there was none."""
    for fault in (f for f in faults if isinstance(f, OneArm)):
        new = history and fault.side == "candidate"
        why = "is new: it has no history yet" if new else fault.what
        word: Outcome = "inconclusive" if new else "blocked"
        yield Verdict(kind, fault.candidate, against, fault.place, "", word, why, required=not new)


def _cells(run: RunFolder) -> Iterator[Verdict]:
    """A line for each Cell that is missing, failed or invalid: it blocks whatever the others say."""
    facts = run.read()
    for name, variant in facts.variants.items():
        if variant.unbuilt:
            yield Verdict(
                "cell", name, "the suite", "checkpoint", "", "blocked", "was not built, so nothing of it was measured"
            )
    for key in facts.cells:
        record = run.record(key)
        if record is None:
            name, place = facts.cell(key)
            damage = run.damage(key)
            why = f"{damage}: run it again" if damage else "was not measured"
            yield Verdict("cell", name, "the suite", place, "", "blocked", why)
        elif record.status != "done":
            why = f"is {record.status}: {record.reason}"
            yield Verdict("cell", record.cell.variant, "the suite", record.cell.label.partition("/")[2], "", "blocked", why)
        elif record.asked is not None and not record.whole and not record.asked.decided:
            why = f"was asked {record.samples:,} of {record.asked.of:,} questions, and nothing is decided: run it again"
            place = record.cell.label.partition("/")[2]
            yield Verdict("cell", record.cell.variant, "the suite", place, "", "blocked", why)
        elif n := _unpaired(record):
            why = f"has a score over {n} documents without samples: it cannot be paired, so nothing is shown"
            place = record.cell.label.partition("/")[2]
            yield Verdict("cell", record.cell.variant, "the suite", place, "", "inconclusive", why)


def _unpaired(record: Record) -> int:
    """How many documents a score without samples is over; 0 where there are samples, or no score."""
    score = record.metrics.get("score")
    bare = kind_of(record.cell.workload).compared_by == "answers" and not record.samples
    return score.n or 0 if bare and score is not None else 0


def _accuracy_lines(comparisons: Sequence[Comparison], policy: AccuracyPolicy, against: str) -> Iterator[Verdict]:
    """A line for each task and total. A Run of one task has no total: the task is it."""
    known = dict.fromkeys(["all", *(c.task for c in comparisons)])
    strange = [task for task in policy.tasks if comparisons and task not in known]
    Refused.if_any(Fault("gate.accuracy.tasks", f"no candidate was asked {t!r}{nearest(t, known)}") for t in strange)
    with_total = {c.candidate for c in comparisons if c.total}
    for c in comparisons:
        total = c.total or c.candidate not in with_total
        yield _accuracy(c, policy, against, required=c.task in policy.tasks or (total and "all" in policy.tasks))


def settled(comparisons: Sequence[Comparison], policy: AccuracyPolicy) -> dict[str, Outcome]:
    """What the recoveries say of each candidate on all that the policy requires, whatever else keeps it from passing."""
    found: dict[str, Outcome] = {}
    with_total = {c.candidate for c in comparisons if c.total}
    for c in (c for c in comparisons if not c.noise):
        total = c.total or c.candidate not in with_total
        if c.task in policy.tasks or (total and "all" in policy.tasks):
            word = _bounded(c.recovery, policy.min_recovery, "recovery")[0]
            found[c.candidate] = next(one for one in WORST if one in (word, found.get(c.candidate, "pass")))
    return found


def _accuracy(c: Comparison, policy: AccuracyPolicy, against: str, required: bool) -> Verdict:
    word, why = _unhealthy(c, policy) or _bounded(c.recovery, policy.min_recovery, "recovery", percent=True)
    if word == "inconclusive" and c.recovery.value != c.recovery.value:
        why = "the baseline has none right, so there is nothing to keep"
    if c.stopped:
        why += f"; asking stopped after {c.n:,} of {c.of:,} questions, and the interval holds at every look"
    needed = c.questions_needed(policy.min_recovery)
    if word == "inconclusive" and needed is not None and needed > c.n:
        why += f"; {c.n:,} questions are too few, about {needed:,} show it with 80 % power if nothing is lost"
    if c.noise and word == "fail":
        # The baseline against itself: what it shows is the instrument's, not a variant's.
        word, why = "blocked", f"the baseline asked once more is not itself, so nothing here can be trusted: {why}"
    elif c.noise:
        required, why = False, f"noise floor, the baseline asked once more: {c.flips} of {c.n} answers changed; {why}"
    return Verdict("accuracy", c.candidate, against, c.task, "recovery", word, why, c.recovery, policy.min_recovery, required)


def _computed_otherwise(run: RunFolder, policy: AccuracyPolicy, baseline: str) -> Iterator[Verdict]:
    """A line that blocks for each variant whose kernels compute with other bits than its scheme asks for."""
    judged = (r for r in run.records() if kind_of(r.cell.workload).compared_by != "trials")
    for name, (asked, computed) in computed_otherwise(judged).items():
        if computed not in policy.may_compute_as:
            why = f"is computed as {computed} on this device, its scheme asks for {asked}: its answers are not the scheme's; "
            why += f"`may_compute_as: [{computed}]` allows it"
            yield Verdict("accuracy", name, baseline, "all", "computed as", "blocked", why)


def _unhealthy(c: Comparison, policy: AccuracyPolicy) -> tuple[Outcome, str] | None:
    """What forbids to read a score at all; a candidate that broke fails, a baseline that broke proves nothing."""
    if c.baseline_health.degenerate:
        return "blocked", f"the baseline is degenerate: {c.baseline_health.degenerate}"
    if c.candidate_health.degenerate:
        return "fail", f"degenerate, whatever its score: {c.candidate_health.degenerate}"
    if c.at_chance and c.chance is not None:
        what = f"the baseline's {100 * c.baseline_score:.2f} % are not shown to be more than guessing gives"
        return "blocked", f"{what}, {100 * c.chance:.2f} %: nothing can be lost from that"
    arms: tuple[tuple[str, Health], ...] = ((c.baseline, c.baseline_health), (c.candidate, c.candidate_health))
    for name, health in arms:
        if health.cut_by_length > policy.max_cut_by_length:
            what = f"{100 * health.cut_by_length:.0f} % of {name}'s answers were cut by length"
            return "blocked", f"{what}, {100 * policy.max_cut_by_length:.0f} % are allowed"
        if health.unparsed > policy.max_unparsed:
            what = f"no answer was found in {100 * health.unparsed:.0f} % of {name}'s replies"
            return "blocked", f"{what}, {100 * policy.max_unparsed:.0f} % are allowed"
    return None


def _bounded(value: stats.Interval, limit: float, what: str, percent: bool = False) -> tuple[Outcome, str]:
    """The verdict of an interval whose whole must lie above a limit."""
    show = (lambda x: f"{100 * x:.2f} %") if percent else (lambda x: f"{x:.3f}x")
    if value.low > limit:
        return "pass", f"the whole interval of the {what} lies above {show(limit)}"
    if value.high < limit:
        return "fail", f"the whole interval of the {what} lies below {show(limit)}"
    return "inconclusive", f"the interval of the {what}, {show(value.low)} to {show(value.high)}, holds {show(limit)}"


def _divergence(run: RunFolder, policy: AccuracyPolicy, baseline: str) -> Iterator[Verdict]:
    if policy.max_divergence is None:
        return
    found, faults = compare_divergence(run, baseline)
    _refuse(faults)
    if not found:
        why = "was not measured: set accuracy.divergence in the suite"
        yield Verdict("divergence", "a variant", baseline, "all", "", "blocked", why)
    for d in found:
        limit, mean = policy.max_divergence, d.mean
        word: Outcome = "pass" if mean.high <= limit else "fail" if mean.low > limit else "inconclusive"
        why = f"{mean.value:.2g} nats a token over {d.tokens} tokens of {d.questions} questions, {limit:g} are allowed"
        if mean.high != mean.high:
            why += "; one question says nothing of the others"
        elif word == "inconclusive":
            why += f"; the interval over questions, {mean.low:.2g} to {mean.high:.2g}, holds that"
        yield Verdict("divergence", d.candidate, d.baseline, "all", "mean", word, why, mean, limit, not d.noise)


def _speed(c: SpeedComparison, limit: float, against: str, truth: float = 1.0) -> Verdict:
    """One point; above 1 is better, whatever the metric. truth: the ratio for which a hint says how many starts show it."""
    known = c.speedup.low == c.speedup.low
    word, why = _bounded(c.speedup, limit, "ratio")
    if not known:
        word, why = "inconclusive", f"no interval: {c.method.removeprefix('N/A ').strip('()')}"
    if not known and not kind_of(c.workload).timed and c.speedup.value == c.speedup.value:
        # A size is read, not sampled: one reading is the figure.
        word = "pass" if c.speedup.value >= limit else "fail"
        was_and_is = f"{c.baseline_mean:.4g} and {c.candidate_mean:.4g} {c.unit}"
        why = f"{was_and_is}: a ratio of {c.speedup.value:.3f}, {limit:.3f} is allowed"
    elif known:
        why += _starts(c, word, limit, truth)
    bound = "input-bound" in c.labels
    if bound:
        word, why = "inconclusive", f"input-bound, so it says nothing of the model; {why}"
    kind: Kind = "speed" if kind_of(c.workload).timed else "memory"
    return Verdict(kind, c.candidate, against, c.place, c.metric, word, why, c.speedup, limit, not bound)


def _starts(c: SpeedComparison, word: Outcome, limit: float, truth: float) -> str:
    """What one start of an engine cannot tell, and how many would decide; empty where there is nothing to say."""
    assumed = f"; one start of an engine cannot tell what differs between starts, {100 * ratios.START_CV:.0f} % is assumed"
    told = assumed if c.one_start else ""
    needed = c.starts_needed(abs(math.log(truth / limit)))
    if word != "inconclusive" or needed is None or needed <= min(c.baseline_starts, c.candidate_starts):
        return told
    if needed >= ratios.MOST:
        return f"{told}; no number of passes shows a ratio that lies on the limit"
    trials = needed * max(1, round(c.baseline_n / c.baseline_starts))
    then = "if nothing changed" if truth == 1 else f"if it is {truth:.3f}x"
    return f"{told}; `passes: {needed}` and `trials: {trials}` show it with 80 % power {then}"


def _speedups(run: RunFolder, policy: Policy) -> Iterator[Verdict]:
    """Each variant against the baseline variant of the same Run, where the policy asks for a speed-up."""
    if policy.speed is None or policy.speed.min_speedup is None:
        return
    facts = run.read()
    found, faults = compare_speed(run, facts.baseline)
    found = [c for c in found if c.workload in workload_names("trials", timed=True) and c.metric in policy.speed.metrics]
    _refuse(faults)
    for c in found:
        content = facts.variant(c.candidate).content
        if content is None or content != facts.variant(c.baseline).content:
            yield _speed(c, policy.speed.min_speedup, c.baseline, truth=c.speedup.value)
    if not found:
        yield Verdict("speed", "a variant", facts.baseline, "all", "", "blocked", "no speed was measured in this Run")


def _history(run: RunFolder, policy: Policy, baseline: RunFolder | None) -> Iterator[Verdict]:
    """Each variant against itself in the baseline Run; sections that need one say so where there is none."""
    if baseline is None:
        why = "the policy judges it against an earlier Run: name one with --baseline"
        if policy.speed is not None and policy.speed.min_speedup is None:
            yield Verdict("speed", "every variant", "history", "all", "", "inconclusive", why)
        if policy.memory is not None:
            yield Verdict("memory", "every variant", "history", "all", "", "inconclusive", why)
        return
    now, before = list(run.records()), list(baseline.records())
    shared = [n for n in dict.fromkeys(r.cell.variant for r in now) if any(r.cell.variant == n for r in before)]
    if not shared:
        raise Refused(Fault(str(baseline.path), f"has none of the variants of {run.path}, so it is no history of them"))
    where, may_differ = baseline.path.resolve().name, [*ARM_FIELDS, *policy.may_differ]
    lines: dict[Kind, list[Verdict]] = {"speed": [], "memory": []}
    sides = [((baseline, name), (run, name), Arms(f"{name} in {where}", name)) for name in shared]
    for (_, (_, name), arms), (found, faults) in zip(sides, compare_arms(sides, may_differ), strict=True):
        _refuse(faults)
        yield from _one_arm(faults, "accuracy", where, history=True)
        yield from _accuracy_lines(found, policy.accuracy, where)
        of = [[r for r in records if r.cell.variant == name] for records in (before, now)]
        for kind in lines:
            lines[kind] += _speed_lines(policy, kind, of, arms, may_differ, where)
    for kind, told in lines.items():
        # A section that nothing answers to must not pass without a word.
        why = f"the policy asks for it, and neither this Run nor {where} measured it"
        nothing = Verdict(kind, "every variant", where, "all", "", "blocked", why)
        yield from told or ([nothing] if getattr(policy, kind) is not None else [])


def _speed_lines(
    policy: Policy, kind: Kind, of: Sequence[Sequence[Record]], arms: Arms, may_differ: Sequence[str], where: str
) -> Iterator[Verdict]:
    """Speed or memory of one variant against its own history, a line for each point and metric."""
    if kind == "speed" and policy.speed is not None:
        workloads, metrics, limit = workload_names("trials", True), policy.speed.metrics, 1 - policy.speed.max_slowdown
    elif kind == "memory" and policy.memory is not None:
        workloads, metrics, limit = workload_names("trials", False), policy.memory.metrics, 1 - policy.memory.max_growth
    else:
        return
    found, faults = compare_trials(of[0], of[1], arms, may_differ, workloads)
    _refuse(faults)
    yield from _one_arm(faults, kind, where, history=True)
    yield from (_speed(c, limit, where) for c in found if c.metric in metrics)
    names = {c.metric for c in found}
    for metric in (m for m in metrics if found and m not in names):
        reasons = [r.metrics[metric].reason for r in of[1] if metric in r.metrics and r.cell.workload in workloads]
        why = f"N/A: {next(filter(None, reasons), 'no Record of both Runs has it')}"
        yield Verdict(kind, arms.candidate, where, "all", metric, "inconclusive", why, required=False)
