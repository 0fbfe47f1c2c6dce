"""The sentences of a model card's block: English in the code, Chinese in card_zh.yaml by English pattern."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from reports.formats import markdown
from reports.languages import Words
from reports.table import Table

LANGUAGES = ("en", "zh")


def say(language: str, sentence: str, **filled: Any) -> str:
    """A sentence in a language, filled in. KeyError for a sentence that has no Chinese."""
    return (_chinese()[sentence] if language == "zh" else sentence).format(**filled)


def table(given: Table, language: str) -> str:
    """A table as Markdown, in the language where a vocabulary of the tables is there."""
    return markdown.table(Words(language).table(given))


@cache
def _chinese() -> dict[str, str]:
    return dict(yaml.safe_load(Path(__file__).with_name("card_zh.yaml").read_text(encoding="utf-8")))
