"""Results that take long to compute and follow from files alone, kept in the cache folder until one of those files changes."""

from __future__ import annotations

import contextlib
import json
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from harness.util import environments, files

T = TypeVar("T")


class Kept(Generic[T]):
    """The place of one result."""

    def __init__(self, name: str, state: str, kind: TypeAdapter[T]):
        """name: whose result it is; a new one takes the old one's place. state: a digest of all that can change the result."""
        self.path = environments.cache_folder() / "kept" / f"{files.digest(name)}.json"
        self.state, self.kind = state, kind

    def find(self) -> T | None:
        """The result that was kept in this state; None when there is none."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["state"] == self.state:
                return self.kind.validate_python(found["value"])
        return None

    def keep(self, value: T) -> T:
        """Keep the result, and return it."""
        with contextlib.suppress(OSError):  # a cache folder that cannot be written costs time, nothing else
            files.write_text(self.path, json.dumps({"state": self.state, "value": self.kind.dump_python(value)}))
        return value
