"""Results that the peers' own tools made become Records, marked as imported: lm-eval's results with samples, vLLM's bench.

What such a file does not say (the device, the engine's settings, how answers ended) stays unknown in the Record, so that a
comparison with something measured here is refused and names it. Two imports of one tool compare as far as both files go.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.record.folder import RunFolder
from harness.record.health import loops
from harness.record.records import SCHEMA_VERSION, CellId, Metric, Provenance, Record
from harness.record.run_facts import RunFacts, VariantFacts
from harness.record.samples import Sample
from harness.record.scores import RIGHT, checked, metric_fault
from harness.util import files
from harness.util.errors import Fault, Refused
from harness.workloads.accuracy import Accuracy
from harness.workloads.latency import Latency
from harness.workloads.throughput import Throughput

UNKNOWN = "unknown"
GUESSERS = ("mmmu", "pisa")
"""lm-eval's tasks whose scorers draw an answer at random for a reply they cannot read; an import cannot take that out."""
SERVE_UNITS = {
    "output_throughput": "tokens/s",
    "total_token_throughput": "tokens/s",
    "request_throughput": "requests/s",
    "request_goodput": "requests/s",
    "duration": "s",
    "completed": "requests",
    "failed": "requests",
    "total_input_tokens": "tokens",
    "total_output_tokens": "tokens",
}
QUESTION_FIELDS = (
    "dataset_path",
    "dataset_name",
    "test_split",
    "validation_split",
    "doc_to_text",
    "doc_to_target",
    "doc_to_image",
    "generation_kwargs",
    "filter_list",
    "description",
)
"""What of lm-eval's task configuration decides what is asked and how it is scored. Its own task hash is not used: for
documents with pictures it differs from run to run."""


@dataclass(frozen=True)
class Place:
    """Where imported Records belong."""

    variant: str
    load: str = "imported"
    """Names the traffic of a bench file."""
    workload: str | None = None
    """`latency` or `throughput` for a bench file; None takes latency for one request at a time."""
    device: str | None = None
    """The device's name, which the files do not hold."""


@dataclass
class Imported:
    """One Record to be, with its rows."""

    record: Record
    samples: list[Sample] = field(default_factory=list)


def import_files(run: RunFolder, paths: Sequence[Path], place: Place) -> list[Record]:
    """Make the Records of all files and add them to the Run, which is made when it is not there; all files or none.

    Raises Refused for files that are none of the known kinds, that are there already under another name, or for a
    variant that was measured here.
    """
    facts = run.find()
    known = facts.variants.get(place.variant) if facts else None
    faults = list(run.faults())
    if known is not None and known.origin != "imported":
        what = f"variant {place.variant!r} was measured here"
        faults.append(Fault(str(run.path), what, "import under another name with --variant"))
    Refused.if_any(faults)
    found: list[Imported] = []
    earlier = [r for r in run.records() if r.imported_from]
    for path in paths:
        found += _read(path, place, [*earlier, *(one.record for one in found)])
    model = found[0].record.provenance.checkpoint
    if facts is None:
        suite = {"name": run.path.resolve().name, "model": model}
        facts = RunFacts(suite=suite, baseline=place.variant, variants={}, cells=[])
    cells = list(facts.cells)
    for one in found:
        run.add(one.record, one.samples)
        cells += [] if one.record.cell.key in cells else [one.record.cell.key]
    fresh = VariantFacts(origin="imported", checkpoint=model, content=model, recipe=None)
    variants = {**facts.variants, place.variant: known or fresh}
    run.write(facts.model_copy(update={"variants": variants, "cells": cells}))
    return [one.record for one in found]


def _read(path: Path, place: Place, earlier: Sequence[Record]) -> list[Imported]:
    data = _json(path)
    sha = files.file_sha256(path)
    try:
        if isinstance(data.get("results"), dict) and isinstance(data.get("n-samples"), dict):
            tasks = [task for task in data["n-samples"] if task in data["results"]]
            if not tasks:
                raise Refused(Fault(str(path), "holds the results of no task"))
            return [_lm_eval(path, data, task, place, sha) for task in tasks]
        if "request_throughput" in data and "completed" in data:
            return [_serve(path, data, place, sha, earlier)]
        if {"requests_per_second", "elapsed_time"} <= data.keys() or {"avg_latency", "latencies"} <= data.keys():
            return [_offline(path, data, place, sha, earlier)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(Fault(str(path), f"is not as its tool writes it: {type(error).__name__} {error}")) from None
    what = "is neither lm-eval's results (results_*.json) nor a result of vllm bench"
    raise Refused(Fault(str(path), what, "give the JSON file that --output_path or --save-result wrote"))


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(Fault(str(path), error.strerror or str(error))) from None
    except ValueError as error:
        raise Refused(Fault(str(path), f"is not JSON: {error}")) from None
    if not isinstance(data, dict):
        raise Refused(Fault(str(path), "holds no mapping of keys to values"))
    return data


def _provenance(model: str, workload: str, measured: dict[str, Any], place: Place, **known: Any) -> Provenance:
    identity = {
        "schema": SCHEMA_VERSION,
        "workload": workload,
        "checkpoint": model,
        "repeat": 0,
        "measured": measured,
        "engine": known.get("engine", {}),
        "versions": known.get("versions", {}),
        "device": {"kind": UNKNOWN, "name": place.device or UNKNOWN},
    }
    return Provenance(
        identity=identity,
        checkpoint=model,
        engine={"kernel": UNKNOWN, "reasons": {"weights_gib": "imported"}},
        started=known["started"],
        seconds=float(known.get("seconds") or 0),
    )


def _record(path: Path, cell: dict[str, Any], provenance: Provenance, sha: str, **fields: Any) -> Record:
    key = files.digest([provenance.identity, cell, sha])
    return Record(
        cell=CellId(key=key, **cell),
        imported_from=files.shown(path),
        facts={"sha256": sha},
        provenance=provenance,
        **({"status": "done"} | fields),
    )


def _lm_eval(path: Path, data: dict[str, Any], task: str, place: Place, sha: str) -> Imported:
    """One task of lm-eval's results; with its samples where the file beside it holds them."""
    given = data.get("config") or {}
    arguments = given.get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    model = str(arguments.get("pretrained") or arguments.get("model") or data.get("model_name") or UNKNOWN)
    config = (data.get("configs") or {}).get(task) or {}
    measured = {
        "task": task,
        "fingerprint": "lm-eval " + files.digest({key: config.get(key) for key in QUESTION_FIELDS}),
        "limit": given.get("limit"),
        "num_fewshot": (data.get("n-shot") or {}).get(task),
        "gen_kwargs": given.get("gen_kwargs"),
        "chat_template": data.get("chat_template_sha"),
    }
    silent = ("pretrained", "model", "base_url", "num_concurrent", "max_retries", "tokenizer")
    engine = {"client": data.get("model_source")} | {k: str(v) for k, v in arguments.items() if k not in silent}
    provenance = _provenance(
        model,
        Accuracy.name,
        measured,
        place,
        engine=engine,
        versions={"lm-eval": data.get("lm_eval_version"), "transformers": data.get("transformers_version")},
        started=_when(data.get("date")),
        seconds=data.get("total_evaluation_time_seconds"),
    )
    if why := _direction_fault(data, task):
        raise Refused(Fault(f"{path}: {task}", why, RIGHT))
    samples = _lm_eval_samples(path, task)
    metrics = _metrics_of(samples) if samples else {"score": _bare_score(data, task)}
    labels = ["guesses included"] if task.startswith(GUESSERS) else []
    cell = {"variant": place.variant, "workload": Accuracy.name, "point": {"task": task}}
    return Imported(_record(path, cell, provenance, sha, metrics=metrics, labels=labels), samples)


def _direction_fault(data: dict[str, Any], task: str) -> str | None:
    """What `metric_fault` says of the task's first metric, as its results name it."""
    better = (data.get("higher_is_better") or {}).get(task) or {}
    first = next((key.partition(",")[0] for key in data["results"][task] if "," in key and "_stderr" not in key), None)
    return None if first is None else metric_fault(first, better.get(first))


def _when(date: Any) -> str:
    """ISO 8601 in UTC from lm-eval's seconds or vLLM's `20260101-120000`; the epoch when there is neither."""
    try:
        moment = datetime.datetime.fromtimestamp(float(date), datetime.UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        try:
            moment = datetime.datetime.strptime(str(date), "%Y%m%d-%H%M%S").replace(tzinfo=datetime.UTC)
        except ValueError:
            moment = datetime.datetime.fromtimestamp(0, datetime.UTC)
    return moment.isoformat(timespec="seconds")


def _bare_score(data: dict[str, Any], task: str) -> Metric:
    """The task's first metric, from the results alone; lm-eval writes "N/A" where it made no standard error."""
    results = data["results"][task]
    name = next((k for k, v in results.items() if "," in k and "_stderr" not in k and isinstance(v, int | float)), None)
    n = int(((data.get("n-samples") or {}).get(task) or {}).get("effective") or 0)
    if name is None:
        return Metric(value=None, unit="share", n=n, reason="the results hold no metric of this task")
    error = results.get(name.replace(",", "_stderr,", 1))
    try:
        score = checked(name.partition(",")[0], results[name])
    except ValueError as wrong:
        raise Refused(Fault(f"the results of {task}", str(wrong))) from None
    return Metric(value=score, unit="share", n=n, stderr=error if isinstance(error, float) else None)


def _lm_eval_samples(path: Path, task: str) -> list[Sample]:
    """The rows of `samples_TASK_DATE.jsonl` beside `results_DATE.json`; of several filters the first counts."""
    beside = path.with_name(f"samples_{task}_{path.stem.removeprefix('results_')}.jsonl")
    if not beside.is_file():
        return []
    samples, filters = [], list[Any]()
    for number, line in enumerate(beside.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            filters.append(row.get("filter"))
            if row.get("filter") == filters[0]:
                samples.append(_sample(row))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            what = f"is no sample of lm-eval: {type(error).__name__} {error}"
            raise Refused(Fault(f"{beside}:{number}", what)) from None
        except ValueError as error:
            what = f"is no sample of lm-eval: {error}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise Refused(Fault(f"{beside}:{number}", what)) from None
    return samples


def _sample(row: dict[str, Any]) -> Sample:
    arguments = next(iter(row["arguments"].values())) if isinstance(row["arguments"], dict) else {}
    prompt, *rest = [arguments[key] for key in sorted(arguments)] or [""]
    visual: Any = next((value["visual"] for value in rest if isinstance(value, dict) and "visual" in value), [])
    own = row["doc"].get("id") if isinstance(row["doc"], dict) else None
    answer = row["filtered_resps"][0]
    answer = str(answer[0] if isinstance(answer, list) else answer)
    return Sample(
        doc_id=str(row["doc_id"] if own is None else own),
        prompt_hash=files.digest(str(prompt[0] if isinstance(prompt, list) else prompt)),
        # From lm-eval's own hashes of the pictures, which are others than those made here.
        image_hash=files.digest([str(v) for v in visual]) if visual else "",
        target=str(row["target"]),
        response=str(row["resps"][0][0]),
        answer=answer,
        score=checked(row["metrics"][0], row[row["metrics"][0]]),
        parsed=answer not in ("", "[invalid]"),
        finish_reason=UNKNOWN,
        prompt_tokens=0,
        completion_tokens=0,
    )


def _metrics_of(samples: Sequence[Sample]) -> dict[str, Metric]:
    n = len(samples)
    mean = sum(s.score for s in samples) / n
    spread = math.sqrt(sum((s.score - mean) ** 2 for s in samples) / (n - 1) / n) if n > 1 else None
    silent = "lm-eval does not record it"
    return {
        "score": Metric(value=mean, unit="share", n=n, stderr=spread),
        "unparsed": Metric(value=sum(not s.parsed for s in samples) / n, unit="share", n=n),
        "looped": Metric(value=sum(map(loops, samples)) / n, unit="share", n=n),
        "cut_by_length": Metric.missing("share", silent),
        "output_tokens": Metric.missing("tokens", silent),
    }


def _trial(workload: str, point: dict[str, Any], place: Place, sha: str, path: Path, earlier: Sequence[Record]) -> int:
    """The next trial of a point; a file that is there already keeps its own, and is never a second trial."""
    same = [r for r in earlier if r.facts.get("sha256") == sha]
    for record in same:
        mine = {k: v for k, v in record.cell.point.items() if k != "trial"}
        if (record.cell.variant, record.cell.workload, mine) == (place.variant, workload, point):
            return int(record.cell.point["trial"])
        what = f"is in this Run already, as {record.cell.label}"
        raise Refused(Fault(str(path), what, "one result counts once"))
    taken = [
        int(r.cell.point.get("trial", 0))
        for r in earlier
        if (r.cell.variant, r.cell.workload) == (place.variant, workload)
        and {k: v for k, v in r.cell.point.items() if k != "trial"} == point
    ]
    return max(taken, default=0) + 1


def _serve(path: Path, data: dict[str, Any], place: Place, sha: str, earlier: Sequence[Record]) -> Imported:
    """A result of `vllm bench serve`. Its own exit status is 0 even when every request failed, so the counts are looked at."""
    rate = _number(data.get("request_rate"))
    open_loop = rate is not None and math.isfinite(rate)
    concurrency = int(_number(data.get("max_concurrency")) or _number(data.get("num_prompts")) or 0)
    point: dict[str, Any] = {"load": place.load} | ({"request_rate": rate} if open_loop else {"concurrency": concurrency})
    workload = place.workload or (Latency if concurrency == 1 and not open_loop else Throughput).name
    trial = _trial(workload, point, place, sha, path, earlier)
    completed = int(_number(data.get("completed")) or 0)
    metrics = {}
    for name, value in data.items():
        unit = SERVE_UNITS.get(name) or ("ms" if name.endswith("_ms") else None)
        number = _number(value)
        if unit and number is not None and math.isfinite(number):
            metrics[name] = Metric(value=number, unit=unit, n=completed, source="client")
    failed, asked = int(_number(data.get("failed")) or 0), int(_number(data.get("num_prompts")) or completed)
    measured = {k: data.get(k) for k in ("backend", "endpoint_type", "num_prompts", "request_rate", "burstiness")}
    measured |= {"load": place.load, "concurrency": data.get("max_concurrency"), "trial": trial}
    status: dict[str, Any] = {}
    if failed or completed != asked or not completed:
        status = {"status": "invalid", "reason": f"{completed} of {asked} requests were answered, {failed} failed"}
    provenance = _provenance(
        str(data.get("model_id") or UNKNOWN),
        workload,
        measured,
        place,
        started=_when(data.get("date")),
        seconds=data.get("duration"),
    )
    cell = {"variant": place.variant, "workload": workload, "point": point | {"trial": trial}}
    return Imported(_record(path, cell, provenance, sha, metrics=metrics, **status))


def _offline(path: Path, data: dict[str, Any], place: Place, sha: str, earlier: Sequence[Record]) -> Imported:
    """A result of `vllm bench throughput` or `vllm bench latency`."""
    if "avg_latency" in data:
        workload, point = place.workload or Latency.name, {"load": place.load}
        figures = {"mean_e2el_ms": (1000 * float(data["avg_latency"]), "ms")}
        figures |= {f"p{p}_e2el_ms": (1000 * float(v), "ms") for p, v in (data.get("percentiles") or {}).items()}
    else:
        workload, point = place.workload or Throughput.name, {"load": place.load}
        figures = {"request_throughput": (float(data["requests_per_second"]), "requests/s")}
        figures |= (
            {"total_token_throughput": (float(data["tokens_per_second"]), "tokens/s")} if "tokens_per_second" in data else {}
        )
        figures |= {"completed": (float(data["num_requests"]), "requests")} if "num_requests" in data else {}
    trial = _trial(workload, point, place, sha, path, earlier)
    provenance = _provenance(
        str(data.get("model_id") or UNKNOWN),
        workload,
        {"load": place.load, "trial": trial, "num_requests": data.get("num_requests")},
        place,
        started=_when(data.get("date")),
        seconds=data.get("elapsed_time"),
    )
    metrics = {name: Metric(value=value, unit=unit, source="client") for name, (value, unit) in figures.items()}
    cell = {"variant": place.variant, "workload": workload, "point": point | {"trial": trial}}
    return Imported(_record(path, cell, provenance, sha, metrics=metrics))


def _number(value: Any) -> float | None:
    """A number from JSON; vLLM writes an unlimited rate as "inf"."""
    try:
        return None if value is None or isinstance(value, bool | list | dict) else float(value)
    except ValueError:
        return None
