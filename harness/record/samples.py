"""The heavy part of a Cell: a row for each question, and the questions that people look at."""

from __future__ import annotations

import msgspec

from harness.record.records import Noun

NOT_ASKED = "not asked"
"""Finish reason of a document that was set aside: it is wrong in every arm, and says nothing of any."""


class Sample(Noun):
    """One question and what was answered. Rows of two arms are paired by `doc_id`, and must agree in both hashes."""

    doc_id: str
    prompt_hash: str
    """SHA-256 of the text that was sent, 16 hex digits."""
    image_hash: str
    """SHA-256 over the pixels of the images that were sent, 16 hex digits; empty without images."""
    target: str
    response: str
    """What the model said."""
    answer: str
    """What the task's filter made of it."""
    score: float
    """The task's first metric for this document, 0 to 1."""
    parsed: bool
    """Whether the filter found an answer at all; an unparsed one is wrong."""
    finish_reason: str
    """`stop`, or `length` when the answer was cut."""
    prompt_tokens: int
    completion_tokens: int


class Question(Noun):
    """A document as people see it, kept for the ones that a report shows: its text and its pictures."""

    task: str
    doc_id: str
    image_hash: str
    """As in Sample: the pictures are those that were sent, or there are none here."""
    text: str | None = None
    images: list[str] = []
    """Files under the Run's images/, in the order they were shown."""
    reduced: bool = False
    """Whether the files are smaller or coarser than what was sent."""
    reason: str | None = None
    """Why text or pictures are missing."""


class Row(msgspec.Struct, gc=False):
    """What of a Sample a comparison looks at, read a dozen times as fast: a Run holds millions."""

    doc_id: str
    prompt_hash: str
    image_hash: str
    target: str
    response: str
    answer: str
    score: float
    parsed: bool
    finish_reason: str
    prompt_tokens: int


class TokenScores(Noun):
    """How likely one arm finds the tokens of the baseline's answer to one question, given the question."""

    task: str
    doc_id: str
    tokens: list[int]
    """The answer's tokens; the same in both arms, or the rows cannot be compared."""
    logprobs: list[dict[int, float]]
    """For each of them, natural logarithms of the probabilities of the likeliest tokens and of the token itself."""
    best: list[int]
    """For each of them, the token that this arm finds likeliest."""
