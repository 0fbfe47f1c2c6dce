"""Accuracy in one shuffled order: every arm is asked block by block, and asking ends as soon as the gate's recovery is decided.

Whether it is decided is read as `gate` reads it, from the Records on disk; so the gate says what ended the asking. Complete
blocks only are looked at, since short answers come first. Where the machine's memory holds all engines they stay up side by
side, and one is asked at a time; else they take turns in larger blocks, since each start costs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.compare import gate
from harness.compare.runs import compare_run
from harness.engine import device, server
from harness.engine.session import Session
from harness.plan import stopping
from harness.plan.plan import PlannedCell
from harness.plan.schedule import Chain, Group
from harness.record.folder import RunFolder
from harness.record.records import Asked
from harness.run import measure
from harness.run.claims import Claims
from harness.run.executors import WorkResult
from harness.suite.gate_policy import Policy
from harness.suite.schema import Suite
from harness.util.errors import CellFailed
from harness.util.progress import Reporter
from harness.workloads.accuracy import Accuracy
from harness.workloads.shuffled import Answers, Shuffled

GIB = 2**30
ENGINE_GIB = 3.0
"""What an engine takes of the host's memory beside its weights and its KV cache, generously."""
BESIDE_GROWTH, TURNS_GROWTH = 1.2, 2.0
"""How much larger the questions asked are at each look: with engines side by side, and with a start at each."""
BATCHES = 3
"""A block has so many times the requests in flight, at least: at its end they run dry."""


def measure_answers(chain: Chain, report: Reporter, session: Session | None = None) -> WorkResult:
    """Ask every arm of a chain what is missing; all of its Cells, or none where another run has some in hand."""
    keys = [cell.id.key for cell in chain.cells]
    with contextlib.nullcontext(session) if session else Session() as session, Claims(chain.folder) as claims:
        mine = set(claims.take(keys))
        if busy := [key for key in keys if key not in mine]:
            return WorkResult([], keys, claims.holder(busy[0]))
        folder = RunFolder(chain.folder)
        if all(measure.is_done(folder, key, chain.suite) for key in keys):
            return WorkResult()  # another run was quicker
        report.stage("putting all questions in one order")
        with _Arms(chain, folder, session, report) as arms:
            return WorkResult(arms.ask())


def beside(suite: Suite, checkpoints: dict[str, Path]) -> bool:
    """Whether the engines of all variants stay up side by side. On a GPU they do not: each fills the card."""
    if device.describe()["kind"] != "cpu":
        return False
    import psutil

    needed = 0.0
    for name, path in checkpoints.items():
        weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        needed += 1.3 * weights + GIB * ((suite.engine_of(name).kv_cache_gib or 1.0) + ENGINE_GIB)
    return bool(needed < psutil.virtual_memory().available)


def blocks(units: int, first: int, least: int, growth: float) -> Iterator[int]:
    """How many units are asked at each look: from `first`, growing, each by `least` at least, to all of them."""
    now = first
    while now < units:
        yield now
        now = max(now + least, math.ceil(now * growth))
    yield units


class _Arms:
    """The arms of one chain while they are asked. A context manager: leaving it ends their engines."""

    def __init__(self, chain: Chain, folder: RunFolder, session: Session, report: Reporter):
        self.chain, self.folder, self.session, self.report, self.suite = chain, folder, session, report, chain.suite
        names = [cell.point["task"] for cell in chain.groups[0].cells]
        self.order = Shuffled(names, Accuracy.spec_of(chain.suite.workloads))
        self.groups = {group.variant.name: group for group in chain.groups}
        self.answers: dict[str, dict[str, Answers]] = {}
        """What each variant has answered, by task."""
        self.units: dict[str, int] = {}
        """How many units each variant has answered, in their order."""
        self.looks = stopping.looks(chain.suite)
        self.beside = beside(chain.suite, {name: group.variant.path for name, group in self.groups.items()})
        self._engines: dict[str, server.Engine] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Arms:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _take_up(self) -> None:
        """What Records of an earlier run hold: whole blocks of it are kept. They say from now on what is to be decided: another
        limit may be, or a share among more candidates."""
        for name, group in self.groups.items():
            kept = {cell.point["task"]: self._kept(cell) for cell in group.cells}
            units = self.units[name] = self.order.units_of({task: set(found.samples) for task, found in kept.items()})
            self.answers[name] = {task: self.order.first(units, task, found) for task, found in kept.items()}
            for cell in group.cells if units else ():
                task, record = cell.point["task"], self.folder.record(cell.id.key)
                if record is not None and len(self.answers[name][task].samples) < len(kept[task].samples):
                    # A kill between the Records of a block: what some of them hold of it is asked again.
                    found = self.order.measured(task, self.answers[name][task])
                    cut = record.model_copy(update={"metrics": dict(found.metrics), "facts": found.facts})
                    self.folder.add(cut, found.samples)
            if self.looks is not None:
                self._note(name, {"limit": self.looks[0], "candidates": self.looks[1], "decided": False})

    def _kept(self, cell: PlannedCell) -> Answers:
        record = self.folder.record(cell.id.key)
        if record is None or record.status != "done":
            return Answers()
        return self.order.known(cell.point["task"], self.folder.samples(cell.id.key), record.facts)

    def ask(self) -> list[str]:
        """Ask until all is decided or nothing is left; returns a line for each thing that failed."""
        for group in self.groups.values():
            if (reason := measure.unfit(self.suite, group)) is not None:
                return [f"{group.variant.name}: the engine was not started: {reason}"]
        self._take_up()
        number, active = 0, self._active()
        for upto in self._looks():
            behind = [name for name in active if self.units[name] < upto]
            if not behind:
                continue
            turn = behind if number % 2 == 0 else behind[::-1]
            for name, following in zip(turn, [*turn[1:], None], strict=True):
                try:
                    self._block(name, upto, following)
                except CellFailed as error:
                    self.report.line(f"FAILED {name}: {error}")
                    return [f"{name}/accuracy: {error}"]
            number, active = number + 1, self._active()
        return []

    def _looks(self) -> Iterator[int]:
        units = len(self.order.units)
        if self.looks is None:
            return iter([units])
        size = max(1.0, self.order.questions(units) / max(1, units))
        # With engines that take turns a look costs two starts.
        batches = BATCHES if self.beside else 8 * BATCHES
        least = math.ceil(batches * self.order.spec.concurrency / size)
        return blocks(units, max(least, self._every_task()), least, BESIDE_GROWTH if self.beside else TURNS_GROWTH)

    def _every_task(self) -> int:
        """How many units it takes until each task has a question among them."""
        left = {name for name, count in self.order.counts.items() if count}
        for number, unit in enumerate(self.order.units, 1):
            left -= {name for name, _ in unit}
            if not left:
                return number
        return len(self.order.units)

    def _active(self) -> list[str]:
        """The variants that are asked on: none where every candidate is decided. Marks Records that are."""
        if self.looks is None or not all(self.units.values()):
            return list(self.groups)
        compared, faults = compare_run(self.folder, self.suite.baseline)
        if faults:
            raise CellFailed(f"the arms do not compare: {faults[0]}")
        found = gate.settled(compared, (self.suite.gate or Policy()).accuracy)
        wholes = {c.candidate: c for c in compared}  # the last row of a candidate is its total
        for name, word in found.items():
            held = wholes[name].recovery
            told = f"recovery {100 * held.value:.1f} % ({100 * held.low:.1f} to {100 * held.high:.1f})"
            self.report.line(f"{name}: after {wholes[name].n:,} of {wholes[name].of:,} questions {word}, {told}")
        decided = {name for name, word in found.items() if word in ("pass", "fail")}
        if found and decided == found.keys():
            # The baseline, and the baseline once more, are asked as long as somebody is.
            decided, active = set(self.groups), []
        else:
            active = [name for name in self.groups if name not in decided]
        for name in decided:
            self._note(name, {"decided": True})
        return active

    def _note(self, name: str, about: dict[str, Any]) -> None:
        """Have a variant's Records say something else of how they were asked."""
        for cell in self.groups[name].cells:
            record = self.folder.record(cell.id.key)
            if record is not None and record.asked is not None:
                asked = record.asked.model_copy(update=about)
                if asked != record.asked:
                    self.folder.add(record.model_copy(update={"asked": asked}), list(self.folder.samples(cell.id.key)))

    def _block(self, name: str, upto: int, following: str | None) -> None:
        group, began = self.groups[name], time.monotonic()
        running = self._engine(name)
        if following is not None and following not in self._engines:
            self.session.make_ahead(self.groups[following].variant.path, self.suite.engine_of(following))
        before = {task: len(found.samples) for task, found in self.answers[name].items()}
        self.report.stage(f"asking {name}")
        try:
            self.order.ask(
                running,
                self.units[name],
                upto,
                self.answers[name],
                lambda done, total, what: self.report.update(done, total, f"{name}: {what}"),
            )
        except CellFailed as error:
            if running.alive(measure.DYING_S):
                raise
            log = measure.log_of(self.folder, group)
            raise CellFailed(f"the engine died (log: {log}): {error}") from None
        self.units[name] = upto
        new = {task: len(found.samples) - before[task] for task, found in self.answers[name].items()}
        seconds = time.monotonic() - began
        for cell in group.cells:
            self._keep(group, cell, running, seconds * new[cell.point["task"]] / max(1, sum(new.values())))

    def _keep(self, group: Group, cell: PlannedCell, running: server.Engine, seconds: float) -> None:
        task = cell.point["task"]
        answers, earlier = self.answers[group.variant.name][task], self.folder.record(cell.id.key)
        if not answers.samples:
            return
        found = self.order.measured(task, answers)
        looks, asked = self.looks, None
        if looks is None and earlier is not None and earlier.asked is not None:
            looks = earlier.asked.limit, earlier.asked.candidates  # it was looked at before, and that stays so
        if looks is not None:
            asked = Asked(of=self.order.counts[task], most=self.order.most, limit=looks[0], candidates=looks[1])
        if earlier is not None and earlier.asked is not None:
            seconds += earlier.provenance.seconds
        started = earlier.provenance.started if earlier is not None and earlier.asked is not None else measure.now()
        record = measure.record_of(group, cell, running.facts, found.status, found.reason, found, started, seconds)
        self.folder.add(record.model_copy(update={"asked": asked}), found.samples)
        if found.status == "invalid":
            raise CellFailed(f"{task} is invalid: {found.reason}")

    def _engine(self, name: str) -> server.Engine:
        if name in self._engines:
            return self._engines[name]
        if not self.beside:
            self._engines.clear()
            self._stack.close()
        serving = measure.serving(self.suite, self.groups[name], self.folder, self.session, self.report)
        self._engines[name] = self._stack.enter_context(serving)
        return self._engines[name]
