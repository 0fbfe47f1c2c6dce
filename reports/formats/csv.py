"""CSV for a spreadsheet: numbers unrounded, each in a column of its own; no cell is taken for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from reports.formats.base import Format
from reports.table import Table, Value


def table(shown: Table) -> str:
    """One table, without its title and notes."""
    columns, rows = shown.values()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_no_formula(column) for column in columns])
    writer.writerows([_no_formula(value) for value in row] for row in rows)
    return out.getvalue()


def _no_formula(value: Value) -> Value:
    """A spreadsheet runs a text that begins with one of these; an apostrophe makes it text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write(tables: Sequence[Table]) -> str:
    """One table as plain CSV; several, each under a line with its title."""
    if len(tables) == 1:
        return table(tables[0])
    return "\n".join(f"# {one.title}\n{table(one)}" for one in tables)


CSV = Format("csv", "CSV", write)
