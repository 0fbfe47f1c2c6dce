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
    with contextlib.suppress(OSError, ValueError):
        earlier, _, value = path.read_bytes().partition(b"\n")
        if earlier == state.encode():
            return kind.validate_python(json.loads(value))
    made = make()
    with contextlib.suppress(OSError):  # a cache folder that cannot be written costs time, nothing else
        files.write_bytes(path, f"{state}\n{json.dumps(kind.dump_python(made))}".encode())
    return made
