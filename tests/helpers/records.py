"""Records, samples and Runs made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.record.folder import RunFolder
from harness.record.records import CellId, Metric, Noun, Provenance, Record
from harness.record.run_facts import RunFacts
from harness.record.samples import Sample

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


def sample(doc_id: str, score: float, answer: str = "", **fields: object) -> Sample:
    """A sample with what a comparison looks at."""
    given = {
        "prompt_hash": f"p{doc_id}",
        "image_hash": f"i{doc_id}",
        "target": "right",
        "response": answer,
        "parsed": True,
        "finish_reason": "stop",
        "prompt_tokens": 50,
        "completion_tokens": 3,
    }
    return Sample.model_validate(given | {"doc_id": doc_id, "score": score, "answer": answer or str(score)} | fields)


def record(variant: str, key: str, task: str = "t", **identity: object) -> Record:
    """A finished accuracy Record."""
    base = {
        "checkpoint": variant,
        "workload": "accuracy",
        "engine": {"max_num_seqs": 8, "enforce_eager": None},
        "versions": {"vllm": "0.32.0", "torch": "2.13.0"},
        "device": {"kind": "cpu", "name": "CPU"},
        "measured": {"task": task, "sampling": {"temperature": 0.0}},
    }
    return Record(
        cell=CellId(variant=variant, workload="accuracy", point={"task": task}, key=key),
        status="done",
        metrics={"score": Metric(value=0.5, unit="share", n=2, stderr=0.1)},
        provenance=Provenance(
            identity=base | identity,
            checkpoint="/c",
            engine={"kernel": None, "kv_cache_tokens": 10},
            started="2026-01-01T00:00:00+00:00",
            seconds=1.0,
        ),
    )


def keep(run: RunFolder, made: Record, samples: Iterable[Noun]) -> Record:
    """Write a Record with its samples; its score, where it has one, is their mean."""
    rows = list(samples)
    scores = [row.score for row in rows if isinstance(row, Sample)]
    if rows and not scores:
        # Rows of another kind have no score, and neither has their Record.
        made = made.model_copy(update={"metrics": {k: v for k, v in made.metrics.items() if k != "score"}})
    if scores and "score" in made.metrics:
        score = made.metrics["score"].model_copy(update={"value": sum(scores) / len(scores)})
        made = made.model_copy(update={"metrics": made.metrics | {"score": score}})
    return run.add(made, rows)


def run_of(path: Path, *records: tuple[Record, list[Sample]], baseline: str = "a", **facts: object) -> RunFolder:
    """A Run of finished Records with their samples."""
    run = RunFolder(path)
    names = dict.fromkeys(r.cell.variant for r, _ in records)
    variants = {name: {"content": name} for name in names}
    base = {"suite": {"name": "s", "model": "m"}, "baseline": baseline, "variants": variants}
    run.write(RunFacts.model_validate(base | {"cells": [r.cell.key for r, _ in records]} | facts))
    for one, samples in records:
        keep(run, one, samples)
    return run


def with_facts(run: RunFolder, **facts: object) -> RunFolder:
    """The Run with other facts in its run.json."""
    run.write(RunFacts.model_validate(run.read().model_dump(exclude_unset=True) | facts))
    return run
