"""A user's own questions, one file, as an lm-eval task: `accuracy: {questions: my.jsonl}`.

Rows of a .jsonl, .json, .csv, .tsv or .parquet file. What a row holds goes by the names that such files use:

id (index, question_id)      what pairs the arms; the row's number without one
image (images, image_path)   a path relative to the file, a file's bytes, a data: URL or base64; a list of them; or none
question (prompt)            asked as it is written
answer (answers, target)     what is right; any of a list
choices (options; A, B, ...) makes it multiple choice: the choices and a request for a letter follow the question
category, language           kept with the document
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from harness.util import environments, files, pictures
from harness.util.cached import Kept
from harness.util.errors import Fault, Refused
from harness.util.rows import objects
from harness.workloads.tasks.own_answers import LETTERS

VERSION = 1
"""Of prompts and scoring; part of a Cell's key."""
IDS, IMAGES = ("id", "index", "question_id", "doc_id"), ("image", "images", "image_path", "image_paths")
TEXTS, ANSWERS, CHOICES = ("question", "prompt"), ("answer", "answers", "target"), ("choices", "options")
TASK = "task"
"""The folder of the task's files, in the one that is made of a file of questions."""
PLACE: TypeAdapter[str] = TypeAdapter(str)
OWN = """\
from pathlib import Path

from harness.workloads.tasks import own_answers
from harness.workloads.tasks.own_answers import images, letters, score, target, text


def load(**_):
    return own_answers.load(Path(__file__).parent)
"""
"""The code beside a task file."""


def name_of(path: Path) -> str:
    """What the task is called: the file's name without its ending."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", path.name.rpartition(".")[0] or path.name)


def task_folder(path: Path) -> Path:
    """A folder with the task file and the questions as lm-eval reads them; made when the file or a picture has changed.

    Raises Refused with a fault for each row that cannot be asked.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise _no_file(path, error.strerror) from None
    sha256, shown = _looked(path.resolve(), about.st_mtime_ns, about.st_size, str(path))
    try:
        state = files.digest([VERSION, sha256, [_state(one) for one in shown]])
    except OSError:  # a picture has gone since: told with its row
        _looked.cache_clear()
        return task_folder(path)
    kept = Kept(f"questions of {path.resolve()}", state, PLACE)
    known = kept.find()
    if known is not None and Path(known).is_dir():
        return Path(known) / TASK
    folder = environments.cache_folder() / "questions" / f"{name_of(path)}-{files.digest([str(path.resolve()), state], 10)}"
    if not folder.is_dir():
        with files.new_folder(folder) as new:
            _write(new, name_of(path), _checked(path))
    return Path(kept.keep(str(folder))) / TASK


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    # Beside the task, not in it: they are named by their hashes, so its rows say all of them that a key must know.
    (folder / "pictures").mkdir()
    kept = [row | {"images": [_put(folder / "pictures", one) for one in row["images"]]} for row in rows]
    lines = [json.dumps(row, ensure_ascii=False) for row in kept]
    folder = folder / TASK
    folder.mkdir()
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    task = {
        "task": name,
        "test_split": "test",
        "output_type": "generate_until",
        "generation_kwargs": {"until": [], "max_gen_toks": 64},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": VERSION},
    }
    functions = {"custom_dataset": "load", "doc_to_text": "text", "doc_to_target": "target", "process_results": "score"}
    if any(row["images"] for row in rows):
        functions["doc_to_image"] = "images"
    head = "".join(f"{key}: !function own.{value}\n" for key, value in functions.items())
    filters = (
        "filter_list:\n  - name: answer\n    filter:\n      - {function: custom, filter_fn: !function own.letters}\n"
        "      - {function: take_first}\n"
    )
    (folder / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False) + head + filters, encoding="utf-8")


def _put(folder: Path, picture: Path | bytes) -> str:
    """A picture in the folder, by the hash of its bytes; returns its name."""
    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    place = folder / hashlib.sha256(data).hexdigest()[:24]
    if not place.exists():
        place.write_bytes(data)
    return place.name


@lru_cache(maxsize=8)
def _looked(path: Path, mtime_ns: int, size: int, called: str) -> tuple[str, list[Path]]:
    """The hash of a file all of whose rows can be asked, and the files of their pictures. Read once while the file stays what
    it is: every Cell asks for it. called: the path as faults name it."""
    rows = _checked(Path(called))
    return files.file_sha256(path), [one for row in rows for one in row["images"] if isinstance(one, Path)]


def _state(picture: Path) -> list[Any]:
    found = picture.stat()
    return [str(picture), found.st_mtime_ns, found.st_size]


def _no_file(path: Path, why: str | None) -> Refused:
    what = f"{path} is no file" if not path.exists() else f"{path} cannot be read: {why}"
    return Refused(Fault("accuracy.questions", what, "a .jsonl, .json, .csv, .tsv or .parquet file"))


# -- rows ----------------------------------------------------------------------------------------------------------------


def _checked(path: Path) -> list[dict[str, Any]]:
    """The rows as they are kept, their pictures as files or bytes. Raises Refused with all that cannot be asked."""
    if not path.is_file():
        raise _no_file(path, "it is no file")
    faults, found = [], []
    rows = list(objects(path))
    shown = {str(own): _first(row, IMAGES) for _, row in rows if (own := _first(row, IDS)) is not None}
    for number, row in rows:
        other = str(_first(row, IMAGES))
        # VLMEvalKit's files hold a picture once, and in further rows the id of the row that has it.
        if other.isdecimal() and shown.get(other) is not None and not (path.parent / other).is_file():
            row = {**{key: value for key, value in row.items() if key not in IMAGES}, "image": shown[other]}
        try:
            found.append(_row(row, number, path.parent))
        except ValueError as error:
            faults.append(Fault(f"{path}:{number}", str(error)))
    Refused.if_any(faults)
    if not found:
        raise Refused(Fault(str(path), "holds no questions", "one object a row, with question and answer"))
    return found


def _row(row: Mapping[str, Any], number: int, folder: Path) -> dict[str, Any]:
    """One row; raises ValueError with what is wrong with it."""
    question = _first(row, TEXTS)
    if not isinstance(question, str) or not question.strip():
        raise ValueError("has no question: a text under `question`")
    answers = _first(row, ANSWERS)
    answers = [_text(one) for one in (answers if isinstance(answers, list) else [answers]) if one is not None]
    if not answers or not all(one.strip() for one in answers):
        raise ValueError("has no answer: a text or a number under `answer`, or a list of them")
    choices = _choices(row)
    if choices:
        answers = [_letter(answers[0], choices)]
    given = _first(row, IMAGES)
    shown = given if isinstance(given, list) else [] if given is None or given == "" else [given]
    own = _first(row, IDS)
    return {
        "id": str(number if own is None else own),
        "question": question,
        "answers": answers,
        "choices": choices,
        "images": [_picture(one, folder) for one in shown],
        "category": _text(row.get("category") or ""),
        "language": _text(row.get("language") or ""),
    }


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"holds {value!r} where a text or a number is meant")
    return str(value)


def _choices(row: Mapping[str, Any]) -> list[str]:
    """The choices of a row: a list, {"A": ...}, either of them as a text, or columns A, B, ..."""
    given = _first(row, CHOICES)
    if given is None:
        lettered = [row.get(letter) for letter in LETTERS]
        count = next((i for i, one in enumerate(lettered) if one in (None, "")), len(LETTERS))
        given = lettered[:count]
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"its choices are {given[:60]!r}: a list is meant") from None
    given = list(given.values()) if isinstance(given, dict) else given
    if not isinstance(given, list) or len(given) == 1 or len(given) > len(LETTERS):
        raise ValueError(f"its choices are no list of 2 to {len(LETTERS)}")
    return [_text(one) for one in given]


def _letter(answer: str, choices: list[str]) -> str:
    """The letter of the right choice, which is given as a letter or in full."""
    if answer in choices:
        return LETTERS[choices.index(answer)]
    letter = answer.strip().strip("().").upper()
    if len(letter) == 1 and letter in LETTERS[: len(choices)]:
        return letter
    raise ValueError(f"its answer {answer[:60]!r} is none of its {len(choices)} choices, and no letter of theirs")


def _picture(value: Any, folder: Path) -> Path | bytes:
    try:
        found = pictures.stored(value, folder)
    except ValueError as error:
        raise ValueError(f"its picture {error}") from None
    return found if isinstance(found, bytes) else found.resolve()
