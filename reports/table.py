"""One table, as a pandas frame with a title and notes, and its forms: terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from harness.compare.stats import Interval

NOT_MEASURED = "N/A"
RANDOM = "Random weights: size, memory, speed and energy only."
PARTS = ("language", "visual", "lm_head", "embeddings")


@dataclass
class Table:
    """One table: every cell is text already, so all forms show the same."""

    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The columns' titles."""
        return [_clean(str(column)) for column in self.frame.columns]

    @property
    def rows(self) -> list[list[str]]:
        """The cells as text."""
        return [[_clean(cell) for cell in row] for row in self.frame.astype(str).values.tolist()]

    def markdown(self) -> str:
        """A GitHub table; bars, backticks, markup and line breaks in cells stay harmless."""
        rows = [self.columns, ["---"] * len(self.columns), *self.rows]
        lines = ["| " + " | ".join(_escaped(str(cell)) for cell in row) + " |" for row in rows]
        return "\n".join([f"### {_clean(self.title)}", "", *lines, *(f"\n{_escaped(note)}" for note in self.notes)]) + "\n"

    def rich(self) -> RichTable:
        """For the terminal; numbers to the right."""
        table = RichTable(
            title=Text(_clean(self.title)),
            title_justify="left",
            caption=Text(_clean("\n".join(self.notes))) if self.notes else None,
            caption_justify="left",
        )
        for index, column in enumerate(self.columns):
            table.add_column(Text(column), justify="left" if index < 2 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    @property
    def slug(self) -> str:
        """A name for files, addresses and the command line: `latency-and-throughput`."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def csv(self) -> str:
        """For a spreadsheet: an interval becomes three columns, `a ± b` two, and no cell is taken for a formula."""
        columns, rows = self._split()
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_no_formula(column) for column in columns])
        writer.writerows([_no_formula(cell) for cell in row] for row in rows)
        return out.getvalue()

    def data(self) -> dict[str, object]:
        """For programs: title, columns and rows as in `csv`, notes."""
        columns, rows = self._split()
        return {"title": self.title, "name": self.slug, "columns": columns, "rows": rows, "notes": self.notes}

    def _split(self) -> tuple[list[str], list[list[str]]]:
        columns: list[str] = []
        parts: list[list[list[str]]] = []
        given = self.rows
        for number, column in enumerate(self.columns):
            cells = [row[number] for row in given]
            for pattern, ends in SPLIT.items():
                found = [re.fullmatch(pattern, cell) for cell in cells]
                several = any(m and m[2] is not None for m in found)
                if several and all(m or cell.startswith(NOT_MEASURED) for m, cell in zip(found, cells, strict=True)):
                    columns += [column + end for end in ends]
                    blank = [""] * (len(ends) - 1)
                    parts.append([list(m.groups("")) if m else [cell, *blank] for m, cell in zip(found, cells, strict=True)])
                    break
            else:
                columns.append(column)
                parts.append([[cell] for cell in cells])
        rows = [[_plain_number(cell) for part in row for cell in part] for row in zip(*parts, strict=True)]
        return columns, rows


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SPLIT = {
    r"([-+\d.,]+)(?: \[([-+\d.,]+), ([-+\d.,]+)\])?": ("", " low", " high"),
    r"([-+\d.,]+)(?: ± ([\d.,]+|N/A))?": ("", " ±"),
}
"""Cells that hold several numbers, and how the columns are called that each gets in CSV and JSON."""


def _plain_number(text: str) -> str:
    return text.replace(",", "") if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text) else text


def _no_formula(text: str) -> str:
    """A spreadsheet runs a cell that begins with one of these; an apostrophe makes it text."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not re.fullmatch(r"[-+][\d.]+", text) else text


def _clean(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return CONTROL.sub("\ufffd", text)


def _escaped(text: str) -> str:
    if set(text) <= {"-"} and text:
        return text
    text = _clean(text)
    for mark in "\\`|*<>":
        text = text.replace(mark, f"\\{mark}")
    # An underscore inside a word and a bracket without a link mean nothing to Markdown: names and intervals stay readable.
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text).replace("](", "]\\(")
    return text.replace("\n", " ")


def percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage without the sign."""
    return NOT_MEASURED if value is None or value != value else f"{100 * value:.{digits}f}"


def interval(value: Interval, digits: int = 2) -> str:
    """`-0.30 [-0.77, +0.17]`, shares as percentages; a sign only where differences are meant."""
    return f"{100 * value.value:+.{digits}f} [{100 * value.low:+.{digits}f}, {100 * value.high:+.{digits}f}]"


def gib(size: float | None) -> str:
    """Bytes in GiB, or in MiB below a hundredth of one."""
    if size is None:
        return NOT_MEASURED
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:.2f} MiB"
