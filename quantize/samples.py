"""Rows of calibration data become conversations with their pictures; each row that cannot is named by its number.

Known are the forms that data sets come in: `messages` as OpenAI has them (content a text, or parts), `conversations` with
from and value as LLaVA has them, `question` and `answer`, `text`; pictures in `image`, `images` or inside the messages. What
a row says twice or not at all is refused: a checkpoint calibrated on empty turns looks like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.util import rows
from harness.util.errors import Fault, Refused

PLACEHOLDER = "<image>"
"""Where a text says that a picture belongs (LLaVA, MMMU)."""
ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function"), "tool"),
    "system": "system",
}
"""Names of speakers, and the chat template's role."""
RIGHT = "messages, or question and answer, or text, and image or images for pictures"


@dataclass
class CalibrationSample:
    """One conversation (or a plain text) and its pictures, in the order they are spoken of."""

    id: str
    messages: list[dict[str, Any]] | None
    text: str | None
    images: list[Any] = field(default_factory=list)
    """PIL images, RGB."""


def sample_of(
    name: str, row: Mapping[str, Any], folder: Path, image_tokens: Sequence[str] = (), images: bool = True
) -> CalibrationSample:
    """The sample of a row; raises Refused with the row's name.

    folder: what paths of pictures are relative to. image_tokens: the family's own, which no text may hold: the model would
    take them for pictures that are not there. images: whether pictures are wanted; without, no turn speaks of one.
    """
    try:
        messages, text, sources = _read(row)
        said = text if text is not None else "\n".join(part["text"] for part in _parts(messages) if part["type"] == "text")
        if not images:
            messages, sources = _without_images(messages), []
        if not said.strip():
            raise ValueError("holds no text")
        token = next((token for token in image_tokens if token in said), None)
        if token:
            raise ValueError(f"its text holds the image token {token}")
        return CalibrationSample(name, _plain(messages) if text is None else None, text, _pictures(sources, folder))
    except ValueError as error:
        raise Refused(Fault(f"calibration sample {name}", str(error))) from None


def without_pictures(sample: CalibrationSample) -> CalibrationSample:
    """The same without its pictures and without their places in the turns."""
    messages = None if sample.messages is None else _plain(_without_images(sample.messages))
    return CalibrationSample(sample.id, messages, sample.text)


def conversation(question: str, answer: str, images: int) -> list[dict[str, Any]]:
    """A question about so many pictures, and its answer."""
    content = [{"type": "image"} for _ in range(images)] + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def _read(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str | None, list[Any]]:
    """(messages, or a plain text, pictures as the row has them); raises ValueError."""
    pictures = row.get("images") if row.get("images") is not None else row.get("image")
    beside = [pictures] if pictures is not None and not isinstance(pictures, list) else list(pictures or [])
    said = next((row[key] for key in ("messages", "conversations") if row.get(key) is not None), None)
    if isinstance(said, str):
        try:
            said = rows.parsed(said.encode("utf-8", "surrogatepass"), "its messages")
        except Refused as refused:
            raise ValueError(str(refused.faults[0]).replace("its messages: ", "its messages are a text that ", 1)) from None
    if said is not None:
        return _messages(said, beside)
    if row.get("question") is not None:
        if not isinstance(row["question"], str) or not row["question"].strip():
            raise ValueError("its question is empty or no text")
        if row.get("answer") is None or not str(row["answer"]).strip():
            raise ValueError("it has a question and no answer")
        if PLACEHOLDER in row["question"]:
            turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": str(row["answer"])}]
            return _messages(turns, beside)
        return conversation(row["question"], str(row["answer"]), len(beside)), None, beside
    if isinstance(row.get("text"), str):
        return [], row["text"], beside
    raise ValueError(f"has the columns {', '.join(sorted(row))}; {RIGHT}")


def _messages(said: Any, beside: list[Any]) -> tuple[list[dict[str, Any]], None, list[Any]]:
    """Messages in the chat template's form, and their pictures: those inside them, else those beside them."""
    if not isinstance(said, list) or not said:
        raise ValueError("its messages are no list of turns" if said else "it has no messages")
    inside: list[Any] = []
    messages = [_turn(number, turn, inside) for number, turn in enumerate(said, 1)]
    marks = sum(part["type"] == "image" for part in _parts(messages))
    if inside and beside:
        raise ValueError(f"has {len(inside)} pictures inside its messages and {len(beside)} beside them")
    sources = inside or beside
    if not marks and sources:
        # A picture that no turn speaks of comes before the first question, as chat templates have it.
        asked = next((m for m in messages if m["role"] == "user"), None)
        if asked is None:
            raise ValueError("has a picture and no turn of a user to show it in")
        asked["content"] = [{"type": "image"} for _ in sources] + asked["content"]
    elif marks != len(sources):
        raise ValueError(f"speaks of {marks} pictures and has {len(sources)}")
    return messages, None, sources


def _turn(number: int, turn: Any, inside: list[Any]) -> dict[str, Any]:
    """One turn as {"role", "content": parts}; its own pictures are added to `inside`."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"its turn {number} is no object")
    speaker, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    role = ROLES.get(str(speaker).lower())
    if role is None:
        raise ValueError(f"its turn {number} is of role {speaker!r}; known are {', '.join(ROLES)}")
    parts = list(_content(number, content, inside))
    if not any(part["type"] == "image" or part["text"].strip() for part in parts):
        raise ValueError(f"its turn {number} ({role}) is empty")
    return {"role": role, "content": parts}


def _content(number: int, content: Any, inside: list[Any]) -> Iterator[dict[str, Any]]:
    if isinstance(content, str):
        pieces = content.split(PLACEHOLDER)
        for place, piece in enumerate(pieces):
            if piece.strip() or len(pieces) == 1:
                yield {"type": "text", "text": piece}
            if place < len(pieces) - 1:
                yield {"type": "image"}
        return
    for part in content if isinstance(content, list) else []:
        if isinstance(part, str):
            yield {"type": "text", "text": part}
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("image", "image_url") or (kind is None and isinstance(part, Mapping) and part.get("image") is not None):
            url = part.get("image_url")
            source = part.get("image") or (url.get("url") if isinstance(url, Mapping) else url)
            inside += [source] if source is not None else []
            yield {"type": "image"}
        elif kind in ("text", None) and isinstance(part, Mapping) and isinstance(part.get("text"), str):
            yield {"type": "text", "text": part["text"]}
        else:
            raise ValueError(f"its turn {number} has a part that is neither text nor image: type {kind!r}")


def _without_images(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message | {"content": [p for p in message["content"] if p["type"] == "text"]} for message in messages]


def _plain(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns that are one text as that text: templates of language models know no parts."""
    if any(part["type"] == "image" for part in _parts(messages)):
        return list(messages)
    return [message | {"content": "".join(part["text"] for part in message["content"])} for message in messages]


def _parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        yield from message["content"]


def _pictures(sources: Sequence[Any], folder: Path) -> list[Any]:
    from harness.util import pictures

    found = []
    for number, source in enumerate(sources, 1):
        try:
            found.append(pictures.seen(pictures.opened(source, folder)))
        except ValueError as error:
            raise ValueError(f"its picture {number if len(sources) > 1 else ''}".rstrip() + f" {error}") from None
    return found
