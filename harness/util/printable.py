"""Text of others (a model, a server, a file's name) on its way to a terminal or a log."""

from __future__ import annotations

import re
import sys

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but tab and line feed, and halves of surrogate pairs, which no encoding takes."""


def printable(text: str) -> str:
    """Without what a terminal would obey: each control character becomes U+FFFD."""
    return CONTROL.sub("\ufffd", text)


def complain(line: str) -> None:
    """One line on stderr; it may quote anything."""
    print(printable(line), file=sys.stderr)
