"""Which lm-eval tasks there are, told from their files alone: names, groups, fingerprints. Imports no lm-eval.

Three places are looked at: a folder the suite names, the tasks that ship here, and the installed lm-eval's own. The
last has over ten thousand files, so its index is made once for a version and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.util import environments, files
from harness.util.errors import Fault, Refused, nearest
from harness.workloads.tasks import local_data, own_questions
from harness.workloads.tasks.index import Leaf, Library, data_files, of_folder, read_task

if TYPE_CHECKING:
    from harness.workloads.accuracy import AccuracySpec

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
    key: str = ""
    """lm-eval's own name of it."""
    group: str | None = None
    """The group through which it is loaded, where that says something of it that its own file does not."""
    group_file: Path | None = None
    """Where that group is defined."""

    def fingerprint(self) -> str:
        """Hash of the folder's files, of a local copy of its data and, for data made by code, of what makes it."""
        total = hashlib.sha256()
        if self.local is not None:
            total.update(local_data.content(self.local).encode())
        for path in sorted(p for p in self.file.parent.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            total.update(str(path.relative_to(self.file.parent)).encode() + files.file_sha256(path).encode())
        for path in data_files(read_task(self.file)):
            total.update(files.file_sha256(path).encode())
        if self.group_file is not None:
            total.update(f"{self.group}\0{self.key}\0".encode() + files.file_sha256(self.group_file).encode())
        if self.file.is_relative_to(SHIPPED):
            for name in DEMO_DATA:
                total.update((environments.PACKAGE_ROOT / "harness" / "demo" / name).read_bytes())
            for package in ("numpy", "pillow", "scikit-learn"):
                total.update(metadata.version(package).encode())
        return total.hexdigest()[:16]


def of_spec(spec: AccuracySpec, names: Iterable[str] | None = None) -> list[Task]:
    """The tasks that a suite's accuracy section asks, or those of these names; see `find`."""
    if spec.questions is None:
        return find(spec.tasks if names is None else names, spec.include_path, spec.datasets)
    own = own_questions.name_of(spec.questions)
    wanted = [*spec.tasks, own] if names is None else list(names)
    found = find([name for name in wanted if name != own], spec.include_path, spec.datasets)
    if any(task.name == own for task in found) or own in spec.tasks:
        raise Refused(
            Fault("accuracy.questions", f"{spec.questions} would be a second task {own}", "give the file another name")
        )
    return [*found, *(find([own], own_questions.task_folder(spec.questions)) if own in wanted else ())]


def find(names: Iterable[str], include: Path | None = None, datasets: Mapping[str, Path] | None = None) -> list[Task]:
    """The tasks that `names` (of tasks, groups or tags) stand for, each once, in order.

    datasets: folders that stand in for the hub's data sets, by name. Raises Refused with a fault for each unknown name.
    """
    copies = datasets or {}
    faults = []
    if include is not None and not include.is_dir():
        faults.append(Fault("accuracy.include_path", f"{include} is no folder"))
        include = None
    library = Library([of_folder(p) for p in (include, SHIPPED) if p is not None])
    found: dict[str, Task] = {}

    def add(about: list[Any], name: str, key: str, group: str | None, group_file: str = "") -> None:
        file, images, chance, dataset = about
        place = Path(group_file) if group_file else None
        found.setdefault(name, Task(name, Path(file), images, chance, dataset, copies.get(dataset), key, group, place))

    for name in names:
        # A task that a group says something of is asked through that group: GROUP::TASK.
        top = name.partition("::")[0]
        group = library.group(top)
        if group is None or (name != top and library.task(name) is not None):
            about = library.task(name)
            if about is None:
                faults.append(Fault("accuracy.tasks", f"unknown task {name!r}" + nearest(name, library.names())))
            else:
                add(about, name, name, None)
            continue
        try:
            leaves = [(_name(top, leaf), leaf) for leaf in library.leaves(top, group, within=(top,))]
        except KeyError as error:
            faults.append(
                Fault("accuracy.tasks", f"unknown task {error.args[0]!r}" + nearest(str(error.args[0]), library.names()))
            )
            continue
        except ValueError as error:
            faults.append(Fault("accuracy.tasks", str(error), "give that task a file of its own"))
            continue
        mine = [(told, leaf) for told, leaf in leaves if name in (top, told)]
        if not mine:
            faults.append(Fault("accuracy.tasks", f"unknown task {name!r}" + nearest(name, [told for told, _ in leaves])))
        for told, leaf in mine:
            add(leaf.about, told, leaf.key, top if leaf.changed else None, group["file"] if leaf.changed else "")
    Refused.if_any(faults)
    return list(found.values())


def _name(top: str, leaf: Leaf) -> str:
    if not leaf.changed or leaf.key.startswith(f"{top}::"):
        return leaf.key
    return f"{top}::{leaf.key}"


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
