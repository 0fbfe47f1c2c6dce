"""The questions that people will look at, kept in the Run: those that a candidate lost, with their text and pictures.

Samples hold hashes, no pixels. What a report shows must be in the Run, so the few documents it shows are taken from their
tasks once, checked against the hash of what was sent, and written beside the Records.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

from harness.compare.lost import LostDocument, lost_documents
from harness.compare.runs import compare_run
from harness.record.folder import RunFolder
from harness.record.samples import Question
from harness.util import files
from harness.util.pictures import seen
from harness.workloads.accuracy import Accuracy, AccuracySpec

LIMIT = 120
"""Questions kept of a Run, at most."""
SIDE = 768
"""Longest side of a kept picture, in pixels."""
PNG_BYTES = 60_000
"""A picture that is larger as PNG is kept as JPEG."""
OTHER = "the task's documents on this disk are not the ones that were asked"


def keep(run: RunFolder, tell: Callable[[str], None] = lambda _: None) -> int:
    """Keep what is missing; returns how many questions were added. tell: gets a line for each task that cannot be loaded.

    A document whose picture is not the one that was sent is kept without it, with the reason, and not looked for again.
    """
    facts = run.read()
    wanted = lost_documents(compare_run(run, facts.baseline)[0], LIMIT)
    known = run.questions()
    missing = [w for w in wanted if (k := known.get((w.task, w.doc_id))) is None or k.image_hash != w.image_hash]
    asked = (facts.suite.get("workloads") or {}).get(Accuracy.name)
    if not missing or not asked:
        return 0
    # A Run of an earlier version may say more or less; whether the documents are the same is told by their hashes.
    spec = AccuracySpec.model_validate({key: asked[key] for key in AccuracySpec.model_fields if asked.get(key) is not None})
    added: list[Question] = []
    for task in dict.fromkeys(w.task for w in missing):
        try:
            added += _of_task(run, spec, [w for w in missing if w.task == task])
        except Exception as error:  # a task file may run code of its own, and its data set may be anywhere
            tell(f"the questions of {task} are not kept: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
    kept = known | {(q.task, q.doc_id): q for q in added}
    shown = {(w.task, w.doc_id) for w in wanted}
    if added:
        run.keep_questions(question for key, question in kept.items() if key in shown)
    return len(added)


def _of_task(run: RunFolder, spec: AccuracySpec, wanted: list[LostDocument]) -> list[Question]:
    from harness.workloads.accuracy import pixels_hash
    from harness.workloads.lm_eval.questions import load

    questions = load(wanted[0].task, spec)
    by_id = {w.doc_id: w for w in wanted}
    found: dict[str, Question] = {}
    for doc_id, doc in questions.documents(spec.limit):
        if doc_id in by_id and doc_id not in found:
            lost = by_id[doc_id]
            try:
                pictures = questions.pictures(doc)
            except ValueError:
                pictures = []
            question = Question(task=lost.task, doc_id=doc_id, image_hash=lost.image_hash)
            if pixels_hash(pictures) == lost.image_hash and str(questions.task.doc_to_target(doc)) == lost.target:
                question.text = str(questions.task.doc_to_text(doc))
                question.images, question.reduced = _write(run, lost.image_hash, pictures)
            else:
                question.reason = OTHER
            found[doc_id] = question
    gone = (Question(task=w.task, doc_id=i, image_hash=w.image_hash, reason=OTHER) for i, w in by_id.items() if i not in found)
    return [*found.values(), *gone]


def _write(run: RunFolder, image_hash: str, pictures: Iterable[Any]) -> tuple[list[str], bool]:
    """Write pictures under their hash; returns their names and whether one lost pixels or sharpness."""
    names, reduced = [], False
    for number, picture in enumerate(pictures, 1):
        data, kind, less = encoded(picture)
        names.append(f"{image_hash}-{number}.{kind}")
        files.write_bytes(run.image_path(names[-1]), data)
        reduced |= less
    return names, reduced


def encoded(picture: Any) -> tuple[bytes, str, bool]:
    """A picture as a small file: its bytes, `png` or `jpg`, and whether it lost pixels or sharpness."""
    less = max(picture.size) > SIDE
    plain = seen(picture)
    if less:
        plain = plain.copy()
        plain.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    plain.save(out, format="PNG", optimize=True)
    if out.tell() <= PNG_BYTES:
        return out.getvalue(), "png", less
    out = io.BytesIO()
    plain.save(out, format="JPEG", quality=82)
    return out.getvalue(), "jpg", True
