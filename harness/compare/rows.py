"""Reads two samples files into a pairing, as fast as can be: equal lines are skipped by blocks of bytes and never parsed.

What comes out is what `pairing.pair` gives for all rows; tests/compare/test_rows.py holds the two equal.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

from harness.compare.pairing import Baseline, Pairs, asked_alike, pair
from harness.record import folder
from harness.record.folder import RunFolder
from harness.record.samples import Row

BLOCK = 8
"""Lines that are compared at once; of 8, most often none differs."""
Place = tuple[RunFolder, str]
"""A Run and the key of a Cell in it."""


def read_rows(baseline: Place, candidate: Place, where: str, anyway: bool = False, prefix: bool = False) -> Pairs[Row]:
    """The pairing of two accuracy Cells, see `pairing.pair`; where: what faults call them. prefix: one may have been asked only
    the first of the other's questions, and these are compared.

    Raises Refused for a line that is no Sample as well, with the file's path.
    """
    (run, key), (other, other_key) = baseline, candidate
    base, path = _baseline(run.samples_path(key), run.state(key)), other.samples_path(other_key)
    data = path.read_bytes()
    differing = base.differing(data) if len(base.ids) == len(base.rows) > 0 else None
    if differing is not None:
        changed = [(place, folder.row(line, path)) for place, line in differing]
        if [base.rows[place].doc_id for place, _ in changed] == [row.doc_id for _, row in changed]:
            return asked_alike(Pairs(base, changed), where, anyway)
    lines = data.splitlines(keepends=True)
    if prefix and len(lines) != len(base.rows):
        rows = [folder.row(line, path) for line in lines]
        shared = {row.doc_id for row in rows} & base.ids
        return pair(
            Baseline([row for row in base.rows if row.doc_id in shared]),
            [row for row in rows if row.doc_id in shared],
            where,
            anyway,
        )
    return pair(base, [base.by_line.get(line) or folder.row(line, path) for line in lines], where, anyway)


class _File(Baseline[Row]):
    """A baseline's samples file, with its lines."""

    def __init__(self, rows: list[Row], lines: list[bytes]):
        """lines: the rows as they stand in the file, with their ends."""
        super().__init__(rows)
        self.lines = lines
        self._blocks = [(start, b"".join(lines[start : start + BLOCK])) for start in range(0, len(lines), BLOCK)]

    @cached_property
    def by_line(self) -> dict[bytes, Row]:
        """The rows by their lines."""
        return dict(zip(self.lines, self.rows, strict=True))

    def differing(self, data: bytes) -> list[tuple[int, bytes]] | None:
        """The lines of another file that are not the ones in their place here; None when it has more lines, or fewer.

        Equal lines are skipped a block at a time and never taken apart: to split a file takes longer than all else here.
        """
        at, found = 0, []
        for start, block in self._blocks:
            if data.startswith(block, at):
                at += len(block)
                continue
            for place, line in enumerate(self.lines[start : start + BLOCK], start):
                if data.startswith(line, at):
                    at += len(line)
                    continue
                end = data.find(b"\n", at) + 1
                if not end:
                    return None
                found.append((place, data[at:end]))
                at = end
        return found if at == len(data) else None


@lru_cache(maxsize=4)
def _baseline(path: Path, state: tuple[int, ...]) -> _File:
    """A samples file, kept while one candidate after the other is compared with it. state: see RunFolder.state."""
    lines = path.read_bytes().splitlines(keepends=True)
    return _File([folder.row(line, path) for line in lines], lines)
