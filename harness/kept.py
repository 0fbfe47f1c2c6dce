"""Results that take long to compute and follow from files alone, kept in the cache folder until one of those files changes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TypeVar

from pydantic import TypeAdapter

from harness import environments, files

T = TypeVar("T")


def kept(name: str, state: str, kind: TypeAdapter[T], make: Callable[[], T]) -> T:
    """What `make` gives, or what it gave before under this name and in this state.

    name: whose result it is; a new one takes the old one's place. state: a digest of all that can change the result.
    """
    path = environments.cache_folder() / "kept" / f"{files.digest(name)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["state"] == state:
            return kind.validate_python(found["value"])
    value = make()
    with contextlib.suppress(OSError):  # a cache folder that cannot be written costs time, nothing else
        files.write_text(path, json.dumps({"state": state, "value": kind.dump_python(value)}))
    return value
