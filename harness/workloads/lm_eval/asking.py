"""A task's questions on their way: prepared in a thread by lm-eval, sent when it is their turn, scored as they are answered.

The next task's prompts are rendered and its pictures encoded while the engine answers this one's, and this one's answers
are scored while it answers the next one's. One task's requests at a time reach the engine, so batches are what they were.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.engine.server import Engine
from harness.util.errors import CellFailed
from harness.workloads.lm_eval.questions import Questions

if TYPE_CHECKING:
    from harness.workloads.accuracy import AccuracySpec

Rows = list[tuple[dict[str, Any], bool]]
"""lm-eval's rows, each with whether its scorer guessed."""
DROP_S = 20.0
"""How long the end of what was dropped is waited for, in seconds."""


class Dropped(Exception):
    """Its turn will never come."""


class Asking:
    """The documents at `asked` of one task, for one engine."""

    def __init__(self, engine: Engine, questions: Questions, spec: AccuracySpec, name: str, asked: Sequence[int]):
        self.sent = threading.Event()
        """Set when the first request is sent: from then on this thread mostly waits."""
        self.answered = threading.Event()
        """Set when the last answer is there, or none will come."""
        self.answers = 0
        self._engine, self._questions, self._spec, self._name, self._asked = engine, questions, spec, name, asked
        self.before: dict[str, float] = {}
        """The engine's counters just before the first request."""
        self._turn, self._dropped = threading.Event(), False
        self._rows: Rows = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name=f"asking {name}", daemon=True)
        self._thread.start()

    def is_for(self, engine: Engine, name: str) -> bool:
        """Whether it still goes on, and asks that task of that very engine."""
        return not self._dropped and self._engine is engine and self._name == name

    def begin(self) -> None:
        """It is their turn; does nothing when it was before. Raises CellFailed when the engine does not answer."""
        if self._turn.is_set():
            return
        try:
            self.before = self._engine.metrics()
        except CellFailed:
            self.drop()
            raise
        self._turn.set()

    def drop(self) -> None:
        """Give up, whether begun or not. What it prepares is shared with whoever asks the same task, so its end is awaited."""
        self._dropped = True
        self._turn.set()
        if self._thread is not threading.current_thread():
            self._thread.join(DROP_S)

    def ended(self, patience_s: float) -> bool:
        """Whether all is scored, after waiting for it so long at most."""
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def check(self) -> None:
        """Raises what lm-eval or the task's own code has raised so far."""
        if self._error is not None:
            raise self._error

    def rows(self) -> Rows:
        """What came of it, in the order of `asked`, after the end; raises as `check` does."""
        self.check()
        return self._rows

    def _work(self) -> None:
        try:
            if self._asked:
                self._rows = self._ask()
        except Exception as error:  # told by check(), in the thread that waits
            self._error = error
        finally:
            self.answered.set()

    def _ask(self) -> Rows:
        from lm_eval.evaluator import evaluate

        from harness.workloads.lm_eval.client import ServedModel

        spec, questions = self._spec, self._questions
        # lm-eval names its rows by its own name of the task.
        name = questions.task.task_name
        served = ServedModel(self._engine.url, self._engine.name, spec.concurrency, spec.max_tokens, self)
        questions.start()
        results = evaluate(
            served,
            {name: questions.task},
            samples={name: list(self._asked)},
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=spec.apply_chat_template,
        )
        assert results is not None
        rows = list(zip(results["samples"][name], questions.guessed, strict=True))
        # A task with several filters scores each answer several times; the first filter is the one that counts.
        return [(row, guessed) for row, guessed in rows if row["filter"] == rows[0][0]["filter"]]

    def before_each(self) -> None:
        """See lm_eval_client.Told: the first request waits for its turn."""
        self._turn.wait()
        if self._dropped:
            raise Dropped
        self.sent.set()

    def after_each(self) -> None:
        """See lm_eval_client.Told."""
        self.answers += 1

    def after_all(self) -> None:
        """See lm_eval_client.Told."""
        self.answered.set()
