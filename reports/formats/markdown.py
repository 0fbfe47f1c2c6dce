"""GitHub's Markdown: bars, backticks, markup and line breaks in cells stay harmless."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.util.printable import printable
from reports.formats.base import Format
from reports.table import Table


def table(shown: Table) -> str:
    """One table with its title and notes."""
    rows = [shown.columns, ["---"] * len(shown.columns), *shown.rows]
    lines = ["| " + " | ".join(_escaped(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join([f"### {printable(shown.title)}", "", *lines, *(f"\n{_escaped(note)}" for note in shown.notes)]) + "\n"


def _escaped(text: str) -> str:
    if set(text) <= {"-"} and text:
        return text
    text = printable(text)
    for mark in "\\`|*<>":
        text = text.replace(mark, f"\\{mark}")
    # An underscore inside a word and a bracket without a link mean nothing to Markdown: names and intervals stay readable.
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text).replace("](", "]\\(")
    return text.replace("\n", " ")


def write(tables: Sequence[Table]) -> str:
    """The tables one after the other."""
    return "\n".join(table(one) for one in tables)


MARKDOWN = Format("markdown", "Markdown", write)
