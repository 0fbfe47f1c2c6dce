"""How own questions are asked and scored: what the task file of own_questions.py has lm-eval call.

An answer is scored 1 where it is right and 0 otherwise: the letter of a multiple choice; a number by its value; a text without
its case, its punctuation and its outer spaces. A reply in which no letter is found is unparsed.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from pathlib import Path
from typing import Any

LETTERS = string.ascii_uppercase
INVALID = "[invalid]"
"""What stands for an answer where none is found, as in lm-eval's own filters."""
ASK = {"en": "Answer with the letter of the right choice.", "zh": "请直接回答正确选项的字母。"}


def load(folder: Path) -> Any:
    """The questions of a task's folder, with the pictures beside it, as lm-eval takes a data set."""
    import datasets

    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    for row in rows:
        row["images"] = [str(folder.parent / "pictures" / name) for name in row["images"]]
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
