"""The forms that tables are written in, one file each. Others take `FORMATS` and `markdown.table`.

A new form is one file with a `Format`, and its entry here: the command line makes an option of it.
"""

from __future__ import annotations

from reports.formats.base import Format
from reports.formats.csv import CSV
from reports.formats.json import JSON
from reports.formats.markdown import MARKDOWN

__all__ = ["FORMATS", "MARKDOWN", "Format"]

FORMATS: list[Format] = [MARKDOWN, CSV, JSON]
