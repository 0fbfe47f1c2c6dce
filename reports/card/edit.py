"""A model card as text: the block between two markers, and single keys of the front matter. Every other byte stays.

Nothing is read and written back through a YAML writer: a key is replaced or added as text, and the result is read once more
to see that this key has its new value and every other key its old one. Line ends and a byte order mark stay as they are.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from harness.util.errors import Fault, Refused

BEGIN = "<!-- vl-harness:begin -->"
END = "<!-- vl-harness:end -->"
MARKER = re.compile(r"<!--[ \t]*vl-harness:(begin|end)[ \t]*-->")
FRONT = re.compile(r"\A(\ufeff?(?:[ \t]*\r?\n)*---[ \t]*\r?\n)(.*?)(^---[ \t]*\r?$)", re.DOTALL | re.MULTILINE)
PLAIN = re.compile(r"[A-Za-z][\w./@-]*( [\w./@()-]+)*", re.ASCII)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)", re.DOTALL)
MOST_ALIASES = 20
"""Front matter with more YAML aliases than that is left alone: reading them can take for ever."""


@dataclass(frozen=True)
class Key:
    """What one key of the front matter shall be."""

    name: str
    value: Any
    """Text, a list of texts, or a nest of mappings and lists; None takes the key away."""
    how: Literal["set", "add", "offer"] = "set"
    """set: this value; add: a list that keeps what it holds; offer: only where the card says nothing."""
    own: Callable[[Any], bool] = lambda old: True
    """Whether an old value may be replaced or taken away."""


def with_block(card: str, block: str) -> str:
    """The card with `block` between the markers, at its end where it has none.

    Raises Refused, with line numbers, when the markers are not one pair on lines of their own.
    """
    line_end = line_end_of(card)
    block = f"{BEGIN}\n{block.strip()}\n{END}".replace("\n", line_end)
    fenced = list(_fences(card))
    found = [m for m in MARKER.finditer(card) if not any(start <= m.start() < end for start, end in fenced)]
    faults = [Fault(f"README.md:{_line(card, m)}", f"the marker {m[0]} shares its line", "give it a line of its own")
              for m in found if not _is_alone(card, m)]  # fmt: skip
    Refused.if_any(faults)
    if not found:
        gap = "" if not card else line_end if card.endswith("\n") else line_end * 2
        return card + gap + block + line_end
    if [m[1] for m in found] != ["begin", "end"]:
        lines = ", ".join(f"{m[1]} in line {_line(card, m)}" for m in found)
        what = f"the markers of the block are not one pair ({lines})"
        raise Refused(Fault("README.md", what, f"leave one {BEGIN} and, below it, one {END}, or none of them"))
    return card[: found[0].start()] + block + card[found[1].end() :]


def _fences(card: str) -> Iterator[tuple[int, int]]:
    """From where to where code fences reach (CommonMark 4.5): what stands in one is shown, not meant."""
    open_at, fence, at = None, "", 0
    for line in card.splitlines(keepends=True):
        match = FENCE.match(line)
        if match and open_at is None and not (match[1][0] == "`" and "`" in match[2]):
            open_at, fence = at, match[1]
        elif match and open_at is not None and match[1].startswith(fence) and not match[2].strip():
            yield open_at, at + len(line)
            open_at = None
        at += len(line)
    if open_at is not None:
        yield open_at, len(card)


def line_end_of(card: str) -> str:
    """What most lines end with."""
    return "\r\n" if card.count("\r\n") * 2 > card.count("\n") else "\n"


def _line(card: str, marker: re.Match[str]) -> int:
    return card.count("\n", 0, marker.start()) + 1


def _is_alone(card: str, marker: re.Match[str]) -> bool:
    start = card.rfind("\n", 0, marker.start()) + 1
    end = card.find("\n", marker.end())
    rest = card[marker.end() : end if end >= 0 else len(card)]
    return card[start : marker.start()].strip("\ufeff") == "" and rest.strip(" \t\r") == ""


def with_keys(card: str, keys: list[Key]) -> tuple[str, list[str]]:
    """The card with its front matter's keys as they shall be, and a warning for each thing that was left alone."""
    match = FRONT.match(card)
    line_end = line_end_of(card)
    if match is None:
        if re.match(r"\ufeff?(?:[ \t]*\r?\n)*---[ \t]*(\r|\n|\Z)", card):
            return card, ["the card begins with --- and no second --- ends its front matter: left alone"]
        mark = "\ufeff" if card.startswith("\ufeff") else ""
        text, warnings = _changed("", keys, line_end)
        front = f"---{line_end}{text}---{line_end}{line_end}" if text else ""
        return mark + front + card.removeprefix(mark), warnings
    text, warnings = _changed(match[2], keys, line_end)
    return match[1] + text + match[3] + card[match.end() :], warnings


def _changed(text: str, keys: list[Key], line_end: str) -> tuple[str, list[str]]:
    """Front matter with its keys changed, and warnings."""
    try:
        old = _read(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        return text, [f"the card's front matter {_why(error)}: left alone"]
    warnings = []
    for key in keys:
        value = _wanted(key, old.get(key.name))
        if value == old.get(key.name):
            continue
        if key.name in old and not key.own(old[key.name]):
            warnings.append(f"{key.name} of the front matter holds what others wrote: left alone")
            continue
        new = {k: v for k, v in old.items() if k != key.name} | ({} if value is None else {key.name: value})
        try:
            changed = next((t for t in _ways(text, key, value, line_end) if _reads_as(t, new)), None)
        except TypeError:  # the card holds a date, a set or bytes there, which are not written here
            changed = None
        if changed is None:
            warnings.append(f"{key.name} of the front matter cannot be changed without touching another key: left alone")
            continue
        text, old = changed, new
    return text, warnings


def _wanted(key: Key, old: Any) -> Any:
    if key.how == "offer" and old:
        return old
    if key.how == "add":
        held = old if isinstance(old, list) else [old] if old else []
        added = [value for value in key.value if value not in held]
        return [*held, *added] if added else old
    return key.value


def _read(text: str) -> dict[str, Any]:
    """The front matter's mapping; ValueError when it is none that can be changed as text."""
    events = list(yaml.parse(text, Loader=yaml.SafeLoader))
    if sum(isinstance(event, yaml.AliasEvent) for event in events) > MOST_ALIASES:
        raise ValueError("holds too many YAML aliases")
    if any(isinstance(event, yaml.DocumentEndEvent) and event.explicit for event in events):
        raise ValueError("ends with ... before its ---")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        raise ValueError("is no list of keys and values")
    names = [str(key.value) for key, _ in node.value]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"holds the key {twice[0]!r} twice")
    return dict(yaml.safe_load(text))


def _reads_as(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return _read(text) == wanted
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return False


def _why(error: Exception) -> str:
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 2}: {getattr(error, 'problem', '')})" if mark else ""
        return f"is not valid YAML{where}"
    return str(error) if isinstance(error, ValueError) else "cannot be read"


def _ways(text: str, key: Key, value: Any, line_end: str) -> Iterator[str]:
    """Texts that may give the key its value, the smallest change first."""
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    entries = tree.value if tree is not None else []
    indent = " " * (entries[0][0].start_mark.column if entries else 0)
    lines = [] if value is None else rendered(key.name, value)
    place = next((i for i, (name, _) in enumerate(entries) if name.value == key.name), None)
    if place is None:
        gap = line_end if text and not text.endswith("\n") else ""
        yield text + gap + "".join(f"{indent}{line}{line_end}" for line in lines)
        return
    name, held = entries[place]
    after = entries[place + 1][0].start_mark.index if place + 1 < len(entries) else len(text)
    start = text.rfind("\n", 0, name.start_mark.index) + 1
    end = start + len(_without_trailing_comments(text[start : after - len(indent) if after < len(text) else after]))
    if key.how == "add" and isinstance(held, yaml.SequenceNode):
        added = [scalar(v) for v in value[len(held.value) :]]
        if held.flow_style:
            bracket = held.end_mark.index - 1
            yield text[:bracket] + (", " if held.value else "") + ", ".join(added) + text[bracket:]
        else:
            dash = " " * held.start_mark.column + "- "
            yield text[:end] + "".join(dash + one + line_end for one in added) + text[end:]
    if isinstance(held, yaml.ScalarNode) and isinstance(value, str) and held.start_mark.line == held.end_mark.line:
        yield text[: held.start_mark.index] + scalar(value) + text[held.end_mark.index :]
    yield text[:start] + "".join(f"{indent}{line}{line_end}" for line in lines) + text[end:]


def _without_trailing_comments(region: str) -> str:
    """A key's lines without the blank lines and comments that stand below it: they belong to what comes next."""
    lines = region.split("\n")
    last = lines.pop() if region.endswith("\n") else None
    while len(lines) > 1 and re.fullmatch(r"\s*(#.*)?", lines[-1]):
        lines.pop()
    return "\n".join(lines) + ("\n" if last is not None else "")


def rendered(name: str, value: Any) -> list[str]:
    """A key and its value as lines of YAML: mappings of plain values in braces, everything else a line an entry."""
    if _is_flat(value):
        return [f"{name}: {_inline(value)}"]
    indent = "" if isinstance(value, list) else "  "
    return [f"{name}:", *(indent + line for line in _block(value))]


def _block(value: Any) -> list[str]:
    if isinstance(value, dict):
        return list(itertools.chain.from_iterable(rendered(str(k), v) for k, v in value.items()))
    lines = []
    for item in value:
        first, *rest = [_inline(item)] if _is_flat(item) else _block(item)
        lines += [f"- {first}", *(f"  {line}" for line in rest)]
    return lines


def _is_flat(value: Any) -> bool:
    if isinstance(value, dict):
        return all(not isinstance(v, dict | list) for v in value.values())
    return not isinstance(value, list) or not value


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {scalar(v)}" for k, v in value.items()) + "}"
    return "[]" if value == [] else scalar(value)


def scalar(value: Any) -> str:
    """One value of YAML; text in quotes wherever it could be read as something else."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in json.dumps(value, ensure_ascii=False))
