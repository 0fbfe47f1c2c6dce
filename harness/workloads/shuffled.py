"""All tasks' questions in one random order of their pictures, asked in blocks: see accuracy.order.

The tasks of a block share the engine's batches, each with its part of the concurrency.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import PIL
from pydantic import TypeAdapter

from harness.engine.server import Engine
from harness.record.order import place
from harness.record.samples import Sample
from harness.util import files
from harness.util.cached import Kept
from harness.util.errors import CellFailed
from harness.workloads.accuracy import AccuracySpec, cache_hits, measured, pixels_hash, samples_of
from harness.workloads.base import Measurement, Progress
from harness.workloads.lm_eval import asking
from harness.workloads.lm_eval.questions import Questions, load

HASHES: TypeAdapter[list[str]] = TypeAdapter(list[str])
TICK_S = 0.1
"""Seconds between two looks at what is being asked."""


@dataclass
class Answers:
    """What one engine has answered of one task."""

    samples: dict[int, Sample] = field(default_factory=dict)
    """By the document's place in the task, in the order in which they were asked."""
    guessed: int = 0
    """How many of them the scorer drew at random."""
    hits: Counter[str] = field(default_factory=Counter)
    """What caches answered."""


class Shuffled:
    """The questions of tasks, by picture, in the order of `order.place`."""

    def __init__(self, names: Sequence[str], spec: AccuracySpec):
        """Raises whatever a task's code and data raise. What is set aside (`Questions.set_aside`) has its place as well."""
        self.spec = spec
        self.tasks: dict[str, Questions] = {name: load(name, spec) for name in names}
        units: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.counts: dict[str, int] = {}
        """Questions of each task."""
        for name, questions in self.tasks.items():
            ids = questions.ids(spec.limit)
            self.counts[name] = len(ids)
            for index, (doc_id, shown) in enumerate(zip(ids, _hashes(questions, len(ids)), strict=True)):
                units[place(name, doc_id, shown)].append((name, index))
        self.units = [units[where] for where in sorted(units)]
        self.most = max(map(len, self.units), default=1)

    def questions(self, units: int) -> int:
        """How many questions the first so many units have."""
        return sum(map(len, self.units[:units]))

    def units_of(self, known: Mapping[str, set[int]]) -> int:
        """How many of the first units are answered whole; known: places of answered documents by task."""
        for number, unit in enumerate(self.units):
            if any(index not in known.get(name, ()) for name, index in unit):
                return number
        return len(self.units)

    def ask(self, engine: Engine, first: int, last: int, into: Mapping[str, Answers], progress: Progress) -> None:
        """Ask one engine the units from `first` up to `last`, and put what it answers into `into`, by task.

        Raises CellFailed where the engine, the client or a task's own code fails; then nothing is put there.
        """
        places: dict[str, list[int]] = defaultdict(list)
        for unit in self.units[first:last]:
            for name, index in unit:
                places[name].append(index)
        # lm-eval scores in the documents' order, and knows no other.
        asked = {n: sorted(i for i in mine if self._id(n, i) not in self.tasks[n].set_aside) for n, mine in places.items()}
        part = max(1, math.ceil(self.spec.concurrency / max(1, len(places))))
        spec = self.spec.model_copy(update={"concurrency": part})
        under_way: dict[str, asking.Asking] = {}
        try:
            before = engine.metrics()
            for name in places:
                under_way[name] = asking.Asking(engine, self.tasks[name], spec, name, asked[name])
                under_way[name].begin()
            total, seen = sum(map(len, asked.values())), -1
            while not all([one.ended(TICK_S) for one in under_way.values()]):
                for one in under_way.values():
                    one.check()
                if (now := sum(one.answers for one in under_way.values())) > seen:
                    seen = now
                    progress(now, total, f"questions {self.questions(first) + 1} to {self.questions(last)}")
                time.sleep(TICK_S / 10)
            rows = {name: one.rows() for name, one in under_way.items()}
            hits = cache_hits(before, engine.metrics())
            found = {n: samples_of(n, self.tasks[n], places[n], asked[n], rows[n]) for n in places}
        except CellFailed:
            raise
        except Exception as error:  # the client raises what its libraries raise; whatever it is, this block has failed
            raise CellFailed(f"{', '.join(places)}: {type(error).__name__}: {error}") from error
        finally:
            for one in under_way.values():
                if not one.ended(0):
                    one.drop()
        for name, samples in found.items():
            into[name].samples.update(samples)
            into[name].guessed += sum(drawn for _, drawn in rows[name])
            into[name].hits.update(hits)

    def measured(self, name: str, answers: Answers) -> Measurement:
        """The figures of one task so far."""
        return measured(name, self.spec, self.tasks[name], answers.samples, answers.guessed, answers.hits)

    def known(self, name: str, samples: Iterable[Sample], guessed: int) -> Answers:
        """Answers that were kept before, of which the scorer drew so many."""
        places = {self._id(name, i): i for i in range(self.counts[name])}
        return Answers({places[s.doc_id]: s for s in samples}, guessed)

    def _id(self, name: str, index: int) -> str:
        questions = self.tasks[name]
        return questions.document_id(questions.rows.stored(index), index)


def _hashes(questions: Questions, count: int) -> list[str]:
    """What each document's pictures hash to (Sample.image_hash); empty without any, or where one cannot be decoded.

    Of data on this disk they are kept for as long as they stay what they are.
    """
    state = files.digest([PIL.__version__, questions.fingerprint, count])
    kept = Kept(f"picture hashes of {questions.task.task_name}", state, HASHES) if questions.fingerprint else None
    known = kept.find() if kept else None
    if known is not None:
        return known

    def look(index: int) -> str:
        try:
            return pixels_hash(questions.pictures(questions.rows[index]))
        except ValueError:
            return ""

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(look, range(count)))
    return kept.keep(found) if kept else found
