"""Which lm-eval tasks there are, told from their files alone: names, groups, fingerprints. Imports no lm-eval.

Three places are looked at: a folder the suite names, the tasks that ship here, and the installed lm-eval's own. The
last has over ten thousand files, so its index is made once for a version and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from harness.util import environments, files
from harness.util.errors import Fault, Refused, nearest
from harness.workloads.tasks import local_data

SHIPPED = Path(__file__).resolve().parent
DEMO_DATA = ("data.py", "drawing.py", "phrases.py")


@dataclass(frozen=True)
class Task:
    """One lm-eval task: its file, whether its documents carry images, and what its outcome depends on."""

    name: str
    file: Path
    images: bool
    chance: float | None
    """The share of right answers that guessing gives, where the task file says it."""
    dataset: str | None = None
    """The hub's name of its data set, or lm-eval's loader (`parquet`, `json`)."""
    local: Path | None = None
    """A folder on this disk that stands in for the hub's data set."""

    def fingerprint(self) -> str:
        """Hash of the folder's files, of a local copy of its data and, for data made by code, of what makes it."""
        total = hashlib.sha256()
        if self.local is not None:
            total.update(local_data.content(self.local).encode())
        for path in sorted(p for p in self.file.parent.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            total.update(str(path.relative_to(self.file.parent)).encode() + files.file_sha256(path).encode())
        for path in _data_files(_read(self.file)):
            total.update(files.file_sha256(path).encode())
        if self.file.is_relative_to(SHIPPED):
            for name in DEMO_DATA:
                total.update((environments.PACKAGE_ROOT / "harness" / "demo" / name).read_bytes())
            for package in ("numpy", "pillow", "scikit-learn"):
                total.update(metadata.version(package).encode())
        return total.hexdigest()[:16]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads a task file as data: `!function x.y` becomes the text `x.y`."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def _data_files(value: Any, within: tuple[int, ...] = ()) -> list[Path]:
    """Every file on this disk that a task file names anywhere. within: what holds `value`; an anchor may hold itself."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        above = (*within, id(value))
        return [] if id(value) in within else [path for item in inner for path in _data_files(item, above)]
    # os.path takes any text for a name; Path raises on a prompt that is longer than a name may be.
    return [Path(value)] if isinstance(value, str) and "/" in value and os.path.isfile(value) else []  # noqa: PTH113


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    """A task file with its includes merged in; empty when it is no mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError, TypeError):
        return {}
    if not isinstance(data, dict):
        return {}
    include = data.pop("include", None)
    named = isinstance(include, str) and "\0" not in include
    return _read(path.parent / include, depth + 1) | data if named and depth < 20 else data


def _index(folder: Path) -> dict[str, Any]:
    """{"tasks": {name: [file, images, chance, dataset]}, "groups": {name: [names]}} of a folder's files."""
    tasks: dict[str, list[Any]] = {}
    groups: dict[str, list[str]] = {}
    for path in sorted(p for p in folder.rglob("*.yaml") if p.is_file()):
        if not re.search(r"^\s*(task|group|tag):", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
            continue
        data = _read(path)
        if isinstance(data.get("group"), str) and isinstance(data.get("task"), list):
            groups[data["group"]] = [_member(t) for t in data["task"]]
        elif isinstance(data.get("task"), str):
            about = data.get("metadata")
            chance = about.get("chance") if isinstance(about, dict) else None
            known = float(chance) if isinstance(chance, int | float) else None
            dataset = data.get("dataset_path")
            tasks[data["task"]] = [
                str(path),
                bool(data.get("doc_to_image")),
                known,
                dataset if isinstance(dataset, str) else None,
            ]
            tags = data.get("tag") or []
            for tag in filter(lambda tag: isinstance(tag, str), tags if isinstance(tags, list) else [tags]):
                groups.setdefault(tag, []).append(data["task"])
    return {"tasks": tasks, "groups": groups}


def _member(entry: Any) -> str:
    return str(entry.get("task") or entry.get("group")) if isinstance(entry, dict) else str(entry)


@cache
def _installed() -> dict[str, Any]:
    """The index of the installed lm-eval's own tasks."""
    spec = importlib.util.find_spec("lm_eval")
    version = environments.serve().version("lm-eval")
    if spec is None or not spec.submodule_search_locations:
        return {"tasks": {}, "groups": {}}
    kept = environments.cache_folder() / f"lm-eval-{version}-tasks-2.json"
    if not kept.is_file():
        files.write_json(kept, _index(Path(spec.submodule_search_locations[0]) / "tasks"))
    return dict(json.loads(kept.read_text(encoding="utf-8")))


@cache
def _folder(folder: Path) -> dict[str, Any]:
    return _index(folder)


def find(names: Iterable[str], include: Path | None = None, datasets: Mapping[str, Path] | None = None) -> list[Task]:
    """The tasks that `names` (of tasks, groups or tags) stand for, each once, in order.

    datasets: folders that stand in for the hub's data sets, by name. Raises Refused with a fault for each unknown name.
    """
    copies = datasets or {}
    faults = []
    if include is not None and not include.is_dir():
        faults.append(Fault("accuracy.include_path", f"{include} is no folder"))
        include = None
    near = [_folder(p) for p in (include, SHIPPED) if p is not None]
    found: dict[str, Task] = {}

    def add(name: str, parents: tuple[str, ...]) -> None:
        for index in [*near, *([] if any(name in i["tasks"] or name in i["groups"] for i in near) else [_installed()])]:
            if name in index["groups"] and name not in parents:
                for member in index["groups"][name]:
                    add(member, (*parents, name))
                return
            if name in index["tasks"]:
                file, images, chance, dataset = index["tasks"][name]
                found.setdefault(name, Task(name, Path(file), images, chance, dataset, copies.get(dataset)))
                return
        known = [n for index in [*near, _installed()] for part in ("groups", "tasks") for n in index[part]]
        faults.append(Fault("accuracy.tasks", f"unknown task {name!r}" + nearest(name, known)))

    for name in names:
        add(name, ())
    Refused.if_any(faults)
    return list(found.values())


def dataset_faults(tasks: Iterable[Task], datasets: Mapping[str, Path]) -> list[Fault]:
    """Local copies that no task asks for, and folders that hold no data set."""
    used = dict.fromkeys(task.dataset for task in tasks if task.dataset)
    faults = []
    for name, folder in datasets.items():
        where = f"accuracy.datasets.{name}"
        if name not in used:
            known = nearest(name, used) or f"; they use {', '.join(used) or 'none'}"
            faults.append(Fault(where, f"is the data set of none of the tasks{known}"))
        elif not local_data.parquet_files(folder):
            right = f"get it: python -m harness fetch dataset {name}"
            faults.append(
                Fault(where, f"{folder} holds no .parquet file" if folder.is_dir() else f"{folder} is no folder", right)
            )
    return faults
