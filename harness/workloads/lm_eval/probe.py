"""A task's scorer tried before any question is asked: what it gives must be a score of one answer, in its range."""

from __future__ import annotations

from typing import Any

from harness.record.scores import checked
from harness.util.errors import Fault
from harness.workloads.lm_eval.questions import Questions

PROBES = 3
"""Documents that are tried, from the start."""
MEANS = ("mean", "nanmean")
"""lm-eval's names of the aggregation that a score here is."""
NO_ANSWER = "~"
"""An answer that is right for nothing."""


def scorer_faults(name: str, questions: Questions) -> list[Fault]:
    """What a comparison cannot do with the scores of a task: the right answer and a wrong one, scored, must give numbers in
    the declared range, and a score must be the mean of them. A scorer that does not take the answers tried says nothing."""
    task = questions.task
    metric = next(iter(task.higher_is_better()), None)
    aggregation = task.aggregation().get(metric) if metric else None
    called = getattr(aggregation, "__name__", "mean")
    if aggregation is not None and called not in MEANS:
        what = f"its first metric, {metric}, is aggregated by {called}: a score here is the mean of its answers' scores"
        return [Fault(name, what, "name a metric first that is aggregated by mean")]
    for index in range(min(PROBES, len(questions.rows))):
        doc = questions.rows[index]
        for answer in _answers(task, doc):
            try:
                scored = task.process_results(doc, [answer])
                first = next(iter(scored))
                value = scored[first]
            except Exception:  # the scorer is the task's own code, and was not made for this
                continue
            try:
                checked(str(first), value, questions.scale)
            except ValueError as error:
                return [Fault(name, f"its scorer was tried: {error}")]
    return []


def _answers(task: Any, doc: dict[str, Any]) -> list[str]:
    try:
        right = task.doc_to_target(doc)
    except Exception:  # as above
        return [NO_ANSWER]
    right = right[0] if isinstance(right, list) and right else right
    return [str(right), NO_ANSWER]
