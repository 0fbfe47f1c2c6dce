"""Whether a Record and its samples are what was measured: nobody changed, cut or exchanged one of them since.

A Record holds the hash of its samples file, and its score is their mean. Records of earlier versions hold no hash; their
score is held against their samples all the same. What was found is kept for as long as both files stay as they are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from pydantic import TypeAdapter

from harness.record.records import Record
from harness.util.cached import Kept

FOUND: TypeAdapter[dict[str, tuple[list[int], str]]] = TypeAdapter(dict[str, tuple[list[int], str]])
"""By the Cell's key: the state of both files, and what is wrong; empty when nothing is."""
TOGETHER = 100
"""Findings that are kept with one write."""
NEAR = 1e-9
"""How far a score may lie from the mean of its samples: sums in another order differ by less."""


class _Scored(msgspec.Struct, gc=False):
    score: float


_scored = msgspec.json.Decoder(_Scored)


def sha256(data: bytes) -> str:
    """The hash that a Record holds of its samples file."""
    return hashlib.sha256(data).hexdigest()


def altered(record: Record, path: Path) -> str:
    """What is wrong with a Record's samples file, in words that follow the Cell's name; empty when it is what was measured."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"its samples cannot be read: {error.strerror or error}"
    rows = data.count(b"\n")
    if rows != record.samples:
        return f"it has {rows} samples of {record.samples}"
    if record.samples_sha256 is not None and sha256(data) != record.samples_sha256:
        return "its samples are not those that were measured: their hash is another"
    score = record.metrics.get("score")
    if score is None or score.value is None:
        # Rows of some workloads have no score, and neither have their Records.
        return "its Record has no score, and its samples have" if b'"score":' in data.partition(b"\n")[0] else ""
    try:
        scores = [_scored.decode(line).score for line in data.split(b"\n") if line]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "it has a sample that cannot be read"
    mean = sum(scores) / len(scores)
    if abs(mean - score.value) > NEAR:
        return f"its score, {score.value:.6g}, is not the mean of its samples, {mean:.6g}"
    return ""


class Known:
    """What was found of a Run's Cells, kept in the cache folder."""

    def __init__(self, folder: Path):
        self._kept = Kept(f"intact {folder.resolve()}", "1", FOUND)
        self._found: dict[str, tuple[list[int], str]] | None = None
        self._unsaved = 0

    def save(self) -> None:
        """Keep what was found since the last time."""
        if self._unsaved and self._found is not None:
            self._kept.keep(self._found)
            self._unsaved = 0

    def altered(self, record: Record, path: Path, state: tuple[int, ...]) -> str:
        """See `altered`; state: of the Record's file and its samples'."""
        if self._found is None:
            self._found = self._kept.find() or {}
        known = self._found.get(record.cell.key)
        if known is None or known[0] != list(state):
            self._found[record.cell.key] = list(state), altered(record, path)
            self._unsaved += 1
            if self._unsaved >= TOGETHER:
                self.save()
        return self._found[record.cell.key][1]
