"""What a form of tables is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports.table import Table


@dataclass(frozen=True)
class Format:
    """One form."""

    name: str
    """The option of `report` that asks for it, without its dashes."""
    title: str
    """What people call it."""
    write: Callable[[Sequence[Table]], str]
    """The tables as one text that ends in a line break."""
