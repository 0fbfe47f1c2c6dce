"""Which variant a model card is about, which Runs measured it, and what stands against publishing it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.record.folder import RunFolder
from harness.util.errors import Fault, Refused
from harness.util.places import MODELS
from reports.card.results import Subject, results_path, suite_name
from reports.card.view import RunView

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""OWNER/NAME."""


def read_subject(paths: Sequence[Path], variant: str | None, base_model: str | None) -> Subject:
    """The variant of these Runs. Raises Refused when it is not the same checkpoint in all, or was not measured."""
    if base_model is not None and not NAME.fullmatch(base_model):
        raise Refused(Fault(f"--base-model {base_model}", "is no repository's name", "write OWNER/NAME"))
    runs = [RunFolder.existing(path) for path in paths]
    name = variant or _only_variant(runs)
    views = [_view(run, name) for run in runs]
    first = views[0].facts.variants[name].content
    faults = [
        Fault(str(view.path), f"measured another checkpoint as {name} than {paths[0]}", "publish them one by one")
        for view in views[1:]
        if view.facts.variants[name].content != first
    ]
    suites = [results_path(view) for view in views]
    faults += [Fault(str(v.path), f"is a second Run of suite {suite_name(v)}", "name one of them")
               for i, v in enumerate(views) if suites[i] in suites[:i]]  # fmt: skip
    Refused.if_any(faults)
    if not any(r.cell.variant == name for view in views for r in view.records()):
        raise Refused(Fault(str(paths[0]), f"holds no finished measurement of {name}", "run its suite first"))
    outcomes = {suite_name(view): found for view in views if (found := gate(view)[0])}
    return Subject(name, views, base_model or _base_model(views[0]), outcomes)


def stopped(subject: Subject) -> list[Fault]:
    """Runs whose questions were not all asked: their scores decide a gate, and are no scores for a card."""
    found = []
    for view in subject.runs:
        asked = [(r.samples, r.asked.of) for r in view.records() if r.cell.variant == subject.variant and r.asked]
        if any(n < of for n, of in asked):
            n, of = (sum(counts) for counts in zip(*asked, strict=True))
            what = f"asked {n:,} of {of:,} questions, and stopped when it was decided"
            right = "ask the rest with `run SUITE --to-the-end`, or publish with --partial, and the card says so"
            found.append(Fault(str(view.path), what, right))
    return found


def blocked(subject: Subject) -> list[Fault]:
    """What --apply refuses: Cells that failed, are invalid or were not measured, and a gate that fails or is blocked."""
    faults: list[Fault] = []
    told = "measure again, or publish without with --anyway"
    for view in subject.runs:
        for record in view.left_out():
            if record.status != "done":
                faults.append(Fault(record.cell.label, f"{record.status}: {record.reason}", told))
        if view.missing():
            faults.append(Fault(str(view.path), f"{view.missing()} planned Cells have no Record", told))
        outcome, lines = gate(view)
        if outcome in ("fail", "blocked"):
            right = "see python -m harness gate; --anyway publishes it as it is"
            more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            faults.append(Fault(f"gate of {suite_name(view)}", f"{outcome}: {lines[0] if lines else ''}{more}", right))
    return list(dict.fromkeys(faults))


def gate(view: RunView) -> tuple[str | None, list[str]]:
    """What the suite's gate says of the variant, and the lines that say so; None for a suite without a gate.

    The one place that calls the gate.
    """
    policy = view.facts.suite.get("gate")
    if policy is None:
        return None, []
    try:
        from harness.compare.gate import judge, outcome
        from harness.suite.gate_policy import policy_of

        verdicts = judge(RunView(view.path, view.baseline, view.variants), policy_of(policy, view.path / "run.json"))
    except Refused as refused:
        return "blocked", [str(fault) for fault in refused.faults]
    worst = outcome(verdicts)
    return worst, [f"{v.name}: {v.reason}" for v in verdicts if v.outcome == worst]


def _only_variant(runs: Sequence[RunFolder]) -> str:
    """The one candidate of the Runs. Raises Refused when there are several, or none."""
    names: dict[str, None] = {}
    for run in runs:
        facts = run.read()
        names |= dict.fromkeys(r.cell.variant for r in run.records() if r.cell.variant != facts.baseline)
    if len(names) == 1:
        return next(iter(names))
    what = f"it measured {', '.join(names)}" if names else "it measured no variant beside the baseline"
    raise Refused(Fault(str(runs[0].path), what, "say which one the repository holds, with --variant"))


def _view(run: RunFolder, variant: str) -> RunView:
    """The Run for one variant and what it is compared with."""
    facts = run.read()
    known = facts.variants
    if variant not in known:
        raise Refused(Fault(f"--variant {variant}", f"{run.path} has no such variant", f"it has {', '.join(known)}"))
    baseline = facts.compared_with(variant)
    if variant == baseline:
        raise Refused(Fault(f"--variant {variant}", "is the baseline itself", "name a variant that was compared with it"))
    return RunView(run.path, baseline, (baseline, variant), publishable=True)


def _base_model(view: RunView) -> str | None:
    """The suite's model where it is a repository's name whose files `fetch` brought."""
    model: Any = view.facts.suite.get("model")
    origin = view.facts.variant(view.baseline).checkpoint or ""
    if isinstance(model, str) and NAME.fullmatch(model) and Path(origin).parts[-3:] == (*MODELS.parts, *Path(model).parts):
        return model
    return None
