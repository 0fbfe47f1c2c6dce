"""What a folder of lm-eval's task files holds: tasks, groups and tags, read as lm-eval reads them, without lm-eval.

A group's `task:` lists names, names with overrides, groups of its own, and tasks that stand in no other file; keys of the
group's that are none of its structure override what its tasks say (lm_eval/tasks/_factory.py).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.util import environments, files

STRUCTURE = {"group", "group_alias", "task", "aggregate_metric_list", "metadata"}
"""Keys of a group that are not meant for its tasks (lm_eval/api/group.py, GroupConfig)."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads a task file as data: `!function x.y` becomes the text `x.y`."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def data_files(value: Any, within: tuple[int, ...] = ()) -> list[Path]:
    """Every file on this disk that a task file names anywhere. within: what holds `value`; an anchor may hold itself."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        above = (*within, id(value))
        return [] if id(value) in within else [path for item in inner for path in data_files(item, above)]
    # os.path takes any text for a name; Path raises on a prompt that is longer than a name may be.
    return [Path(value)] if isinstance(value, str) and "/" in value and os.path.isfile(value) else []  # noqa: PTH113


def read_task(path: Path, depth: int = 0) -> dict[str, Any]:
    """A task file with its includes merged in; empty when it is no mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError, TypeError):
        return {}
    if not isinstance(data, dict):
        return {}
    include = data.pop("include", None)
    named = isinstance(include, str) and "\0" not in include
    return read_task(path.parent / include, depth + 1) | data if named and depth < 20 else data


def index(folder: Path) -> dict[str, Any]:
    """{"tasks": {name: [file, images, chance, dataset]}, "groups": {name: group}} of a folder's files; see `_group`."""
    tasks: dict[str, list[Any]] = {}
    groups: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*.yaml") if p.is_file()):
        if not re.search(r"^\s*(task|group|tag):", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
            continue
        data = read_task(path)
        if isinstance(data.get("group"), str) and isinstance(data.get("task"), list):
            groups[data["group"]] = _group(data, str(path))
        elif isinstance(data.get("task"), str):
            tasks[data["task"]] = _task(data, str(path))
            tags = data.get("tag") or []
            for tag in filter(lambda tag: isinstance(tag, str), tags if isinstance(tags, list) else [tags]):
                groups.setdefault(tag, {"file": "", "own": False, "members": []})["members"].append(data["task"])
    return {"tasks": tasks, "groups": groups}


def _task(data: dict[str, Any], file: str) -> list[Any]:
    about = data.get("metadata")
    chance = about.get("chance") if isinstance(about, dict) else None
    known = float(chance) if isinstance(chance, int | float) else None
    dataset = data.get("dataset_path")
    return [file, bool(data.get("doc_to_image")), known, dataset if isinstance(dataset, str) else None]


def _group(data: dict[str, Any], file: str) -> dict[str, Any]:
    """file; own: whether it overrides what its tasks say; members: names, groups, or tasks with what they say."""
    return {"file": file, "own": bool(set(data) - STRUCTURE), "members": [_member(one, file) for one in data["task"]]}


def _member(entry: Any, file: str) -> Any:
    if not isinstance(entry, dict):
        return str(entry)
    if "group" in entry:
        inside = _group(entry | {"task": entry["task"] if isinstance(entry.get("task"), list) else []}, file)
        return {"group": str(entry["group"])} | inside
    if not isinstance(entry.get("task"), str):
        return str(entry.get("task"))
    return {"task": entry["task"], "own": len(entry) > 1, "include": "include" in entry, "inline": _task(entry, file)}


@cache
def installed() -> dict[str, Any]:
    """The index of the installed lm-eval's own tasks."""
    spec = importlib.util.find_spec("lm_eval")
    version = environments.serve().version("lm-eval")
    if spec is None or not spec.submodule_search_locations:
        return {"tasks": {}, "groups": {}}
    kept = environments.cache_folder() / f"lm-eval-{version}-tasks-3.json"
    if not kept.is_file():
        files.write_json(kept, index(Path(spec.submodule_search_locations[0]) / "tasks"))
    return dict(json.loads(kept.read_text(encoding="utf-8")))


@cache
def of_folder(folder: Path) -> dict[str, Any]:
    return index(folder)


@dataclass(frozen=True)
class Leaf:
    """A task that a group holds."""

    key: str
    """lm-eval's name of it."""
    about: list[Any]
    """file, images, chance, dataset"""
    changed: bool
    """Whether a group says something of it that its own file does not."""


class Library:
    """Several indexes as one; of two with a name the first counts, and lm-eval's own are looked at last."""

    def __init__(self, near: list[dict[str, Any]]):
        self.near = near

    def _holds(self, part: str, name: str) -> Any:
        for one in self.near:
            if name in one[part]:
                return one[part][name]
        if any(name in one["tasks"] or name in one["groups"] for one in self.near):
            return None
        return installed()[part].get(name)

    def task(self, name: str) -> list[Any] | None:
        """file, images, chance and dataset of a task; None where there is none of that name."""
        found: list[Any] | None = self._holds("tasks", name)
        return found

    def group(self, name: str) -> dict[str, Any] | None:
        """A group or tag; None where there is none of that name."""
        found: dict[str, Any] | None = self._holds("groups", name)
        return found

    def names(self) -> list[str]:
        """Of all groups and tasks."""
        return [name for one in [*self.near, installed()] for part in ("groups", "tasks") for name in one[part]]

    def leaves(self, label: str, group: dict[str, Any], changed: bool = False, within: tuple[str, ...] = ()) -> Iterator[Leaf]:
        """The tasks of a group. Raises KeyError with a name that is not known, ValueError with what lm-eval does not read."""
        changed |= group["own"]
        for member in group["members"]:
            entry = member if isinstance(member, dict) else {"task": member, "own": False}
            name = entry.get("group") or entry["task"]
            if (known := self.group(name)) is not None and name not in within:
                yield from self.leaves(name, known, changed or entry["own"], (*within, name))
            elif "group" in entry:
                yield from self.leaves(f"{label}::{name}", entry, changed, within)
            elif (about := self.task(name)) is not None:
                yield Leaf(name, about, changed or entry["own"])
            elif "inline" not in entry:
                raise KeyError(name)
            elif entry["include"]:
                version = environments.serve().version("lm-eval")
                raise ValueError(
                    f"group {label} defines {name!r} in its own list with `include`, which lm-eval {version} does not read"
                )
            else:
                yield Leaf(f"{label}::{name}", entry["inline"], True)
