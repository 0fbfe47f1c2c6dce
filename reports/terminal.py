"""A table on a terminal of any width: where its columns do not fit, it goes on below with the columns that name its rows, or
is told row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

FRAME = 3
"""What a column's frame takes beside its content, in characters; the table itself takes one more."""


@dataclass(frozen=True)
class Shown:
    """A title, columns with rows of text under them, and notes. What `Console.print` takes."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = split(self.columns, self.rows, options.max_width)
        if not parts:
            yield from self._blocks()
        for place, part in enumerate(parts):
            yield self._table(part, place == 0, len(parts) == 1)
        if len(parts) != 1 and self.notes:
            yield Text("\n".join(self.notes), style="table.caption")

    def _blocks(self) -> Iterator[RenderableType]:
        """A row after the other: what names it, then its other columns as far as a line goes."""
        keys = _keys(self.rows, len(self.columns))
        yield Text(f"{self.title}: {', '.join(self.columns[:keys])}", style="table.title")
        for row in self.rows:
            yield Text(", ".join(row[:keys]), style="bold")
            told = [f"{title}: {cell}" for title, cell in zip(self.columns[keys:], row[keys:], strict=True) if cell]
            yield Padding(Text("; ".join(told)), (0, 0, 0, 2))

    def _table(self, part: Sequence[tuple[int, int]], first: bool, alone: bool) -> RichTable:
        table = RichTable(
            title=Text(self.title) if first else None,
            title_justify="left",
            caption=Text("\n".join(self.notes)) if alone and self.notes else None,
            caption_justify="left",
        )
        for index, width in part:
            justify = "left" if index < 2 else "right"
            table.add_column(Text(self.columns[index]), justify=justify, overflow="fold", max_width=width)  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(Text(row[index]) for index, _ in part))
        return table


def split(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[tuple[int, int]]]:
    """The parts of a table that fit `width` characters: of each its columns, as (number, width of the content).

    All of it is one part where it fits without a break. Else a title may take two lines, and every part begins with the columns
    that tell the rows apart. None at all where these leave no room for the others.
    """
    whole = [max(map(cell_len, (title, *(row[i] for row in rows)))) for i, title in enumerate(columns)]
    if not columns or sum(whole) + FRAME * len(whole) + 1 <= width:
        return [list(enumerate(whole))]
    least = [_least(title, [row[i] for row in rows]) for i, title in enumerate(columns)]
    keys = _keys(rows, len(columns))
    taken = sum(least[i] + FRAME for i in range(keys)) + 1
    if taken + min(max(least[keys:], default=0), width // 3) + FRAME > width:
        return []
    parts: list[list[tuple[int, int]]] = []
    left = 0
    for index in range(keys, len(columns)):
        asked = min(least[index], max(1, width - taken - FRAME))
        if not parts or asked + FRAME > left:
            parts.append([(i, least[i]) for i in range(keys)])
            left = width - taken
        parts[-1].append((index, asked))
        left -= asked + FRAME
    return parts or [[(i, least[i]) for i in range(keys)]]


def _least(title: str, cells: Sequence[str]) -> int:
    """What a column needs so that no cell is broken, and its title at a space, once."""
    words = title.split() or [""]
    halves = [max(cell_len(" ".join(words[:i])), cell_len(" ".join(words[i:]))) for i in range(1, len(words) + 1)]
    return max(min(halves, default=1), *map(cell_len, cells), 1)


def _keys(rows: Sequence[Sequence[str]], columns: int) -> int:
    """How many of the first columns tell the rows apart; at most three, and one at least."""
    for count in range(1, min(3, columns) + 1):
        if len({tuple(row[:count]) for row in rows}) == len(rows):
            return count
    return min(3, columns)
