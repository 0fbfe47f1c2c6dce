"""The documents of an accuracy task, looked at before any engine starts: what cannot be asked is named, by its id."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from harness.engine.settings import EngineSettings
from harness.record.scores import RIGHT, metric_fault
from harness.util.errors import Fault
from harness.workloads.lm_eval import generation, prompt_length
from harness.workloads.lm_eval.probe import scorer_faults
from harness.workloads.lm_eval.questions import Questions, chat, placed

if TYPE_CHECKING:
    from harness.workloads.accuracy import AccuracySpec

POLICY = "accuracy.bad_documents=score_zero counts such documents as wrong in every arm"

LOOKED: TypeAdapter[list[list[tuple[int, int]] | str]] = TypeAdapter(list[list[tuple[int, int]] | str])


def task_faults(name: str, questions: Questions, spec: AccuracySpec, settings: EngineSettings, model: Path) -> list[Fault]:
    """What lm-eval or a comparison cannot do with a task, and every document that cannot be asked, by its id.

    Under `score_zero` such documents are put into `questions.set_aside` instead, for every arm alike.
    """
    task = questions.task
    kind = task.get_config("output_type")
    if kind != "generate_until":
        return [Fault(name, f"is a {kind} task", "a chat server gives no log-likelihoods: use a generate_until task")]
    try:
        questions.scale  # noqa: B018
    except ValueError as error:
        return [Fault(name, str(error))]
    metric = next(iter(task.higher_is_better().items()), None)
    if metric and (why := metric_fault(metric[0], metric[1], bool(task.get_config("process_results")))):
        return [Fault(name, why, RIGHT)]
    if wrong := [*generation.faults(name, task.get_config("generation_kwargs") or {}), *scorer_faults(name, questions)]:
        return wrong
    ids = questions.ids(spec.limit)
    found = _twins(name, ids)
    longest = settings.max_model_len or prompt_length.model_length(model)
    answer = questions.answer_tokens(spec)
    if longest and answer >= longest:
        what = f"an answer may take {answer} tokens, and the model length is {longest}"
        found.append(Fault(name, what, "raise engine.max_model_len or lower accuracy.max_tokens"))
        longest = None
    unfit = _wrong(questions, ids, settings.images_per_prompt, spec, model, longest)
    questions.set_aside = {}
    if spec.bad_documents == "score_zero" and unfit:
        if len(unfit) == len(ids):
            return [*found, Fault(name, f"none of its documents can be asked: {next(iter(unfit.values()))[0]}")]
        questions.set_aside = {doc_id: "; ".join(reasons) for doc_id, reasons in unfit.items()}
        return found
    return found + [Fault(f"{name}: document {i}", reason, POLICY) for i, reasons in unfit.items() for reason in reasons]


def _twins(name: str, ids: list[str]) -> list[Fault]:
    seen: set[str] = set()
    found = []
    for doc_id in ids:
        if doc_id in seen:
            what = "another document has the same id"
            found.append(
                Fault(
                    f"{name}: document {doc_id}",
                    what,
                    "ids pair the two arms: make them unique, or set accuracy.pair_by: position",
                )
            )
        seen.add(doc_id)
    return found


def _wrong(
    questions: Questions,
    ids: list[str],
    images: int,
    spec: AccuracySpec,
    model: Path,
    longest: int | None,
) -> dict[str, list[str]]:
    """Why documents cannot be asked, by id, in the documents' order."""
    questions.start()
    questions.without_pictures = []
    family = prompt_length.family(model)
    found: dict[str, list[str]] = defaultdict(list)
    prompts = []
    sizes_shown = questions.each(len(ids), "pictures", LOOKED, lambda shown: [picture.size for picture in shown])
    for index, (doc_id, looked) in enumerate(zip(ids, sizes_shown, strict=True)):
        sizes = looked if isinstance(looked, list) else []
        if looked == [] and getattr(questions.task, "MULTIMODAL", False):
            questions.without_pictures.append(doc_id)
        if isinstance(looked, str):
            found[doc_id].append(looked)
        if len(sizes) > images:
            found[doc_id].append(f"shows {len(sizes)} images, engine.images_per_prompt is {images}")
        found[doc_id] += filter(None, (family.size_fault(width, height) for width, height in sizes))
        messages = _messages(questions, index)
        text = json.dumps(messages, ensure_ascii=False)
        token = next((t for t in family.image_tokens if t in text), None)
        if token:
            found[doc_id].append(f"its text holds the image token {token}")
        messages[-1]["content"] = placed(str(messages[-1]["content"]), [{"type": "image"}] * len(sizes))
        prompts.append(prompt_length.Prompt(messages, sizes))
    if longest and spec.apply_chat_template:
        answer = questions.answer_tokens(spec)
        for index, length in prompt_length.too_long(prompts, model, longest - answer).items():
            what = f"its prompt is {length} tokens and its answer may take {answer}, the model length is {longest}"
            found[ids[index]].append(what)
    return {doc_id: found[doc_id] for doc_id in ids if found.get(doc_id)}


def _messages(questions: Questions, index: int) -> list[dict[str, Any]]:
    """What is asked about a document, without its pictures."""
    try:
        return chat(questions, questions.rows.stored(index))[0]
    except Exception:  # a task's own text may look at its pictures
        return chat(questions, questions.rows[index])[0]
