"""Patterns of module names: whether one is sound, and what to write in place of one that matches nothing."""

from __future__ import annotations

import difflib
import re
import warnings

from harness.checkpoints.headers import matches


def pattern_error(pattern: str) -> str | None:
    """Why a pattern is no regular expression; None when it is one."""
    try:
        matches(pattern, "")
    except re.error as error:
        return str(error)
    return None


def propose(pattern: str, names: list[str]) -> tuple[str, str]:
    """For a pattern that matches nothing: a real module name near to it, and a pattern that matches."""
    body = pattern.removeprefix("re:")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # re's hints about odd patterns; the line below says what matters
            inside = [n for n in names if re.search(body, n)]
    except re.error:
        inside = []
    if inside:
        loose = body.removeprefix("^")
        found = "re:" + (loose if loose.startswith(".*") else ".*" + loose)
        if any(safe_match(found, name) for name in names):
            return inside[0], found
    parts = sorted({p for n in names for p in n.split(".") if not p.isdigit()})
    words = re.findall(r"[a-z_0-9]{3,}", body.lower())
    # A word that is no part of any name is the likely slip; one that is may still stand in the wrong place.
    ordered = [w for w in words if w not in parts] + [w for w in words if w in parts][::-1]
    for cutoff in (0.6, 0.5):
        for word in ordered:
            close = difflib.get_close_matches(word, parts, 1, cutoff) or [p for p in parts if word in p or p in word]
            if close:
                real = next(n for n in names if close[0] in n.split("."))
                last = real.rpartition(".")[2] == close[0]
                return real, f"re:.*{re.escape(close[0])}" + ("$" if last else ".*")
    return names[0], "re:.*" + re.escape(names[0].rpartition(".")[2]) + "$"


def safe_match(pattern: str, name: str) -> bool:
    """Whether a pattern matches; one that is no regular expression does not."""
    try:
        return matches(pattern, name)
    except re.error:
        return False
