"""All tasks' questions in one random order of their pictures, asked in blocks: see accuracy.order.

The tasks of a block share the engine's batches, each with its part of the concurrency.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from harness.engine.server import Engine
from harness.record.order import place
from harness.record.samples import Sample
from harness.util.errors import CellFailed
from harness.workloads.accuracy import AccuracySpec, cache_hits, measured, pixels_hash, samples_of
from harness.workloads.base import Measurement, Progress
from harness.workloads.lm_eval import asking
from harness.workloads.lm_eval.questions import Questions, load

HASHES: TypeAdapter[list[list[str] | str]] = TypeAdapter(list[list[str] | str])
GUESSED = "guessed"
"""Fact of a Record: the documents whose answers the scorer drew at random."""
TICK_S = 0.1
"""Seconds between two looks at what is being asked."""


@dataclass
class Answers:
    """What one engine has answered of one task."""

    samples: dict[int, Sample] = field(default_factory=dict)
    """By the document's place in the task, in the order in which they were asked."""
    guessed: set[int] = field(default_factory=set)
    """Places of answers that the scorer drew at random."""
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
            hashes = questions.each(len(ids), "picture hashes", HASHES, lambda shown: [pixels_hash(shown)])
            for index, (doc_id, shown) in enumerate(zip(ids, hashes, strict=True)):
                # One that cannot be read is not asked; its sample has no hash.
                units[place(name, doc_id, shown[0] if isinstance(shown, list) else "")].append((name, index))
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
            into[name].guessed.update(i for i, (_, drawn) in zip(asked[name], rows[name], strict=True) if drawn)
            into[name].hits.update(hits)

    def measured(self, name: str, answers: Answers) -> Measurement:
        """The figures of one task so far."""
        found = measured(name, self.spec, self.tasks[name], answers.samples, len(answers.guessed), answers.hits)
        if answers.guessed:
            found.facts[GUESSED] = sorted(self._id(name, i) for i in answers.guessed)
        return found

    def known(self, name: str, samples: Iterable[Sample], facts: Mapping[str, Any]) -> Answers:
        """Answers that were kept before. facts: those of their Record, see `measured`."""
        places = {self._id(name, i): i for i in range(self.counts[name])}
        return Answers({places[s.doc_id]: s for s in samples}, {places[i] for i in facts.get(GUESSED, ())})

    def first(self, units: int, name: str, answers: Answers) -> Answers:
        """Those of a task's answers that belong to the first so many units, in their order."""
        places = [index for unit in self.units[:units] for task, index in unit if task == name]
        return Answers({i: answers.samples[i] for i in places}, answers.guessed & set(places), answers.hits)

    def _id(self, name: str, index: int) -> str:
        questions = self.tasks[name]
        return questions.document_id(questions.rows.stored(index), index)
