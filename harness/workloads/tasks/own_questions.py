"""A user's own questions, one file, as an lm-eval task: `accuracy: {questions: my.jsonl}`.

Rows of a .jsonl, .json, .csv, .tsv or .parquet file. What a row holds goes by the names that such files use:

id (index, question_id)      what pairs the arms; the row's number without one
image (images, image_path)   a path relative to the file, a file's bytes, a data: URL or base64; a list of them; or none
question (prompt)            asked as it is written
answer (answers, target)     what is right; any of a list
choices (options; A, B, ...) makes it multiple choice: the choices and a request for a letter follow the question
category, language           kept with the document

An answer is scored 1 where it is right and 0 otherwise: the letter of a multiple choice; a number by its value; a text without
its case, its punctuation and its outer spaces. A reply in which no letter is found is unparsed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import string
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from harness.util import environments, files, pictures
from harness.util.cached import Kept
from harness.util.errors import Fault, Refused
from harness.util.rows import objects

VERSION = 1
"""Of prompts and scoring; part of a Cell's key."""
IDS, IMAGES = ("id", "index", "question_id", "doc_id"), ("image", "images", "image_path", "image_paths")
TEXTS, ANSWERS, CHOICES = ("question", "prompt"), ("answer", "answers", "target"), ("choices", "options")
LETTERS = string.ascii_uppercase
MOST_CHOICES = 26
INVALID = "[invalid]"
"""What stands for an answer where none is found, as in lm-eval's own filters."""
ASK = {"en": "Answer with the letter of the right choice.", "zh": "请直接回答正确选项的字母。"}
SHORT = 64
"""Characters of the shortest picture in base64; less is a path."""
PLACE: TypeAdapter[str] = TypeAdapter(str)
OWN = """\
from pathlib import Path

from harness.workloads.tasks import own_questions
from harness.workloads.tasks.own_questions import images, letters, score, target, text


def load(**_):
    return own_questions.load(Path(__file__).parent)
"""
"""The code beside a task file."""


def name_of(path: Path) -> str:
    """What the task is called: the file's name without its ending."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", path.name.rpartition(".")[0] or path.name)


def task_folder(path: Path) -> Path:
    """A folder with the task file and the questions as lm-eval reads them; made when the file or a picture has changed.

    Raises Refused with a fault for each row that cannot be asked.
    """
    rows = list(_checked(path))
    if not rows:
        raise Refused(Fault(str(path), "holds no questions", "one object a row, with question and answer"))
    state = files.digest([VERSION, files.file_sha256(path), [_state(one) for row in rows for one in row["images"]]])
    kept = Kept(f"questions of {path.resolve()}", state, PLACE)
    known = kept.find()
    if known is not None and Path(known).is_dir():
        return Path(known)
    folder = environments.cache_folder() / "questions" / f"{name_of(path)}-{files.digest([str(path.resolve()), state], 10)}"
    if not folder.is_dir():
        with files.new_folder(folder) as new:
            _write(new, name_of(path), rows)
    return Path(kept.keep(str(folder)))


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / "pictures").mkdir()
    kept = [row | {"images": [_put(folder / "pictures", one) for one in row["images"]]} for row in rows]
    lines = [json.dumps(row, ensure_ascii=False) for row in kept]
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


def _put(folder: Path, picture: str | bytes) -> str:
    """A picture in the folder, by the hash of its bytes; returns its name."""
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    place = folder / hashlib.sha256(data).hexdigest()[:24]
    if not place.exists():
        place.write_bytes(data)
    return place.name


def _state(picture: str | bytes) -> Any:
    if isinstance(picture, bytes):
        return None  # it lies in the file itself
    found = Path(picture).stat()
    return [picture, found.st_mtime_ns, found.st_size]


# -- rows ----------------------------------------------------------------------------------------------------------------


def _checked(path: Path) -> Iterator[dict[str, Any]]:
    """The rows as they are kept, their pictures as absolute paths or bytes."""
    if not path.is_file():
        raise Refused(Fault("accuracy.questions", f"{path} is no file", "a .jsonl, .json, .csv, .tsv or .parquet file"))
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
    yield from found


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
        count = next((i for i, one in enumerate(lettered) if one in (None, "")), MOST_CHOICES)
        given = lettered[:count]
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"its choices are {given[:60]!r}: a list is meant") from None
    given = list(given.values()) if isinstance(given, dict) else given
    if not isinstance(given, list) or len(given) == 1 or len(given) > MOST_CHOICES:
        raise ValueError(f"its choices are no list of 2 to {MOST_CHOICES}")
    return [_text(one) for one in given]


def _letter(answer: str, choices: list[str]) -> str:
    """The letter of the right choice, which is given as a letter or in full."""
    if answer in choices:
        return LETTERS[choices.index(answer)]
    letter = answer.strip().strip("().").upper()
    if len(letter) == 1 and letter in LETTERS[: len(choices)]:
        return letter
    raise ValueError(f"its answer {answer[:60]!r} is none of its {len(choices)} choices, and no letter of theirs")


def _picture(value: Any, folder: Path) -> str | bytes:
    """An absolute path, or a file's bytes; raises ValueError for what is neither."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and len(value) <= 255 and not value.startswith("data:"):
        place = (folder / value).resolve()
        if len(value) > SHORT and not place.is_file() and re.fullmatch(r"[A-Za-z0-9+/]+=*", value):
            return pictures.written(value)
        if not place.is_file():
            raise ValueError(f"its picture is the path {value}, where no file is (relative paths start at {folder})")
        return str(place)
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return pictures.written(value)
    raise ValueError(f"its picture is {type(value).__name__}: a path, bytes, a data: URL or base64 is meant")


# -- what lm-eval calls ---------------------------------------------------------------------------------------------------


def load(folder: Path) -> Any:
    """The questions of a folder that `task_folder` made, as lm-eval takes a data set."""
    import datasets

    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    for row in rows:
        row["images"] = [str(folder / "pictures" / name) for name in row["images"]]
    return {"test": datasets.Dataset.from_list(rows)}


def images(doc: dict[str, Any]) -> list[Any]:
    """The files of a document's pictures."""
    return list(doc["images"])


def text(doc: dict[str, Any]) -> str:
    """What is asked."""
    if not doc["choices"]:
        return str(doc["question"])
    listed = "\n".join(f"{LETTERS[i]}. {choice}" for i, choice in enumerate(doc["choices"]))
    language = "zh" if doc["language"].lower().startswith("zh") or _chinese(doc["question"]) else "en"
    return f"{doc['question']}\n{listed}\n{ASK[language]}"


def target(doc: dict[str, Any]) -> str:
    """What is right."""
    return str(doc["answers"][0])


def letters(replies: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """lm-eval's filter: of a multiple choice the letter that a reply names, of other questions the reply."""
    return [
        [letter_in(one, doc["choices"]) if doc["choices"] else one.strip() for one in mine]
        for mine, doc in zip(replies, docs, strict=True)
    ]


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the (filtered) answer is one of the right ones."""
    answer = results[0]
    right = answer == doc["answers"][0] if doc["choices"] else any(alike(answer, one) for one in doc["answers"])
    return {"exact_match": float(right)}


def letter_in(reply: str, choices: list[str]) -> str:
    """The letter of the choice that a reply names; `[invalid]` where none is found, or several are."""
    valid = LETTERS[: len(choices)]
    said = unicodedata.normalize("NFKC", reply).strip()
    before = r"(?:(?i:answer(?:\s+is)?|option|choice)|答案(?:是|为)?|选项?)"
    named = (
        re.findall(rf"{before}\s*:?\s*\**\(?([{valid}])(?![A-Za-z])", said)
        or re.findall(rf"^\W*([{valid}])\W*$", said)
        or re.findall(rf"^\W*([{valid}])[.:)]", said)
    )
    if named:
        return str(named[-1])
    same = [i for i, choice in enumerate(choices) if alike(said, choice)]
    if len(same) == 1:
        return LETTERS[same[0]]
    # A alone is an article, I a pronoun.
    marked = re.findall(rf"(?<![A-Za-z])(?:\(([{valid}])\)|([{valid}])[.)](?=\s|$))", said)
    bare = re.findall(r"(?<![A-Za-z'])([B-HJ-Z])(?![A-Za-z'])", said)
    found = {one or other for one, other in marked} | (set(bare) & set(valid))
    return found.pop() if len(found) == 1 else INVALID


def alike(answer: str, right: str) -> bool:
    """Whether two answers are one: as numbers where both are, else without case, punctuation and outer spaces."""
    numbers = [_number(one) for one in (answer, right)]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _bare(answer) == _bare(right)


def _number(value: str) -> float | None:
    bare = unicodedata.normalize("NFKC", value).strip().rstrip(".").replace(",", "").replace(" ", "").lstrip("$€£¥")
    bare = bare.removesuffix("%")
    return float(bare) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", bare, re.IGNORECASE | re.ASCII) else None


def _bare(value: str) -> str:
    plain = unicodedata.normalize("NFKC", value).casefold()
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PS" else c for c in plain).split())


def _chinese(value: str) -> bool:
    return any("\u4e00" <= c <= "\u9fff" for c in value)
