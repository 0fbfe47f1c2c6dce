"""What may enter as a score, whoever measured it: a share from 0 to 1 for each question, where more is better."""

from __future__ import annotations

import math
from typing import Any

OTHERS = {
    "bypass": "it scores nothing (--predict_only)",
    "bleu": "it is made of all answers together",
    "chrf": "it is made of all answers together",
    "ter": "it is made of all answers together",
    "perplexity": "it needs log-likelihoods",
    "word_perplexity": "it needs log-likelihoods",
    "byte_perplexity": "it needs log-likelihoods",
    "bits_per_byte": "it needs log-likelihoods",
    "likelihood": "it needs log-likelihoods",
    "brier_score": "it needs log-likelihoods",
}
"""lm-eval's metrics that give a generated answer no score of its own (lm_eval/api/metrics.py), and why."""
UNLESS_OWN = ("acc", "acc_norm", "acc_mutual_info", "acc_bytes")
"""Need log-likelihoods as well, but for tasks that score answers by code of their own and call the result so, as MMMU."""
RIGHT = "scores are shares from 0 to 1, higher is better"
DECLARED = "declare their range in the task file, metadata: {score_range: [0, 100]}"


def metric_fault(metric: str, higher_is_better: bool | None, own: bool = True) -> str | None:
    """Why a metric cannot be compared question by question; None when nothing speaks against it.

    own: whether the task scores answers by code of its own.
    """
    why = OTHERS.get(metric) or (None if own or metric not in UNLESS_OWN else "it needs log-likelihoods")
    if why:
        return f"its first metric, {metric}, is no score of an answer: {why}"
    return f"its first metric, {metric}, is better when lower" if higher_is_better is False else None


Scale = tuple[float, float]
"""The least and the largest score a task gives a question."""
SHARES: Scale = (0.0, 1.0)


def scale_of(metadata: Any) -> Scale:
    """What a task file declares as `metadata: {score_range: [0, 100]}`; shares without. Raises ValueError for what is none."""
    stated = metadata.get("score_range") if isinstance(metadata, dict) else None
    if stated is None:
        return SHARES
    numbers = isinstance(stated, list) and len(stated) == 2 and all(isinstance(x, int | float) for x in stated)
    if not numbers or not all(map(math.isfinite, stated)) or not stated[0] < stated[1]:
        raise ValueError(f"metadata.score_range is {stated!r}: give the least and the largest score, [0, 100]")
    return float(stated[0]), float(stated[1])


def checked(metric: str, value: Any, scale: Scale = SHARES) -> float:
    """A question's score as a share of its scale; raises ValueError, with the metric's name, for what is none."""
    low, high = scale
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"metric {metric} is {value!r}, no number; {RIGHT}") from None
    slack = 1e-9 * (high - low)
    if not math.isfinite(score) or not low - slack <= score <= high + slack:
        ranged = f"its task declares {low:g} to {high:g}" if scale != SHARES else f"{RIGHT}, or {DECLARED}"
        raise ValueError(f"metric {metric} is {score:g}; {ranged}")
    return min(max((score - low) / (high - low), 0.0), 1.0)
