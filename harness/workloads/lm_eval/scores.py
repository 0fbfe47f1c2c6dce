"""The figures of an accuracy Cell, from its Samples: the score and what must stand beside it. Pure functions."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

from harness.record import health
from harness.record.records import Metric
from harness.record.samples import NOT_ASKED, Sample


def metrics(samples: Sequence[Sample], chance: Metric, guessed: Sequence[bool] = ()) -> dict[str, Metric]:
    """Score, standard error of the mean, and the shares that must stand beside it.

    chance: see `chance_level`. guessed: for each answer that was scored, whether its scorer drew it at random.
    """
    n = len(samples)
    if not n:
        return {"score": Metric(value=None, unit="share", n=0, reason="the task has no documents")}
    mean = sum(s.score for s in samples) / n
    spread = math.sqrt(sum((s.score - mean) ** 2 for s in samples) / (n - 1) / n) if n > 1 else None
    asked = [s for s in samples if s.finish_reason != NOT_ASKED]

    def share(hits: int) -> Metric:
        return Metric(value=hits / n, unit="share", n=n)

    def tokens(values: list[int]) -> Metric:
        return Metric(value=sum(values) / len(values) if values else None, unit="tokens", n=len(values))

    return {
        "score": Metric(value=mean, unit="share", n=n, stderr=spread),
        "chance": chance,
        "unparsed": share(sum(not s.parsed for s in asked)),
        "guessed": share(sum(guessed)),
        "cut_by_length": share(sum(s.finish_reason == "length" for s in samples)),
        "set_aside": share(n - len(asked)),
        "looped": share(sum(map(health.loops, samples))),
        "output_tokens": tokens([s.completion_tokens for s in asked]),
        "prompt_tokens": tokens([s.prompt_tokens for s in asked]),
    }


def chance_level(samples: Sequence[Sample], stated: float | None, documents: Sequence[dict[str, Any]]) -> Metric:
    """What guessing gives: as the task states; else one over the choices; else the commonest right answer to everything."""
    n = len(samples)
    if not n:
        return Metric(value=None, unit="share", n=0, reason="the task has no documents")
    if stated is not None:
        return Metric(value=stated, unit="share", n=n, source="task")
    by_choices = [chance(document) for document in documents]
    known = [value for value in by_choices if value is not None]
    if known and len(known) == len(by_choices):
        return Metric(value=sum(known) / len(known), unit="share", n=n, source="choices")
    return Metric(value=health.commonest([s.target for s in samples])[1], unit="share", n=n, source="commonest answer")


def chance(document: dict[str, Any]) -> float | None:
    """What guessing among a document's choices gives; 0 for an open one; None where it lists no choices."""
    for key in ("options", "choices"):
        listed = document.get(key)
        if isinstance(listed, str):
            try:
                listed = ast.literal_eval(listed)
            except (ValueError, SyntaxError):
                continue
        if isinstance(listed, dict):
            listed = listed.get("text")
        if isinstance(listed, list):
            return 1 / len(listed) if len(listed) > 1 else 0.0
    return None
