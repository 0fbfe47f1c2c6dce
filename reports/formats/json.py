"""JSON for programs: a list of title, name, columns, rows and notes; numbers are numbers, unrounded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from reports.formats.base import Format
from reports.table import Table


def table(shown: Table) -> dict[str, Any]:
    """One table; null is a number that is not there."""
    columns, rows = shown.values()
    return {"title": shown.title, "name": shown.slug, "columns": columns, "rows": rows, "notes": shown.notes}


def write(tables: Sequence[Table]) -> str:
    """The tables as a list."""
    return json.dumps([table(one) for one in tables], ensure_ascii=False, allow_nan=False, indent=1) + "\n"


JSON = Format("json", "JSON", write)
