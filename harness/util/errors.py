"""The two ways a command ends early: refused before any work, or a failure of one piece of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where it is, what is wrong with it, and what would be right."""

    where: str
    what: str
    right: str = ""

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}"
        return f"{line}; {self.right}" if self.right else line

    def at(self, place: str) -> Self:
        """The same fault, with `place` before where it is."""
        return replace(self, where=f"{place}{self.where}")


def condensed(faults: Iterable[Fault]) -> list[Fault]:
    """The same faults with one line for each thing that is wrong, however many variants, tasks or documents it is wrong
    with: `variants.a, variants.b: ignore ...` and `demo_vl: document 3, document 9: ...`. No name is left out."""
    alike: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        alike.setdefault((fault.what, fault.right), []).append(fault.where)
    return [Fault(_joined(list(dict.fromkeys(places))), what, right) for (what, right), places in alike.items()]


def _joined(places: list[str]) -> str:
    """Places in one, with what they have in common before or behind the colon told once."""
    heads, rests = ([place.partition(": ")[side] for place in places] for side in (0, 2))
    if len(set(rests)) == 1:
        return ", ".join(heads) + (f": {rests[0]}" if rests[0] else "")
    return f"{heads[0]}: {', '.join(rests)}" if len(set(heads)) == 1 else ", ".join(places)


@dataclass(frozen=True)
class Unlike(Fault):
    """Two arms were not measured alike, so a comparison would say nothing of the checkpoint."""

    candidate: str = ""
    """The candidate of the two arms."""


class NotDone(Fault):
    """A Cell failed, is invalid or has no samples, so nothing is computed from it."""


class NoDocuments(NotDone):
    """A Cell was asked nothing, so there is nothing to compare."""


@dataclass(frozen=True)
class OneArm(Fault):
    """Something was measured for one arm alone."""

    candidate: str = ""
    """The candidate of the two arms."""
    place: str = ""
    """The task or the point."""
    side: Literal["baseline", "candidate"] = "candidate"
    """The arm that has it."""


class OfSource(Fault):
    """Something is wrong with the source, so with everything that is made of it."""


class Damaged(Fault):
    """A product is not what was built: building it again is the remedy."""


class Refused(Exception):
    """Bad input, found before anything was loaded or written. The command prints a line a fault and exits with 2."""

    def __init__(self, *faults: Fault):
        super().__init__("\n".join(str(f) for f in faults))
        self.faults = faults

    @classmethod
    def if_any(cls, faults: Iterable[Fault]) -> None:
        """Raise all faults together, or return when there are none."""
        found = tuple(dict.fromkeys(faults))
        if found:
            raise cls(*found)


class CellFailed(Exception):
    """One Cell (or one build) failed while it ran; the others go on and the command exits with 1."""


def nearest(word: str, choices: Any) -> str:
    """`; did you mean 'x'?` for the choice that looks most like `word`, or nothing."""
    found = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""
