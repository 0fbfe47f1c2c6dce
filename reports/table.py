"""One table, as a pandas frame with a title and notes, and the cells that hold numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.util.printable import printable

if TYPE_CHECKING:
    # The command line asks for the names of the forms before it knows whether a table will be shown.
    import pandas as pd

    from harness.compare.stats import Interval
    from reports.terminal import Shown

NOT_MEASURED = "N/A"
RANDOM = "Random weights: size, memory, speed and energy only."
OTHERWISE = "{variant} is computed as {computed} on this device, its scheme asks for {asked}: its answers are not the scheme's."
PARTS = ("language", "visual", "lm_head", "embeddings")
Value = str | float | int | None
"""What a cell is for programs."""


class Figure(str):
    """A cell that holds numbers. It is the text that people read; programs take its numbers, so none is read back from text.

    numbers: by the ending of the column that each gets, for example `""`, ` low` and ` high`; NaN is a number that is not
    known.
    """

    numbers: Mapping[str, float | int | None]

    def __new__(cls, text: str, numbers: Mapping[str, float | int | None]) -> Figure:
        made = super().__new__(cls, text)
        made.numbers = numbers
        return made


@dataclass
class Table:
    """One table: cells are text, numbers or Figures."""

    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The columns' titles."""
        return [printable(str(column)) for column in self.frame.columns]

    @property
    def rows(self) -> list[list[str]]:
        """The cells as people read them."""
        return [[printable(str(cell)) for cell in row] for row in self.frame.values.tolist()]

    def values(self) -> tuple[list[str], list[list[Value]]]:
        """Columns and rows as programs read them: a column whose cells hold several numbers becomes several."""
        titles: list[str] = []
        columns: list[list[Value]] = []
        for title, cells in zip(self.columns, self.frame.T.values.tolist(), strict=True):
            figures = [cell for cell in cells if isinstance(cell, Figure)]
            endings = list(dict.fromkeys(ending for figure in figures for ending in figure.numbers)) or [""]
            titles += [title + ending for ending in endings]
            columns += [[_value(cell, ending, ending == endings[0]) for cell in cells] for ending in endings]
        return titles, [list(row) for row in zip(*columns, strict=True)]

    def rich(self) -> Shown:
        """For the terminal; numbers to the right."""
        from reports.terminal import Shown

        return Shown(printable(self.title), self.columns, self.rows, [printable(note) for note in self.notes])

    @property
    def slug(self) -> str:
        """A name for files, addresses and the command line: `latency-and-throughput`."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def frame(rows: Sequence[Mapping[str, Any]], missing: str = "") -> pd.DataFrame:
    """The frame of a table. missing: what stands where a row has no such column."""
    import pandas as pd

    # As objects: pandas would make plain text of Figures, and floats of counts.
    return pd.DataFrame(rows, dtype=object).fillna(missing)


def _value(cell: object, ending: str, first: bool) -> Value:
    """One cell's part of a column; a text without numbers stands in the first of them."""
    if isinstance(cell, Figure):
        number = cell.numbers.get(ending)
        return None if number is None or number != number else number
    if not first:
        return None
    return cell if isinstance(cell, int | float) else printable(str(cell))


def percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage without the sign."""
    if value is None or value != value:
        return NOT_MEASURED
    return Figure(f"{100 * value:.{digits}f}", {"": 100 * value})


def interval(value: Interval, signed: bool = False, digits: int = 2) -> Figure:
    """`99.10 [98.00, 100.20]`, shares as percentages; with signs where differences are meant."""
    low, mid, high = 100 * value.low, 100 * value.value, 100 * value.high
    spec = f"{'+' if signed else ''}.{digits}f"
    return Figure(f"{mid:{spec}} [{low:{spec}}, {high:{spec}}]", {"": mid, " low": low, " high": high})


def counted(count: int, n: int) -> Figure:
    """`12 (1.2 %)`: how many of `n`."""
    return Figure(f"{count} ({100 * count / n:.1f} %)", {"": count, " %": 100 * count / n})


def number(value: float, spec: str, unit: str = "") -> Figure:
    """A number in a format of its own; the unit stands behind it, and in the title of the column that programs get."""
    return Figure(f"{value:{spec}}{unit and f' {unit}'}", {unit and f", {unit}": value})


def gib(size: float | None, of: float | None = None, digits: int = 1) -> str:
    """Bytes in GiB, or in MiB below a hundredth of one. of: bytes of the baseline, told as a share of it."""
    if size is None:
        return NOT_MEASURED
    text = f"{size / 2**30:.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:.2f} MiB"
    if of is None:
        return Figure(text, {", bytes": size})
    share = 100 * size / of
    return Figure(f"{text} ({share:.{digits}f} %)", {", bytes": size, ", % of the baseline": share})
