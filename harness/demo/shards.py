"""Training samples as arrays, made on all cores while training runs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.demo import data, drawing
from harness.demo import tokenizer as words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARD = 2000
"""Samples a shard; a multiple of twice the number of skills, so that every shard has all kinds in equal parts."""
LABEL_SLOTS = 10
LABEL_CLASSES = 192
"""Places in a picture and things that can be there, for the training-only heads."""
IGNORE = -100
Made = tuple[data.Question, tuple[int, ...]]
"""What data.make_question returns."""
_FIRST = {"digits": 0, "text": 10, "objects": 42, "count": 64, "chart": 80}


@dataclass(frozen=True)
class Samples:
    """n samples: `pixels` (n, 96, 96, 3) uint8; `tokens` (n, text) int16, question and answer, padded on the right;
    `spans` (n, 2) int16, where the answer begins and ends in tokens, its end token included; `labels`
    (n, LABEL_SLOTS) int16, what the picture holds, IGNORE where nothing is."""

    pixels: np.ndarray
    tokens: np.ndarray
    spans: np.ndarray
    labels: np.ndarray


def labels_of(skill: str, values: tuple[int, ...]) -> list[int]:
    """A scene's values as classes, one a slot; each skill has classes of its own."""
    first = _FIRST[skill]
    if skill == "objects":
        classes = [first + value + (slot % 2) * len(drawing.COLOURS) for slot, value in enumerate(values)]
    else:
        classes = [first + value for value in values]
    return classes + [IGNORE] * (LABEL_SLOTS - len(classes))


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Made], text_tokens: int) -> Samples:
    """Arrays of some questions; raises ValueError if one does not fit into `text_tokens`."""
    count = len(documents)
    pixels = np.empty((count, drawing.SIZE, drawing.SIZE, 3), np.uint8)
    tokens = np.full((count, text_tokens), tokenizer.pad_token_id, np.int16)
    spans = np.empty((count, 2), np.int16)
    labels = np.empty((count, LABEL_SLOTS), np.int16)
    prompts = tokenizer([words.after_image(q.question) for q, _ in documents])["input_ids"]
    answers = tokenizer([q.answer + words.END for q, _ in documents])["input_ids"]
    for row, ((question, values), prompt, answer) in enumerate(zip(documents, prompts, answers, strict=True)):
        if len(prompt) + len(answer) > text_tokens:
            raise ValueError(f"{question.id} needs {len(prompt) + len(answer)} tokens, there is room for {text_tokens}")
        pixels[row] = np.asarray(question.image)
        tokens[row, : len(prompt) + len(answer)] = prompt + answer
        spans[row] = len(prompt), len(prompt) + len(answer)
        labels[row] = labels_of(question.skill, values)
    return Samples(pixels, tokens, spans, labels)


_tokenizer: PreTrainedTokenizerFast | None = None
"""Each worker process builds its own once."""


def _make_shard(job: tuple[str, int, int, int, str]) -> str:
    split, seed, number, text_tokens, folder = job
    global _tokenizer
    if _tokenizer is None:
        _tokenizer = words.build_tokenizer()
    first = number * SHARD
    made = [data.make_question(split, seed, index) for index in range(first, first + SHARD)]
    samples = encode(_tokenizer, made, text_tokens)
    path = Path(folder) / f"{number:05d}.npz"
    np.savez(path, pixels=samples.pixels, tokens=samples.tokens, spans=samples.spans, labels=samples.labels)
    return str(path)


class ShardFeed:
    """Makes shards 0 .. count - 1 in worker processes; `ready` yields what is done without waiting.

    A context manager; start it before CUDA is touched, since the workers are forked.
    """

    def __init__(self, split: str, seed: int, count: int, text_tokens: int, workers: int) -> None:
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 30e9  # shards wait there while torch compiles
        self._folder = tempfile.mkdtemp(prefix="demo-shards-", dir=memory if roomy else None)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
        data.make_question(split, seed, 0)  # loads the handwritten digits once, before the fork
        self._pool = multiprocessing.get_context("fork").Pool(workers)
        jobs = ((split, seed, number, text_tokens, self._folder) for number in range(count))
        self._results = self._pool.imap_unordered(_make_shard, jobs)

    def __enter__(self) -> ShardFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def ready(self, wait_s: float = 0.0) -> Iterator[Samples]:
        """Shards that are done, the first one waited for up to `wait_s` seconds."""
        while True:
            try:
                path = Path(self._results.next(timeout=max(wait_s, 1e-6)))
            except (StopIteration, multiprocessing.TimeoutError):
                return
            with np.load(path) as stored:
                yield Samples(*(stored[name] for name in ("pixels", "tokens", "spans", "labels")))
            path.unlink()
            wait_s = 0.0
