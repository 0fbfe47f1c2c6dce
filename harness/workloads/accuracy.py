"""Accuracy: questions asked through lm-eval against the running engine, kept sample by sample for pairing."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from harness.engine.server import SAMPLING
from harness.engine.settings import EngineSettings
from harness.record.samples import NOT_ASKED, Sample
from harness.record.scores import checked
from harness.util import files
from harness.util.errors import CellFailed, Fault
from harness.util.strict import Strict
from harness.workloads import tasks
from harness.workloads.base import Context, Measurement, Workload
from harness.workloads.lm_eval import asking, scores
from harness.workloads.lm_eval.questions import Questions, load

CLIENT_NEEDS = ("lm_eval", "aiohttp", "requests", "tenacity", "tqdm")
TICK_S = 0.1
"""Seconds between two looks at what is being asked."""
UNPARSED = ("", "[invalid]")
"""What lm-eval's filters leave when they find no answer."""
NOT_HERE = (
    "its data set is not on this disk: name a copy in accuracy.datasets, "
    "or set HF_HUB_OFFLINE=0 and HF_DATASETS_OFFLINE=0 to fetch it once"
)
OTHERS = {"tasks", "questions", "include_path", "datasets", "divergence", "order", "stop"}
"""Fields of the spec that a Cell's outcome does not hang on, or only through the task's fingerprint."""


class AccuracySpec(Strict):
    """Image questions asked through lm-eval."""

    tasks: tuple[str, ...] = ()
    """lm-eval task or group names: the ones that ship (demo_vl), lm-eval's own, or those in include_path."""
    questions: Path | None = None
    """A file of your own questions, asked beside the tasks: .jsonl, .json, .csv, .tsv or .parquet with id, image, question,
    answer and, for multiple choice, choices."""
    include_path: Path | None = None
    """A folder with further lm-eval task files."""
    datasets: dict[str, Path] = {}
    """Local copies that stand in for data sets of the hub: `MMMU/MMMU: data/MMMU/MMMU`, parquet in the hub's layout."""
    bad_documents: Literal["fail", "score_zero"] = "fail"
    """What becomes of documents that cannot be asked: the run is refused, or they count as wrong in every arm alike."""
    divergence: int = Field(default=0, ge=0)
    """On so many questions, how far each variant's token probabilities are from the baseline's; 0 leaves it out."""
    pair_by: Literal["id", "position"] = "id"
    """What pairs two arms' questions: a document's own id, or its place in the task where ids repeat (a picture's id)."""
    limit: int | None = Field(default=None, gt=0)
    """Only the first so many documents of each task."""
    concurrency: int = Field(default=32, gt=0)
    """Requests in flight at once."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest answer in tokens; null takes the task's own limit."""
    order: Literal["tasks", "shuffled"] = "tasks"
    """Task by task, or all tasks together in one random order of their pictures, in blocks that every arm is asked in turn."""
    stop: Literal["decided"] | None = None
    """`decided`: asking ends as soon as the gate's recovery is shown to be kept or lost; needs `order: shuffled`, and brings
    it where no order is named."""
    apply_chat_template: bool = True
    """Ask through the model's chat template. Image tasks need it: the template places the image tokens."""
    num_fewshot: int = Field(default=0, ge=0)
    """Examples before the question. Image tasks take none: lm-eval drops the examples' images."""

    @model_validator(mode="before")
    @classmethod
    def _stop_brings_order(cls, data: Any) -> Any:
        return {"order": "shuffled"} | data if isinstance(data, dict) and data.get("stop") else data

    @model_validator(mode="after")
    def _asks_something(self) -> AccuracySpec:
        if not self.tasks and self.questions is None:
            raise ValueError("names nothing to ask: `tasks: [demo_vl]`, or `questions: FILE` with your own")
        return self

    @model_validator(mode="after")
    def _stops_in_order(self) -> AccuracySpec:
        if self.stop and self.order != "shuffled":
            raise ValueError("stop: decided needs order: shuffled: the first questions must speak for all")
        if self.order == "shuffled" and self.divergence:
            raise ValueError("divergence needs the baseline's answers task by task: leave it out, or the shuffled order")
        return self


class Accuracy(Workload):
    """What an engine answers to the questions of tasks; one Cell a task.

    After `preflight`, `warnings` names the documents that will not be asked and count as wrong.
    """

    name = "accuracy"
    own_tables = True
    Spec = AccuracySpec
    compared_by = "answers"
    lets_others_work = True
    trained_only = True

    def points(self, spec: AccuracySpec) -> list[dict[str, Any]]:
        return [{"task": task.name} for task in tasks.of_spec(spec)]

    def identity(self, spec: AccuracySpec, point: dict[str, Any]) -> dict[str, Any]:
        (task,) = tasks.of_spec(spec, [point["task"]])
        return {
            **({"shuffled_with": _together(spec)} if spec.order == "shuffled" else {}),
            "task": task.name,
            "fingerprint": task.fingerprint(),
            "sampling": SAMPLING,
            # Keys of earlier versions know no pair_by: only what differs from theirs is hashed.
            **spec.model_dump(mode="json", exclude=OTHERS | ({"pair_by"} if spec.pair_by == "id" else set())),
        }

    def faults(self, spec: AccuracySpec, points: list[dict[str, Any]], settings: EngineSettings) -> list[Fault]:
        asked = tasks.of_spec(spec, [point["task"] for point in points])
        found = tasks.dataset_faults(asked, spec.datasets)
        missing = [name for name in CLIENT_NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            what = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
            found.append(Fault("lm-eval's client", what, "pip install 'lm-eval[api]'"))
        shown = [task.name for task in asked if task.images]
        if not shown:
            return found
        why = f"but {shown[0]}{f' (and {len(shown) - 1} more tasks)' if len(shown) > 1 else ''} shows images"
        if not spec.apply_chat_template:
            right = "leave it true: the chat template places the image tokens"
            found.append(Fault("accuracy.apply_chat_template", f"is false, {why}", right))
        if spec.num_fewshot:
            right = "use 0: lm-eval drops the examples' images"
            found.append(Fault("accuracy.num_fewshot", f"is {spec.num_fewshot}, {why}", right))
        if settings.images_per_prompt == 0:
            found.append(Fault("engine.images_per_prompt", f"is 0, {why}", "use 1 or more"))
        return found

    def preflight(self, spec: AccuracySpec, points: list[dict[str, Any]], settings: EngineSettings, model: str) -> list[Fault]:
        """Documents that cannot be asked; see `preflight.task_faults`."""
        from harness.workloads.lm_eval.preflight import task_faults

        found = []
        for name in (point["task"] for point in points):
            try:
                questions = load(name, spec)
                found += task_faults(name, questions, spec, settings, Path(model))
            except Exception as error:  # a task file may run code of its own, and its data set may be anywhere
                what = f"cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
                found.append(Fault(name, what, NOT_HERE if isinstance(error, ConnectionError) else ""))
                continue
            bare = questions.without_pictures
            if bare:
                what = f"{len(bare)} of {len(questions.ids(spec.limit))} documents show no picture and are asked as text"
                self.warnings.append(Fault(name, f"{what}, the first is {bare[0]}"))
            aside = questions.set_aside.items()
            self.warnings += [
                Fault(f"{name}: document {i}", f"{reason}; it counts as wrong in every arm") for i, reason in aside
            ]
        return found

    def measure(self, cell: Context) -> Measurement:
        spec, name, progress = cell.spec, cell.point["task"], cell.progress
        try:
            questions = load(name, spec)
            ids, asked = _documents(questions, spec)
            mine = _prepared(cell, name) or asking.Asking(cell.engine, questions, spec, name, asked)
            try:
                after = _wait(cell, mine, lambda: progress(mine.answers, len(asked), name))
            except Exception:
                mine.drop()
                raise
            rows = mine.rows()
        except Exception as error:  # the client raises what its libraries raise; whatever it is, this Cell has failed
            raise CellFailed(f"{name}: {type(error).__name__}: {error}") from error
        samples = samples_of(name, questions, range(len(ids)), asked, rows)
        guessed = sum(drawn for _, drawn in rows)
        return measured(name, spec, questions, samples, guessed, cache_hits(mine.before, after))


def samples_of(
    name: str, questions: Questions, places: Iterable[int], asked: Sequence[int], rows: asking.Rows
) -> dict[int, Sample]:
    """The samples of a task's documents at `places`; those that were not `asked` count as wrong. Raises CellFailed."""
    ids = {i: questions.document_id(questions.rows.stored(i), i) for i in places}
    try:
        found = {i: _sample(questions, ids[i], row, guessed) for i, (row, guessed) in zip(asked, rows, strict=True)}
    except ValueError as error:
        raise CellFailed(f"{name}: {error}") from None
    return {i: found[i] if i in found else _unasked(questions, ids[i], i) for i in ids}


def measured(
    name: str,
    spec: AccuracySpec,
    questions: Questions,
    samples: Mapping[int, Sample],
    guessed: int,
    hits: Mapping[str, float],
) -> Measurement:
    """What one task gave. samples: by the document's place in the task, in the order in which they are kept; guessed: how
    many answers the scorer drew; hits: see `cache_hits`."""
    (task,) = tasks.of_spec(spec, [name])
    ordered = list(samples.values())
    chance = scores.chance_level(ordered, task.chance, [questions.rows.stored(i) for i in samples])
    measurement = Measurement(scores.metrics(ordered, chance, [True] * guessed), ordered)
    if any(hits.values()):
        measurement.status, measurement.reason = "invalid", f"cache hits: {dict(hits)}"
    return measurement


def cache_hits(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What caches answered between two readings of an engine's counters; anything but 0 makes a Cell invalid."""
    return {n: after.get(n, 0) - before.get(n, 0) for n in ("prefix_cache_hits_total", "mm_cache_hits_total")}


def _together(spec: AccuracySpec) -> dict[str, str]:
    """What shares batches with a task where the order is shuffled: every task's fingerprint, by name."""
    return {task.name: task.fingerprint() for task in tasks.of_spec(spec)}


def _prepared(cell: Context, name: str) -> asking.Asking | None:
    """What was started ahead for a task of this engine; anything else that was is dropped."""
    taken = cell.session.take()
    if isinstance(taken, asking.Asking) and taken.is_for(cell.engine, name):
        return taken
    if taken is not None:
        taken.drop()
    return None


def _wait(cell: Context, mine: asking.Asking, progress: Callable[[], None]) -> dict[str, float]:
    """Until this task is scored; returns the engine's counters after its last answer. The task that follows is prepared
    meanwhile, and its turn begins with that answer."""
    after: dict[str, float] | None = None
    following: asking.Asking | None = None
    coming, seen = cell.following, 0
    mine.begin()
    while not mine.ended(TICK_S) or after is None:
        if mine.answers > seen:
            seen = mine.answers
            progress()
        if coming is not None and mine.sent.is_set():
            following, coming = _ahead(cell, coming["task"]), None
        if after is None and mine.answered.is_set():
            mine.check()
            after = cell.engine.metrics()
            if following is not None:
                # What fails now is told by the Cell that it belongs to.
                with contextlib.suppress(CellFailed):
                    following.begin()
    return after


def _ahead(cell: Context, name: str) -> asking.Asking | None:
    """The next task's asking; None where the task cannot be loaded, which its own Cell tells."""
    try:
        questions = load(name, cell.spec)
        asked = _documents(questions, cell.spec)[1]
    except Exception:  # a task's own code may raise anything
        return None
    following = asking.Asking(cell.engine, questions, cell.spec, name, asked)
    cell.session.keep(following)
    return following


def _documents(questions: Questions, spec: AccuracySpec) -> tuple[list[str], list[int]]:
    """The ids of a task's documents, and the positions of those that are asked."""
    ids = questions.ids(spec.limit)
    return ids, [index for index, doc_id in enumerate(ids) if doc_id not in questions.set_aside]


def pixels_hash(pictures: Iterable[Any]) -> str:
    """SHA-256 over mode, size and pixels of pictures, 16 hex digits; empty without any."""
    total, some = hashlib.sha256(), False
    for picture in pictures:
        total.update(f"{picture.mode}{picture.size}".encode() + picture.tobytes())
        some = True
    return total.hexdigest()[:16] if some else ""


def _sample(questions: Questions, doc_id: str, row: dict[str, Any], guessed: bool) -> Sample:
    """An lm-eval sample as ours."""
    context, _, *rest = row["arguments"][0]
    response = row["resps"][0][0]
    answer = row["filtered_resps"][0]
    answer = answer[0] if isinstance(answer, list) else answer
    return Sample(
        doc_id=doc_id,
        prompt_hash=files.digest(str(getattr(context, "prompt", context))),
        image_hash=pixels_hash(rest[0].get("visual", []) if rest else []),
        target=str(row["target"]),
        response=str(response),
        answer=str(answer),
        score=checked(row["metrics"][0], row[row["metrics"][0]], questions.scale),
        parsed=str(answer) not in UNPARSED and not guessed,
        finish_reason=response.finish_reason,
        prompt_tokens=response.prompt_tokens,
        completion_tokens=response.completion_tokens,
    )


def _unasked(questions: Questions, doc_id: str, index: int) -> Sample:
    """A document that was set aside: wrong, in every arm alike."""
    doc = questions.rows[index]
    try:
        image_hash = pixels_hash(questions.pictures(doc))
    except ValueError:
        image_hash = ""
    return Sample(
        doc_id=doc_id,
        prompt_hash=files.digest(str(questions.task.doc_to_text(doc))),
        image_hash=image_hash,
        target=str(questions.task.doc_to_target(doc)),
        response="",
        answer="",
        score=0.0,
        parsed=False,
        finish_reason=NOT_ASKED,
        prompt_tokens=0,
        completion_tokens=0,
    )
