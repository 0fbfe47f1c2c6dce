"""What every plot is made of: a Vega-Lite specification, a sentence on how to read it, and its figures as a table.

A specification is plain data, drawn by the page's script; the table is for readers who see no plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.run_data import RunData
from reports.table import NOT_MEASURED, Figure, Table, frame
from reports.tables import speed

Rows = list[dict[str, Any]]
Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
PALETTE = ("#7f8791", "#1f83d6", "#e0672e", "#17a07a", "#c561a3", "#d79a16", "#7a6ff0", "#58a9c9", "#b5473c", "#6b9a2f")
"""The baseline's grey, then the candidates' colours; told apart on white and on black, and by readers who are colour-blind."""
AUTOSIZE = {"type": "fit-x", "contains": "padding"}
PADDING = {"left": 4, "right": 16, "top": 6, "bottom": 4}
GREYED = "#9aa0a6"
FEW = 6
"""Up to so many candidates, their tasks are drawn one by one; with more, the totals only."""


@dataclass
class Plot:
    """One plot: what it is called, how it is read, its specification, its figures."""

    name: str
    title: str
    caption: str
    spec: Spec
    rows: Rows
    columns: dict[str, str]
    """The columns of the table of figures: field of `rows` to title."""

    def table(self) -> Table:
        """The figures as text."""
        shown = [{title: _text(row.get(key)) for key, title in self.columns.items()} for row in self.rows]
        return Table(self.title, frame(shown))


def _text(value: Any) -> str:
    if value is None:
        return NOT_MEASURED
    return Figure(speed.number(value), {"": value}) if isinstance(value, float) else str(value)


def chart(rows: Rows, height: int, **more: Any) -> Spec:
    """A specification as wide as its place; height in pixels."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": AUTOSIZE,
        "padding": PADDING,
        "data": {"values": rows},
    } | more


def variant_colour(source: RunData, shown: Sequence[str]) -> dict[str, Any]:
    """Colours by variant, the same in every plot; no legend for one alone, or where it would be longer than the plot."""
    scale = {"domain": source.variants, "range": [PALETTE[i % len(PALETTE)] for i in range(len(source.variants))]}
    legend = {"orient": "top", "title": None, "columns": 3, "symbolType": "circle", "values": list(shown)}
    named = 1 < len(shown) <= 12
    return {"field": "variant", "type": "nominal", "scale": scale, "legend": legend if named else None}


def tips(columns: dict[str, str]) -> list[dict[str, Any]]:
    return [{"field": key, "title": title} for key, title in columns.items()]
