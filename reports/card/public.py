"""What may stand on a public page: no folders of this machine, no environment, nothing that looks like a secret."""

from __future__ import annotations

import math
import os
import re
from typing import Any

_PART = r"[^\s/'\"`<>|,;:(){}\[\]]"
PATH = re.compile(rf"(?<![\w./~*\])}}-])(?:file://|~)?/(?:{_PART}+/)+({_PART}*)")
"""An absolute path of two parts or more; the rest of an address (https://host/a/b) and of a pattern (re:.*/a/b) is none."""
SECRET_NAME = re.compile(r"(?i)token(?!s|i)|secret|passw|credential|api[_-]?key|access[_-]?key")
"""Names of what holds a secret; not those that count or name tokens, as --max-num-batched-tokens and --tokenizer."""


def text(value: str) -> str:
    """The text with every absolute path cut down to its last part."""
    return PATH.sub(lambda m: m[1] or "(a folder)", value)


def value(held: Any) -> Any:
    """A JSON value with `text` applied to all of it; no NaN, no values of environment variables, no secret arguments."""
    if isinstance(held, dict):
        return {k: sorted(v) if k == "env" and isinstance(v, dict) else value(v) for k, v in held.items()}
    if isinstance(held, list | tuple):
        return _arguments([value(item) for item in held])
    if isinstance(held, float) and not math.isfinite(held):
        return None
    return text(held) if isinstance(held, str) else held


def _arguments(items: list[Any]) -> list[Any]:
    """A command's arguments: what follows --api-key, or stands in --api-key=..., is left out."""
    found: list[Any] = []
    for item in items:
        before = found[-1] if found else None
        if isinstance(before, str) and before.startswith("--") and "=" not in before and SECRET_NAME.search(before):
            item = "***"
        elif isinstance(item, str) and item.startswith("--") and "=" in item and SECRET_NAME.search(item.partition("=")[0]):
            item = f"{item.partition('=')[0]}=***"
        found.append(item)
    return found


def secrets() -> dict[str, str]:
    """The environment variables that hold secrets, by value."""
    return {held: name for name, held in os.environ.items() if SECRET_NAME.search(name) and len(held) >= 8}
