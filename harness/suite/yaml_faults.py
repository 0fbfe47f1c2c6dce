"""What is wrong with a YAML file that a pydantic model describes: each fault with its line and what would be right."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from harness.util.errors import Fault, Refused, nearest

LARGEST_FILE = 2**20
"""Bytes of a suite or a policy: a longer file is something else, and YAML takes a minute to read it."""


def read(path: Path, what: str, right: str) -> str:
    """The text of a suite or a policy; raises Refused. what: which of the two; right: what would be right."""
    try:
        if path.is_dir():
            raise Refused(Fault(str(path), "is a folder", right))
        if path.exists() and not path.is_file():
            raise Refused(Fault(str(path), "is no plain file", right))
        if path.stat().st_size > LARGEST_FILE:
            size = f"is {path.stat().st_size / 2**20:.0f} MiB, which is no {what}"
            raise Refused(Fault(str(path), size, f"{LARGEST_FILE // 2**20} MiB at most"))
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Fault(str(path), getattr(error, "strerror", None) or "is not UTF-8 text", right)) from None


def parsed(text: str, where: str) -> Any:
    """What a YAML text holds; raises Refused with one fault when it is none, or holds a value that is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise Refused(Fault(f"{where}:{mark.line + 1}" if mark else where, f"is not YAML: {problem}")) from None
    except RecursionError:
        raise Refused(Fault(where, "is nested too deeply, or holds an anchor that refers to itself")) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(Fault(where, f"holds a value that cannot be read: {error}")) from None


def duplicate_keys(node: Any, path: Path, walked: set[int] | None = None) -> Iterator[Fault]:
    """YAML keeps the last of two equal keys without a word; a suite must not. What aliases share is looked at once."""
    walked = set() if walked is None else walked
    if id(node) in walked:
        return
    walked.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield Fault(f"{path}:{key.start_mark.line + 1}", f"the key {key.value!r} stands twice", "keep one of them")
            seen.add(key.value)
            yield from duplicate_keys(value, path, walked)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from duplicate_keys(value, path, walked)


def located(faults: Iterable[Fault], path: Path, overrides: Sequence[str] = (), sections: Sequence[str] = ()) -> list[Fault]:
    """Faults of what a suite asks for with the file and line of the key that they name, where it stands in the file.

    overrides: `key=value` that were put over the file; what they set has no line. sections: the workloads' names, below which
    a key may stand.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            return list(faults)
        tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return list(faults)
    faults, told = list(faults), [override.partition("=")[0] for override in overrides]
    lines = [_named(fault.where, tree, told, sections) for fault in faults]
    return [
        replace(fault, where=f"{path}:{line}: {fault.where}") if line else fault
        for fault, line in zip(faults, lines, strict=True)
    ]


def _named(where: str, tree: Any, overridden: Sequence[str], sections: Sequence[str]) -> int | None:
    """The line of the key that begins `where`, as a suite has it or below one of its workloads; None if it is not there."""
    key = re.split(r"[:, ]", where, maxsplit=1)[0]
    if any(f"{key}.".startswith(f"{other}.") or f"workloads.{key}.".startswith(f"{other}.") for other in overridden):
        return None
    if key.startswith("variants."):
        # A name may hold nearly anything, a field of it or @SETTING may follow; `grid` makes names of its own.
        rest = where.removeprefix("variants.")
        names = [k.value for v in _values(tree, "variants") for k, _ in getattr(v, "value", []) if isinstance(k.value, str)]
        fitting = [n for n in names if rest.startswith(n) and rest[len(n) : len(n) + 1] in ("", ".", ":", ",", "@", " ")]
        places = [["variants", max(fitting, key=len)]] if fitting else [["grid"]]
    else:
        places = [[*above, *key.split(".")] for above in ([], ["workloads"], *(["workloads", name] for name in sections))]
    return next((_line(tree, place) for place in places if _has(tree, place)), None)


def _values(node: Any, key: str) -> list[Any]:
    """What stands under a key of a mapping, if anything."""
    return [v for k, v in node.value if k.value == key] if isinstance(node, yaml.MappingNode) else []


def _has(node: Any, loc: Sequence[str]) -> bool:
    """Whether every part of `loc` stands in the file."""
    for part in loc:
        node = next((v for k, v in node.value if k.value == part), None) if isinstance(node, yaml.MappingNode) else None
        if node is None:
            return False
    return True


def _line(node: Any, loc: Sequence[int | str]) -> int | None:
    """The line, from 1, of the deepest part of `loc` that stands in the file."""
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            hit = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if hit is None:
                return line
            line, node = hit[0].start_mark.line + 1, hit[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _fields_at(model: Any, loc: Sequence[int | str]) -> list[str]:
    """The field names that the model at `loc` knows."""
    for part in loc:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        inner = [a for a in _flatten(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = inner[0] if inner else None
    return list(model.model_fields) if model is not None else []


def _flatten(annotation: Any) -> Iterator[Any]:
    """Every type inside a union, dict, tuple or Annotated."""
    arguments = getattr(annotation, "__args__", None)
    if not arguments:
        yield annotation
        return
    for argument in arguments:
        yield from _flatten(argument)


def fault(error: Any, tree: Any, path: Path, root: type[BaseModel]) -> Fault:
    """One pydantic error as a fault with file, line and what would be right."""
    loc = [p for p in error["loc"] if not (isinstance(p, str) and p.endswith("]"))]
    line = _line(tree, loc)
    where = f"{path}:{line}" if line else str(path)
    dotted = ".".join(str(p) for p in loc)
    if error["type"] == "extra_forbidden":
        fields = _fields_at(root, loc[:-1]) + (["grid", "settings"] if len(loc) == 1 else [])
        close = nearest(str(loc[-1]), fields).lstrip("; ")
        return Fault(where, f"unknown key {dotted!r}", close or f"known here: {', '.join(fields)}")
    if error["type"] == "missing":
        return Fault(where, f"{dotted!r} is missing")
    message = str(error["msg"]).removeprefix("Value error, ")
    given = reprlib.repr(error.get("input"))
    if error["type"] == "value_error" or len(given) > 60:
        return Fault(where, f"{dotted}: {message}" if dotted else message)
    return Fault(where, f"{dotted} is {given}: {message[0].lower()}{message[1:]}")
