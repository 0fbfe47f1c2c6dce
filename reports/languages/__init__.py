"""What a report says in another language. English is written in the code; `zh.yaml` holds Chinese by English pattern.

A pattern is a whole title, column, note or word, with `{name}` where something is filled in. Names of variants, tasks and
points are never translated, and what no pattern matches stays English.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

from reports.table import Figure, Table

LANGUAGES = ("en", "zh")
NAMES = {
    "variant",
    "task",
    "point",
    "load",
    "against",
    "metric",
    "device",
    "versions",
    "status",
    "label",
    "checkpoint",
    "value",
}
"""Columns whose cells are names or a program's words."""


class Words:
    """One language."""

    def __init__(self, language: str = "en"):
        self.language = language
        self.exact, self.patterns = _catalog(language) if language != "en" else ({}, [])

    def say(self, text: str) -> str:
        """The text in this language."""
        if text in self.exact:
            return self.exact[text]
        for pattern, translated in self.patterns:
            match = pattern.fullmatch(text)
            if match:
                # What is filled in may be a list of words of its own.
                return translated.format(**{name: self._part(value) for name, value in match.groupdict().items()})
        return text

    def _part(self, value: str) -> str:
        if value in self.exact:
            return self.exact[value]
        parts = value.split(", ")
        return "、".join(self.exact.get(p, p) for p in parts) if all(p in self.exact for p in parts) else value

    def cell(self, cell: object) -> str:
        """A cell in this language, with the numbers it holds."""
        said = self.say(str(cell))
        return Figure(said, cell.numbers) if isinstance(cell, Figure) else said

    def table(self, table: Table) -> Table:
        """A table in this language; cells only where they are the project's own words."""
        if self.language == "en":
            return table
        frame = table.frame.copy()
        for column in frame.columns:
            if column not in NAMES:
                frame[column] = [self.cell(cell) for cell in frame[column]]
        frame.columns = [self.say(str(column)) for column in frame.columns]
        return Table(self.say(table.title), frame, [self.say(note) for note in table.notes])


@cache
def _catalog(language: str) -> tuple[dict[str, str], list[tuple[re.Pattern[str], str]]]:
    path = Path(__file__).with_name(f"{language}.yaml")
    known: dict[str, str] = yaml.safe_load(path.read_text(encoding="utf-8"))
    exact = {english: other for english, other in known.items() if "{" not in english}
    patterns = []
    for english, other in known.items():
        if "{" in english:
            pieces = re.split(r"\{(\w+)\}", english)
            made = "".join(f"(?P<{p}>.+?)" if i % 2 else re.escape(p) for i, p in enumerate(pieces))
            patterns.append((len("".join(pieces[::2])), re.compile(made, re.DOTALL), other))
    # The pattern that says most decides.
    return exact, [(pattern, other) for _, pattern, other in sorted(patterns, key=lambda one: -one[0])]
