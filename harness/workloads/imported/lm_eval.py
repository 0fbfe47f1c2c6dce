"""lm-eval's results with the samples beside them: a Record for each task that was asked.

Read are the files of lm-eval 0.4.0 and later, in the forms that its releases wrote: with and without `n-samples` (0.4.3),
rows with and without `metrics` and `filter` (0.4.6), rows as lines or as one list (0.4.2), `results_DATE.json` and the
`NAME_DATE.json` that `--output_path NAME.json` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.record.records import Metric
from harness.record.samples import Sample
from harness.record.scores import RIGHT, Scale, checked, metric_fault, scale_of
from harness.util import files, rows
from harness.util.errors import Fault, Refused
from harness.workloads.accuracy import Accuracy
from harness.workloads.imported.base import UNKNOWN, Imported, Place, odd, provenance_of, record_of, when
from harness.workloads.lm_eval.scores import chance_level, metrics

GUESSERS = ("mmmu", "pisa")
"""lm-eval's tasks whose scorers draw an answer at random for a reply they cannot read; an import cannot take that out."""
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
NOT_RECORDED = ("cut_by_length", "output_tokens", "prompt_tokens", "guessed", "set_aside")
"""What a Cell measured here tells and lm-eval's files do not."""


def is_results(data: dict[str, Any]) -> bool:
    """Whether a JSON file is lm-eval's results."""
    return isinstance(data.get("results"), dict) and isinstance(data.get("configs"), dict)


def read(path: Path, data: dict[str, Any], place: Place, sha: str) -> list[Imported]:
    """The Records of all tasks in a file of results; raises Refused where there is none, or one cannot be compared."""
    tasks = [task for task in data["configs"] if task in data["results"]]
    if not tasks:
        raise Refused(Fault(str(path), "holds the results of no task"))
    return [_task(path, data, task, place, sha) for task in tasks]


def _task(path: Path, data: dict[str, Any], task: str, place: Place, sha: str) -> Imported:
    """One task; with its samples where the file beside it holds them."""
    given = data.get("config") or {}
    arguments = given.get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    model = str(arguments.get("pretrained") or arguments.get("model") or data.get("model_name") or UNKNOWN)
    config = data["configs"][task] or {}
    measured = {
        "task": task,
        "fingerprint": "lm-eval " + files.digest({key: config.get(key) for key in QUESTION_FIELDS}),
        "limit": given.get("limit"),
        "num_fewshot": (data.get("n-shot") or {}).get(task),
        "gen_kwargs": given.get("gen_kwargs"),
        "chat_template": data.get("chat_template_sha"),
    } | ({"pair_by": "position"} if place.by_position else {})
    silent = ("pretrained", "model", "base_url", "num_concurrent", "max_retries", "tokenizer")
    engine = {"client": data.get("model_source")} | {k: str(v) for k, v in arguments.items() if k not in silent}
    provenance = provenance_of(
        model,
        Accuracy.name,
        measured,
        place,
        engine=engine,
        versions={"lm-eval": data.get("lm_eval_version"), "transformers": data.get("transformers_version")},
        started=when(data.get("date")),
        seconds=data.get("total_evaluation_time_seconds"),
    )
    metric = next((key.partition(",")[0] for key in data["results"][task] if "," in key and "_stderr" not in key), None)
    better = ((data.get("higher_is_better") or {}).get(task) or {}).get(metric)
    if metric is not None and (why := metric_fault(metric, better)):
        raise Refused(Fault(f"{path}: {task}", why, RIGHT))
    about = config.get("metadata")
    try:
        scale = scale_of(about)
    except ValueError as error:
        raise Refused(Fault(f"{path}: {task}", str(error))) from None
    found = list(_samples(path, task, metric, scale, place.by_position))
    samples = [sample for sample, _ in found]
    asked = ((data.get("n-samples") or {}).get(task) or {}).get("effective")
    if samples and isinstance(asked, int) and asked != len(samples):
        what = f"{len(samples)} samples stand beside it and {asked} documents were asked: the file was cut or is another's"
        raise Refused(Fault(f"{path}: {task}", what, "give results and samples of one evaluation"))
    if samples:
        stated = about.get("chance") if isinstance(about, dict) else None
        level = chance_level(samples, float(stated) if isinstance(stated, int | float) else None, [doc for _, doc in found])
        figures = metrics(samples, level)
        missing = {name: Metric.missing(figures[name].unit, "lm-eval does not record it") for name in NOT_RECORDED}
        figures |= missing
    else:
        figures = {"score": _bare_score(path, data, task, scale)}
    labels = ["guesses included"] if task.startswith(GUESSERS) else []
    cell = {"variant": place.variant, "workload": Accuracy.name, "point": {"task": task}}
    return Imported(record_of(path, cell, provenance, sha, metrics=figures, labels=labels), samples)


def _bare_score(path: Path, data: dict[str, Any], task: str, scale: Scale) -> Metric:
    """The task's first metric, from the results alone; lm-eval writes "N/A" where it made no standard error."""
    results = data["results"][task]
    name = next((k for k, v in results.items() if "," in k and "_stderr" not in k and isinstance(v, int | float)), None)
    n = int(((data.get("n-samples") or {}).get(task) or {}).get("effective") or 0)
    if name is None:
        return Metric(value=None, unit="share", n=n, reason="the results hold no metric of this task")
    error = results.get(name.replace(",", "_stderr,", 1))
    try:
        score = checked(name.partition(",")[0], results[name], scale)
    except ValueError as wrong:
        raise Refused(Fault(f"{path}: {task}", str(wrong))) from None
    width = scale[1] - scale[0]
    return Metric(value=score, unit="share", n=n, stderr=error / width if isinstance(error, float) else None)


def _beside(path: Path, task: str) -> Path | None:
    """The file of a task's rows: `samples_TASK_DATE.jsonl`, whatever stands before the date in the name of the results."""
    file = path.with_name(f"samples_{task}_{path.stem.rpartition('_')[2]}.jsonl")
    return file if file.is_file() else None


def _samples(
    path: Path, task: str, metric: str | None, scale: Scale, by_position: bool
) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """The rows as (sample, document); of several filters the first counts.

    metric: for rows of releases that do not name it.
    """
    file = _beside(path, task)
    if file is None:
        return
    filters: list[Any] = []
    for place, row in _rows(file):
        try:
            filters.append(row.get("filter"))
            if row.get("filter") != filters[0]:
                continue
            named = row.get("metrics") or [metric]
            document = row["doc"] if isinstance(row["doc"], dict) else {}
            yield _sample(row, str(named[0]), scale, by_position), document
        except (KeyError, TypeError, IndexError, AttributeError, StopIteration) as error:
            raise Refused(Fault(f"{file}:{place}", f"is no sample of lm-eval: {odd(error)}")) from None
        except ValueError as error:
            raise Refused(Fault(f"{file}:{place}", str(error))) from None


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row); one list in a file named .jsonl is what lm-eval 0.4.2 wrote."""
    for number, value in rows.json_lines(file) if not _is_list(file) else rows.json_list(file):
        if not isinstance(value, dict):
            raise Refused(Fault(f"{file}:{number}", "is no sample of lm-eval: no JSON object"))
        yield number, value


def _is_list(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(64).lstrip()[:1] == b"["


def _sample(row: dict[str, Any], metric: str, scale: Scale, by_position: bool) -> Sample:
    given = row["arguments"]
    if isinstance(given, dict):
        first = next(iter(given.values()))
        prompt, *rest = [first[key] for key in sorted(first)] or [""]
    else:
        # Until 0.4.3: one list of arguments a request.
        prompt, *rest = given[0] if given and isinstance(given[0], list) else given
    visual: Any = next((value["visual"] for value in rest if isinstance(value, dict) and "visual" in value), [])
    own = row["doc"].get("id") if isinstance(row["doc"], dict) and not by_position else None
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
        score=checked(metric, row[metric], scale),
        parsed=answer not in ("", "[invalid]"),
        finish_reason=UNKNOWN,
        prompt_tokens=0,
        completion_tokens=0,
    )
