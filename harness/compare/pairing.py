"""Two arms' answers to the same documents, and the counts of them that a Comparison follows from.

A quantized model answers most questions as before. So everything about the baseline is counted once, and a candidate's
counts follow from the few documents that it answered differently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.record import folder, health
from harness.record.folder import RunFolder
from harness.record.samples import Row, Sample
from harness.util.errors import Fault, Refused

Sampled = TypeVar("Sampled", Sample, Row)
BLOCK = 8
"""Lines that are compared at once; of 8, most often none differs."""


Moved = tuple[NDArray[Any], NDArray[Any]]
"""Numbers of groups, and another arm's scores summed over each."""


class Pictures:
    """Documents grouped by the pictures they show, with one arm's scores; groups are what the bootstrap draws."""

    def __init__(self, names: Sequence[Any], scores: NDArray[Any], sizes: NDArray[Any]):
        """names: what the documents (or groups of them) show; equal names are one group. scores, sizes: shape (names,)."""
        numbers: dict[Any, int] = {}
        self.group = np.array([numbers.setdefault(name, len(numbers)) for name in names])
        self.names, self.scores = list(numbers), scores
        self.sums, self.sizes = self.summed(scores), self.summed(sizes).astype(int)

    def summed(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Scores, shape (names,), summed over each group."""
        return np.bincount(self.group, scores, len(self.names))

    @cached_property
    def kinds(self) -> Counter[tuple[float, float, int]]:
        """What `stats.bootstrap` takes, of the arm beside itself."""
        sums = self.sums.tolist()
        return Counter(zip(sums, sums, self.sizes.tolist(), strict=True))

    def kinds_beside(self, moved: Moved) -> Counter[tuple[float, float, int]]:
        """What `stats.bootstrap` takes, of this arm and another, whose scores differ in some groups."""
        groups, other = moved
        mine, sizes = self.sums[groups].tolist(), self.sizes[groups].tolist()
        kinds = Counter(self.kinds)
        kinds.subtract(zip(mine, mine, sizes, strict=True))
        kinds.update(zip(mine, other.tolist(), sizes, strict=True))
        return +kinds

    def moved(self, places: NDArray[Any], scores: NDArray[Any]) -> Moved:
        """The groups in which another arm differs that has other scores in these places."""
        changed = self.scores.copy()
        changed[places] = scores
        sums = self.summed(changed)
        groups = np.flatnonzero(sums != self.sums)
        return groups, sums[groups]


@lru_cache(maxsize=4)
def _together(parts: tuple[Pictures, ...]) -> Pictures:
    """The groups of several tasks; pictures that two of them show are one group. Kept for the next candidate."""
    # A document without pictures is named by its number, which means something in its own task alone.
    names = [name if isinstance(name, str) else (part, name) for part, one in enumerate(parts) for name in one.names]
    return Pictures(names, np.concatenate([one.sums for one in parts]), np.concatenate([one.sizes for one in parts]))


class Baseline(Generic[Sampled]):
    """One arm's answers to a task's documents, and what every comparison with them needs."""

    def __init__(self, rows: Sequence[Sampled], lines: Sequence[bytes] = ()):
        """lines: the rows as they stand in their file, with their ends."""
        self.rows: Sequence[Sampled] = rows
        self.lines = lines
        self._blocks = [(start, b"".join(lines[start : start + BLOCK])) for start in range(0, len(lines), BLOCK)]
        self.ids = {row.doc_id for row in rows}

    @cached_property
    def by_line(self) -> dict[bytes, Sampled]:
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

    @cached_property
    def health(self) -> health.Tally:
        """The counts of its health."""
        return health.Tally.of(self.rows)

    @cached_property
    def pictures(self) -> Pictures:
        """Its documents by picture; one without is a group of its own."""
        names = [row.image_hash or number for number, row in enumerate(self.rows)]
        return Pictures(names, np.array([row.score for row in self.rows], float), np.ones(len(names)))


@lru_cache(maxsize=4)
def _baseline(path: Path, state: tuple[int, ...]) -> Baseline[Row]:
    """A samples file, kept while one candidate after the other is compared with it. state: see RunFolder.state."""
    lines = path.read_bytes().splitlines(keepends=True)
    return Baseline([folder.row(line, path) for line in lines], lines)


@dataclass(frozen=True)
class Pairs(Generic[Sampled]):
    """What both arms answered to each document."""

    baseline: Baseline[Sampled]
    changed: list[tuple[int, Sampled]]
    """The candidate's rows that are not the baseline's, each with its document's place among the baseline's rows."""

    @cached_property
    def rows(self) -> tuple[list[Sampled], list[Sampled]]:
        """The baseline's rows and the candidate's, of the documents that were answered differently."""
        return [self.baseline.rows[place] for place, _ in self.changed], [row for _, row in self.changed]


def paired(baseline: tuple[RunFolder, str], candidate: tuple[RunFolder, str], where: str, anyway: bool = False) -> Pairs[Row]:
    """The rows of two accuracy Cells, each given by its Run and its key; see `pair`.

    Lines that are equal in both files are not read. Raises Refused for a line that is no Sample as well.
    """
    (run, key), (other, other_key) = baseline, candidate
    base, path = _baseline(run.samples_path(key), run.state(key)), other.samples_path(other_key)
    data = path.read_bytes()
    differing = base.differing(data) if len(base.ids) == len(base.rows) > 0 else None
    if differing is not None:
        changed = [(place, folder.row(line, path)) for place, line in differing]
        if [base.rows[place].doc_id for place, _ in changed] == [row.doc_id for _, row in changed]:
            return _asked_alike(Pairs(base, changed), where, anyway)
    lines = data.splitlines(keepends=True)
    return pair(base, [base.by_line.get(line) or folder.row(line, path) for line in lines], where, anyway)


def pair(baseline: Baseline[Sampled], candidate: Sequence[Sampled], where: str, anyway: bool = False) -> Pairs[Sampled]:
    """Rows of the two arms by document; raises Refused when the arms were not asked the same documents.

    anyway: pairs documents that were asked with another prompt or picture as well.
    """
    other = {row.doc_id: row for row in candidate}
    if len(other) != len(candidate) or len(baseline.ids) != len(baseline.rows):
        raise Refused(Fault(where, "has two documents with one id, so they cannot be paired"))
    if not other or not baseline.ids:
        raise Refused(Fault(where, "has no documents, so there is nothing to compare"))
    alone = sorted(baseline.ids ^ other.keys())
    if alone:
        raise Refused(
            Fault(where, f"the arms were asked different documents: {len(alone)} stand in one only, first {alone[0]}")
        )
    both = ((place, row, other[row.doc_id]) for place, row in enumerate(baseline.rows))
    return _asked_alike(Pairs(baseline, [(place, b) for place, a, b in both if a is not b]), where, anyway)


def _asked_alike(pairs: Pairs[Sampled], where: str, anyway: bool) -> Pairs[Sampled]:
    """The pairs; raises Refused for a document that was asked with another prompt or picture, unless `anyway`."""
    asked = [[(row.prompt_hash, row.image_hash, row.prompt_tokens) for row in rows] for rows in pairs.rows]
    if anyway or asked[0] == asked[1]:
        return pairs
    for before, after in zip(*pairs.rows, strict=True):
        if (before.prompt_hash, before.image_hash) != (after.prompt_hash, after.image_hash):
            raise Refused(Fault(where, f"document {before.doc_id} was asked with another prompt or picture in the two arms"))
        tokens = (before.prompt_tokens, after.prompt_tokens)
        if all(tokens) and tokens[0] != tokens[1]:
            # Templates, tokenizers and processors lie in the checkpoints, which may differ; these must not.
            what = f"document {before.doc_id} took {tokens[0]} tokens in one arm and {tokens[1]} in the other"
            raise Refused(Fault(where, what, "the checkpoints' chat templates, tokenizers or processors differ"))
    return pairs


@dataclass(frozen=True)
class Tally:
    """Counts from which a Comparison follows; they add up over tasks."""

    n: int
    lost: int
    gained: int
    flips: int
    squares: float
    """Sum of the squared differences in score."""
    pictures: Pictures
    """The baseline's scores by the pictures that were shown."""
    moved: Moved
    """Where the candidate's differ."""
    baseline: health.Tally
    candidate: health.Tally

    @classmethod
    def of(cls, pairs: Pairs[Sampled]) -> Tally:
        """The counts of one task."""
        base, (before, after) = pairs.baseline, pairs.rows
        scores = np.array([row.score for row in after], float)
        differences = scores - np.array([row.score for row in before], float)
        return cls(
            n=len(base.rows),
            lost=int((differences < 0).sum()),
            gained=int((differences > 0).sum()),
            flips=sum(a.answer != b.answer for a, b in zip(before, after, strict=True)),
            squares=float(differences @ differences),
            pictures=base.pictures,
            moved=base.pictures.moved(np.array([place for place, _ in pairs.changed], int), scores),
            baseline=base.health,
            candidate=base.health.replaced(before, after),
        )

    @classmethod
    def total(cls, parts: Sequence[Tally]) -> Tally:
        """The counts over several tasks; pictures that two of them show are one."""
        pictures = _together(tuple(part.pictures for part in parts))
        starts = np.cumsum([0, *(len(part.pictures.names) for part in parts)])
        places = np.concatenate([part.moved[0] + start for part, start in zip(parts, starts, strict=False)])
        return cls(
            n=sum(part.n for part in parts),
            lost=sum(part.lost for part in parts),
            gained=sum(part.gained for part in parts),
            flips=sum(part.flips for part in parts),
            squares=sum(part.squares for part in parts),
            pictures=pictures,
            moved=pictures.moved(places, np.concatenate([part.moved[1] for part in parts])),
            baseline=health.Tally.total([part.baseline for part in parts]),
            candidate=health.Tally.total([part.candidate for part in parts]),
        )
