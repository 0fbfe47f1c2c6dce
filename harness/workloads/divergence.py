"""How far a variant's token probabilities are from the baseline's, on the baseline's own answers.

Every arm is shown the same questions with the baseline's answers already given, and asked how likely it finds each token
of them (`prompt_logprobs`). Both arms so judge the very same tokens, whatever they would have said themselves, and the
damage shows long before an answer changes. The baseline is asked in the same way, so that it is compared like with like.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness.engine.server import SAMPLING, Engine
from harness.engine.settings import EngineSettings
from harness.record.records import Metric
from harness.record.samples import NOT_ASKED, Sample, TokenScores
from harness.util import pictures
from harness.util.errors import CellFailed, Fault
from harness.workloads import tasks
from harness.workloads.accuracy import Accuracy, AccuracySpec
from harness.workloads.base import Context, Measurement, Workload
from harness.workloads.lm_eval.questions import chat, load, placed

TOP = 5
"""Likeliest tokens that are asked for at each position; what is outside is one outcome, see stats.divergence."""
LONGEST = 64
"""Tokens of an answer that are looked at, from its start."""
AT_ONCE = 8
"""Requests in flight: vLLM makes the probabilities of the whole vocabulary for each token of a prompt."""


class Divergence(Workload):
    """One Cell a variant, over all tasks together. The accuracy section asks for it."""

    name = "divergence"
    own_tables = True
    compared_by = "tokens"
    lets_others_work = True
    trained_only = True
    relative_to = Accuracy.name

    @classmethod
    def spec_of(cls, sections: Any) -> AccuracySpec | None:
        asked: AccuracySpec | None = Accuracy.spec_of(sections)
        return asked if asked is not None and asked.divergence else None

    def points(self, spec: AccuracySpec) -> list[dict[str, Any]]:
        return [{"questions": spec.divergence}]

    def identity(self, spec: AccuracySpec, point: dict[str, Any]) -> dict[str, Any]:
        accuracy = Accuracy()
        answered = [accuracy.identity(spec, task) for task in accuracy.points(spec)]
        return point | {"top": TOP, "longest": LONGEST, "answered": answered}

    def faults(self, spec: AccuracySpec, points: list[dict[str, Any]], settings: EngineSettings) -> list[Fault]:
        if spec.apply_chat_template:
            return []
        return [Fault("accuracy.divergence", "needs the chat template", "leave apply_chat_template true, or divergence 0")]

    def measure(self, cell: Context) -> Measurement:
        spec = cell.spec
        names = [task.name for task in tasks.of_spec(spec)]
        lacking = [name for name in names if name not in cell.reference]
        if lacking:
            raise CellFailed(f"the baseline has no answers to {', '.join(lacking)} yet: measure its accuracy first")
        share = -(-spec.divergence // len(names))
        try:
            asked = [_request for name in names for _request in _requests(name, spec, cell.reference[name], share)]
        except Exception as error:  # a task's own code may raise anything
            raise CellFailed(f"{type(error).__name__}: {error}") from error
        rows = []
        with ThreadPoolExecutor(min(AT_ONCE, spec.concurrency)) as pool:
            for row in pool.map(lambda one: _scores(cell.engine, *one), asked):
                rows += [row] if row.tokens else []
                cell.progress(len(rows), len(asked), "probabilities of the baseline's answers")
        own = [scores[token] for row in rows for token, scores in zip(row.tokens, row.logprobs, strict=True)]
        metrics = {
            "questions": Metric(value=float(len(rows)), unit="questions"),
            "answer_logprob": Metric(value=sum(own) / len(own), unit="nats", n=len(own))
            if own
            else Metric.missing("nats", "the baseline's answers are empty"),
        }
        return Measurement(metrics, rows)


def _requests(
    name: str, spec: AccuracySpec, reference: Sequence[Sample], share: int
) -> Iterator[tuple[str, Sample, list[dict[str, Any]]]]:
    """(task, the baseline's sample, messages that end with its answer) for up to `share` documents, evenly spread."""
    questions = load(name, spec)
    questions.start()
    answered = [s for s in reference if s.response.strip() and s.finish_reason != NOT_ASKED]
    chosen = {answered[int(i * len(answered) / share)].doc_id for i in range(share)} if len(answered) > share else None
    samples = {s.doc_id: s for s in answered if chosen is None or s.doc_id in chosen}
    unasked = {s.doc_id for s in reference if s.finish_reason == NOT_ASKED}
    for doc_id, doc in questions.documents(spec.limit):
        if doc_id in unasked:
            continue
        # Few-shot examples are drawn document by document, so every document takes its turn.
        messages, digest = chat(questions, doc)
        sample = samples.get(doc_id)
        if sample is None:
            continue
        if digest != sample.prompt_hash:
            raise CellFailed(f"{name}: document {doc_id} is not what the baseline was asked")
        messages[-1]["content"] = placed(messages[-1]["content"], [_part(p) for p in questions.pictures(doc)])
        yield name, sample, [*messages, {"role": "assistant", "content": sample.response}]


def _part(picture: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": pictures.png_url(picture)}}


def _scores(engine: Engine, name: str, sample: Sample, messages: list[dict[str, Any]]) -> TokenScores:
    """What the engine says of the answer's tokens: those behind the prompt that the baseline was asked with."""
    body = SAMPLING | {
        "model": engine.name,
        "messages": messages,
        "add_generation_prompt": False,
        "continue_final_message": True,
        "max_tokens": 1,
        "prompt_logprobs": TOP,
    }
    positions = _post(engine, body)["prompt_logprobs"][sample.prompt_tokens :][:LONGEST]
    tokens, logprobs, best = [], [], []
    for entry in positions:
        # vLLM puts the prompt's own token first, then the likeliest.
        tokens.append(int(next(iter(entry))))
        logprobs.append({int(token): max(float(about["logprob"]), -100.0) for token, about in entry.items()})
        best.append(next((int(token) for token, about in entry.items() if about.get("rank") == 1), tokens[-1]))
    return TokenScores(task=name, doc_id=sample.doc_id, tokens=tokens, logprobs=logprobs, best=best)


def _post(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{engine.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        raise CellFailed(f"the server answered {error.code}: {error.read().decode(errors='replace')[:500]}") from None
    except OSError as error:
        raise CellFailed(f"the server at {engine.url} does not answer: {error} (log: {engine.log})") from None
