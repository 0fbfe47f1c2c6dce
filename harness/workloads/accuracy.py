"""Accuracy: questions asked through lm-eval against the running engine, kept sample by sample for pairing."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
from functools import cache
from typing import Any

from harness import environments, files, tasks
from harness.engine import SAMPLING, Engine
from harness.errors import CellFailed, Fault
from harness.record import Metric, Sample
from harness.suite import AccuracySpec, EngineSettings
from harness.workloads import Measurement, Progress

IMAGE_TOKENS = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
SMALLEST_SIDE = 28
"""Qwen-VL's processors refuse or distort pictures with a side below this many pixels."""
CLIENT_NEEDS = ("lm_eval", "aiohttp", "requests", "tenacity", "tqdm")
UNPARSED = ("", "[invalid]")
"""What lm-eval's filters leave when they find no answer."""


class Accuracy:
    """One Cell a task."""

    def points(self, spec: AccuracySpec) -> list[dict[str, Any]]:
        return [{"task": task.name} for task in tasks.find(spec.tasks, spec.include_path)]

    def identity(self, spec: AccuracySpec, point: dict[str, Any]) -> dict[str, Any]:
        (task,) = tasks.find([point["task"]], spec.include_path)
        return {
            "task": task.name,
            "fingerprint": task.fingerprint(),
            "sampling": SAMPLING,
            **spec.model_dump(mode="json", exclude={"tasks", "include_path"}),
        }

    def faults(self, spec: AccuracySpec, point: dict[str, Any], settings: EngineSettings) -> list[Fault]:
        (task,) = tasks.find([point["task"]], spec.include_path)
        found = []
        missing = [name for name in CLIENT_NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            what = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
            found.append(Fault("lm-eval's client", what, "pip install 'lm-eval[api]'"))
        if task.images and not spec.apply_chat_template:
            found.append(
                Fault(
                    "accuracy.apply_chat_template",
                    f"is false, but {task.name} shows images",
                    "leave it true: the chat template places the image tokens",
                )
            )
        if task.images and spec.num_fewshot:
            found.append(
                Fault(
                    "accuracy.num_fewshot",
                    f"is {spec.num_fewshot}, but {task.name} shows images",
                    "use 0: lm-eval drops the examples' images",
                )
            )
        if task.images and settings.images_per_prompt == 0:
            found.append(Fault("engine.images_per_prompt", f"is 0, but {task.name} shows images", "use 1 or more"))
        return found

    def preflight(self, spec: AccuracySpec, points: list[dict[str, Any]], settings: EngineSettings, model: str) -> list[Fault]:
        """Documents with too many images, pictures too small, or a text that holds an image token."""
        found = []
        for point in points:
            try:
                found += _task_faults(point["task"], _load(point["task"], spec), spec, settings)
            except Exception as error:  # a task file may run code of its own, and its data set may be anywhere
                what = f"cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
                right = ""
                if isinstance(error, ConnectionError):
                    right = "its data set is not on this disk: set HF_HUB_OFFLINE=0 and HF_DATASETS_OFFLINE=0 to fetch it once"
                found.append(Fault(point["task"], what, right))
        return found

    def measure(self, engine: Engine, spec: AccuracySpec, point: dict[str, Any], progress: Progress) -> Measurement:
        task = _load(point["task"], spec)
        total, answered = min(len(task.eval_docs), spec.limit or len(task.eval_docs)), 0

        def on_answer() -> None:
            nonlocal answered
            answered += 1
            progress(answered, total, point["task"])

        from lm_eval.evaluator import evaluate

        from harness.workloads.lm_eval_client import ServedModel

        served = ServedModel(engine.url, engine.name, spec.concurrency, spec.max_tokens, on_answer)
        before = engine.metrics()
        try:
            results = evaluate(
                served,
                {point["task"]: task},
                limit=spec.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=spec.apply_chat_template,
            )
            assert results is not None
            rows = results["samples"][point["task"]]
            # A task with several filters scores each answer several times; the first filter is the one that counts.
            samples = [_sample(row) for row in rows if row["filter"] == rows[0]["filter"]]
        except Exception as error:  # the client raises what its libraries raise; whatever it is, this Cell has failed
            state = "" if engine.alive() else f"; the engine died, see {engine.log}"
            raise CellFailed(f"{point['task']}: {type(error).__name__}: {error}{state}") from error
        hits = {
            name: engine.metrics().get(name, 0) - before.get(name, 0)
            for name in ("prefix_cache_hits_total", "mm_cache_hits_total")
        }
        measurement = Measurement(_metrics(samples), samples)
        if any(hits.values()):
            measurement.status, measurement.reason = "invalid", f"cache hits: {hits}"
        return measurement


def _quiet() -> None:
    """lm-eval and datasets report through loggers and bars of their own; the harness shows its own progress."""
    environments.prepare_imports()
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["LMEVAL_HASHMM"] = "0"  # it encodes every picture anew, several times; _sample hashes the pixels once
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    # Every request that was in flight when a server dies would print its own traceback; CellFailed says it once.
    for name in ("lm_eval", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@cache
def _manager(include: str | None, defaults: bool) -> Any:
    _quiet()
    from lm_eval.tasks import TaskManager

    folders = [str(tasks.SHIPPED), *([include] if include else [])]
    return TaskManager(include_path=folders, include_defaults=defaults)


@cache
def _load_named(name: str, include: str | None, shipped: bool, fewshot: int) -> Any:
    """The lm-eval task object, made once: both arms are asked the very same documents."""
    task = _manager(include, not shipped).load(name)["tasks"][name]
    task.set_config("num_fewshot", fewshot or task.get_config("num_fewshot") or 0)
    task.set_fewshot_seed(1234)
    return task


def _load(name: str, spec: AccuracySpec) -> Any:
    (task,) = tasks.find([name], spec.include_path)
    include = str(spec.include_path) if spec.include_path else None
    own = task.file.is_relative_to(tasks.SHIPPED) or (include is not None and task.file.is_relative_to(include))
    return _load_named(name, include, own, spec.num_fewshot)


def _documents(task: Any, limit: int | None) -> Any:
    """(id, document) pairs, in the order lm-eval asks them."""
    for index, doc in enumerate(task.eval_docs):
        if limit is not None and index >= limit:
            return
        yield _id(doc, index), doc


def _task_faults(name: str, task: Any, spec: AccuracySpec, settings: EngineSettings) -> list[Fault]:
    """What lm-eval or a comparison cannot do with a task, and every document that cannot be asked, by its id."""
    kind = task.get_config("output_type")
    if kind != "generate_until":
        return [Fault(name, f"is a {kind} task", "a chat server gives no log-likelihoods: use a generate_until task")]
    metric = next(iter(task.higher_is_better().items()), None)
    if metric and metric[1] is False:
        return [Fault(name, f"its first metric, {metric[0]}, is better when lower", "scores are shares, higher is better")]
    found, seen = [], set()
    for doc_id, doc in _documents(task, spec.limit):
        where = f"{name}: document {doc_id}"
        found += [Fault(where, what) for what in _document_faults(task, doc, settings.images_per_prompt)]
        if doc_id in seen:
            found.append(Fault(where, "another document has the same id", "ids pair the two arms: make them unique"))
        seen.add(doc_id)
    return found


def _id(doc: dict[str, Any], index: int) -> str:
    """A document's own id, else its position."""
    own = doc.get("id")
    return str(index if own is None else own)


def _document_faults(task: Any, doc: dict[str, Any], limit: int) -> list[str]:
    found = []
    if getattr(task, "MULTIMODAL", False):
        pictures = task.doc_to_image(doc)
        if len(pictures) > limit:
            found.append(f"shows {len(pictures)} images, engine.images_per_prompt is {limit}")
        small = [p.size for p in pictures if min(p.size) < SMALLEST_SIDE]
        if small:
            found.append(f"an image is {small[0][0]}x{small[0][1]} pixels, sides below {SMALLEST_SIDE} are not taken")
    text = task.doc_to_text(doc)
    token = next((t for t in IMAGE_TOKENS if isinstance(text, str) and t in text), None)
    if token:
        found.append(f"its text holds the image token {token}")
    return found


def _sample(row: dict[str, Any]) -> Sample:
    """An lm-eval sample as ours."""
    context, _, *rest = row["arguments"][0]
    pictures = rest[0].get("visual", []) if rest else []
    pixels = hashlib.sha256()
    for picture in pictures:
        pixels.update(f"{picture.mode}{picture.size}".encode() + picture.tobytes())
    response = row["resps"][0][0]
    answer = row["filtered_resps"][0]
    answer = answer[0] if isinstance(answer, list) else answer
    return Sample(
        doc_id=_id(row["doc"], row["doc_id"]),
        prompt_hash=files.digest(str(getattr(context, "prompt", context))),
        image_hash=pixels.hexdigest()[:16] if pictures else "",
        target=str(row["target"]),
        response=str(response),
        answer=str(answer),
        score=float(row[row["metrics"][0]]),
        parsed=str(answer) not in UNPARSED,
        finish_reason=response.finish_reason,
        prompt_tokens=response.prompt_tokens,
        completion_tokens=response.completion_tokens,
    )


def _metrics(samples: list[Sample]) -> dict[str, Metric]:
    """Score, standard error of the mean, and the shares that must stand beside it."""
    n = len(samples)
    if not n:
        return {"score": Metric(value=None, unit="share", n=0, reason="the task has no documents")}
    mean = sum(s.score for s in samples) / n
    spread = math.sqrt(sum((s.score - mean) ** 2 for s in samples) / (n - 1) / n) if n > 1 else None
    share = lambda hits: Metric(value=hits / n, unit="share", n=n)  # noqa: E731
    return {
        "score": Metric(value=mean, unit="share", n=n, stderr=spread),
        "unparsed": share(sum(not s.parsed for s in samples)),
        "cut_by_length": share(sum(s.finish_reason == "length" for s in samples)),
        "output_tokens": Metric(value=sum(s.completion_tokens for s in samples) / n, unit="tokens", n=n),
        "prompt_tokens": Metric(value=sum(s.prompt_tokens for s in samples) / n, unit="tokens", n=n),
    }
