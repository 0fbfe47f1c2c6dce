"""lm-eval's tasks as the harness asks them: loaded once, offline, without random guesses, with ids that pair two arms."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import PIL
from pydantic import TypeAdapter

from harness.record.scores import Scale, scale_of
from harness.util import environments, files
from harness.util.cached import Kept
from harness.workloads import tasks
from harness.workloads.lm_eval import generation
from harness.workloads.lm_eval.documents import Documents, forgive, shown
from harness.workloads.tasks.local_data import Splits

if TYPE_CHECKING:
    from harness.workloads.accuracy import AccuracySpec

T = TypeVar("T")
GUESSES = ("choice", "choices", "randint", "randrange", "random", "sample")
"""Functions of Python's random module; a scorer that calls one while it scores an answer makes that answer up."""
SCORING = threading.Lock()
"""Held while an answer is scored: another thread's scorer must not find the random module as `_draws` has it."""
PLACEHOLDER = "<image>"
"""Where a task's text says that a picture belongs (MMMU, ChartQA)."""


@dataclass
class Questions:
    """One task, loaded. The same object serves every arm of a run, so all are asked the very same documents."""

    task: Any
    """lm-eval's task."""
    rows: Documents
    """Its documents; the task asks from the same ones."""
    fingerprint: str | None = None
    """Of all that its documents and their pictures follow from; None where not all of it is known."""
    by_position: bool = False
    """Whether documents are paired by their place in the task, not by their ids."""
    set_aside: dict[str, str] = field(default_factory=dict)
    """Documents that are not asked and count as wrong, with the reason; filled by the preflight."""
    without_pictures: list[str] = field(default_factory=list)
    """Documents of an image task that show none and are asked as text; filled by the preflight."""
    guessed: list[bool] = field(default_factory=list)
    """For each answer scored since the last `start`, whether the scorer drew it at random."""

    def start(self) -> None:
        """Before each pass: forget the guesses, and let few-shot examples be drawn as for every other arm."""
        self.guessed.clear()
        self.task.set_fewshot_seed(1234)

    def ids(self, limit: int | None) -> list[str]:
        """The documents' ids, in the order lm-eval asks them."""
        return [self.document_id(self.rows.stored(i), i) for i in range(min(len(self.rows), limit or len(self.rows)))]

    def documents(self, limit: int | None) -> Iterator[tuple[str, Any]]:
        """(id, document) pairs, in the order lm-eval asks them, one at a time: their pictures take much memory."""
        for index, doc_id in enumerate(self.ids(limit)):
            yield doc_id, self.rows[index]

    def document_id(self, doc: dict[str, Any], index: int) -> str:
        """A document's own id, else its position; its position where the suite pairs by it."""
        own = None if self.by_position else doc.get("id")
        return str(index if own is None else own)

    @property
    def scale(self) -> Scale:
        """The range of the task's scores; see `scores.scale_of`."""
        return scale_of(self.task.get_config("metadata"))

    def pictures(self, doc: dict[str, Any]) -> list[Any]:
        """A document's pictures as they are sent; none for a text task. Raises ValueError with the reason for one that
        cannot be."""
        return list(self.task.doc_to_image(doc)) if getattr(self.task, "MULTIMODAL", False) else []

    def each(self, count: int, what: str, kind: TypeAdapter[list[T | str]], look: Callable[[list[Any]], T]) -> list[T | str]:
        """What `look` makes of the pictures of each of the first documents; why they cannot be read, where they cannot.

        Pillow decodes outside the interpreter's lock, so threads share the work. Of data on this disk the outcome is kept for
        as long as they stay what they are. what: names the outcome; kind: of what is kept, reasons included.
        """
        state = files.digest([PIL.__version__, self.fingerprint, count])
        kept = Kept(f"{what} of {self.task.task_name}", state, kind) if self.fingerprint else None
        known = kept.find() if kept else None
        if known is not None:
            return known

        def one(index: int) -> T | str:
            try:
                return look(self.pictures(self.rows[index]))
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = list(pool.map(one, range(count)))
        return kept.keep(found) if kept else found

    def answer_tokens(self, spec: AccuracySpec) -> int:
        """The longest answer in tokens."""
        return spec.max_tokens or generation.answer_tokens(self.task.get_config("generation_kwargs") or {})


def chat(questions: Questions, doc: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """What lm-eval asks about a document, as chat messages without pictures, and the hash of it (Sample.prompt_hash)."""
    kept: list[list[dict[str, Any]]] = []

    def keep(history: list[dict[str, Any]], **_: Any) -> str:
        kept.append(history)
        return ""

    task = questions.task
    task.fewshot_context(doc, num_fewshot=task.get_config("num_fewshot") or 0, apply_chat_template=True, chat_template=keep)
    return [dict(turn) for turn in kept[-1]], files.digest(json.dumps(kept[-1], ensure_ascii=False))


def placed(text: str, pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A question as content parts: pictures where its text says `<image>`, as often as there are pictures; else first.

    lm-eval's client puts all pictures first and sends the placeholders as text; its clients for local models put them in
    place, as is done here.
    """
    pieces = text.split(PLACEHOLDER)
    if not pictures or len(pieces) - 1 != len(pictures):
        return [*pictures, {"type": "text", "text": text}]
    parts = []
    for piece, picture in zip(pieces, [*pictures, None], strict=True):
        parts += [{"type": "text", "text": piece}] if piece.strip() else []
        parts += [picture] if picture is not None else []
    return parts


def quiet() -> None:
    """lm-eval and datasets report through loggers and bars of their own; the harness shows its own progress."""
    environments.prepare_imports()
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["LMEVAL_HASHMM"] = "0"  # it encodes every picture anew, several times; the pixels are hashed once here
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    # Every request that was in flight when a server dies would print its own traceback; CellFailed says it once.
    for name in ("lm_eval", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def load(name: str, spec: AccuracySpec) -> Questions:
    """The task called `name`; raises whatever its code and its data set raise."""
    (task,) = tasks.of_spec(spec, [name])
    # A group's tasks may lie anywhere, so everything is read for one that is loaded through it.
    folder = spec.include_path if task.group else task.file.parent
    questions = _load(task.group, task.key, folder, spec.num_fewshot, task.dataset, task.local, spec.pair_by == "position")
    # A task's own function may take its pictures from anywhere.
    known = task.local is not None and isinstance(questions.task.get_config("doc_to_image"), str | list)
    questions.fingerprint = task.fingerprint() if known else None
    return questions


@cache
def _manager(folder: Path | None, own: bool) -> Any:
    """lm-eval's reader of one folder of task files; own: of its own as well, which takes seconds."""
    quiet()
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(folder)] if folder else None, include_defaults=own)


@cache
def _load(
    group: str | None, key: str, folder: Path | None, fewshot: int, dataset: str | None, local: Path | None, by_position: bool
) -> Questions:
    manager = _manager(folder, group is not None)
    with _standing_in(dataset, local):
        task = manager.load(group or key)["tasks"][key]
    task.set_config("num_fewshot", fewshot or task.get_config("num_fewshot") or 0)
    rows = Documents(task.eval_docs)
    # lm-eval would read them anew, all of them, each time it is asked; and one that cannot be decoded would stop it.
    setattr(task, "test_docs" if task.has_test_docs() else "validation_docs", lambda: rows)
    given = task.doc_to_image
    # lm-eval calls it anew for each part of a list, which is not the whole yet.
    task.doc_to_image = lambda doc, *part: given(doc, *part) if part else shown(given(doc), local)
    questions = Questions(task, rows, by_position=by_position)
    _take_guesses_out(questions)
    return questions


@contextlib.contextmanager
def _standing_in(dataset: str | None, local: Path | None) -> Iterator[None]:
    """Inside the block, lm-eval gets the folder `local` where it asks for the hub's `dataset`."""
    import datasets

    forgive()
    real = datasets.load_dataset

    def stand_in(path: str, name: str | None = None, **more: Any) -> Any:
        return Splits(local, name) if local is not None and path == dataset else real(path=path, name=name, **more)

    datasets.load_dataset = stand_in
    try:
        yield
    finally:
        datasets.load_dataset = real


def _take_guesses_out(questions: Questions) -> None:
    """Score an answer that the scorer makes up at random as wrong (MMMU's and PISA's do, for replies they cannot read)."""
    score = questions.task.process_results

    def without_guesses(doc: Any, results: Any) -> dict[str, Any]:
        with SCORING, _draws() as drawn:
            scored: dict[str, Any] = score(doc, results)
        questions.guessed.append(bool(drawn))
        return {name: 0.0 if drawn and isinstance(value, int | float) else value for name, value in scored.items()}

    questions.task.process_results = without_guesses


@contextlib.contextmanager
def _draws() -> Iterator[list[str]]:
    """Notes which functions of Python's random module this thread calls inside the block."""
    drawn: list[str] = []
    here = threading.get_ident()
    real = {name: getattr(random, name) for name in GUESSES}

    def watched(name: str) -> Any:
        def draw(*arguments: Any, **more: Any) -> Any:
            if threading.get_ident() == here:
                drawn.append(name)
            return real[name](*arguments, **more)

        return draw

    try:
        for name in GUESSES:
            setattr(random, name, watched(name))
        yield drawn
    finally:
        for name, function in real.items():
            setattr(random, name, function)
