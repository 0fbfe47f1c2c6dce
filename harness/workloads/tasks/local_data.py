"""A folder of parquet files that stands in for a data set of the hub, so that its tasks run offline.

The folder has the hub's layout, as `python -m harness fetch dataset OWNER/NAME` leaves it:
`CONFIG/SPLIT-00000-of-00001.parquet`, `data/SPLIT-00000-of-00001.parquet`, `CONFIG/SPLIT/0000.parquet` or `SPLIT.parquet`.
A README.md whose front matter lists `configs` says it better than the names do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.util import environments, files


def parquet_files(folder: Path) -> list[Path]:
    """All parquet files below `folder`, in name order; none when it is no folder."""
    return sorted(p for p in folder.rglob("*.parquet") if p.is_file()) if folder.is_dir() else []


def content(folder: Path) -> str:
    """SHA-256 over names and contents of the parquet files and the README, kept for as long as sizes and times stay."""
    found = [*parquet_files(folder), *(p for p in [folder / "README.md"] if p.is_file())]
    about = [[str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in found]
    kept = environments.cache_folder() / "hashes" / f"{files.digest([str(folder.resolve()), about])}.txt"
    if not kept.is_file():
        total = hashlib.sha256()
        for path in found:
            total.update(f"{path.relative_to(folder)}\0{files.file_sha256(path)}\n".encode())
        files.write_text(kept, total.hexdigest())
    return kept.read_text()


def splits(folder: Path, config: str | None) -> dict[str, list[Path]]:
    """The parquet files of each split of one configuration (None: the only or default one); raises ValueError."""
    listed = _listed(folder, config)
    if listed:
        return listed
    inside = {p.parts[0] for f in parquet_files(folder) if len((p := f.relative_to(folder)).parts) > 1}
    if config is not None and config not in inside and inside - {"data"}:
        raise ValueError(f"{folder} has no configuration {config!r}: there are {', '.join(sorted(inside))}")
    place = folder / config if config in inside else folder
    found: dict[str, list[Path]] = {}
    for path in parquet_files(place):
        found.setdefault(_split_name(path), []).append(path)
    return found


def _split_name(path: Path) -> str:
    """`validation` of `validation-00000-of-00001.parquet`, `validation.parquet` and `validation/0000.parquet`."""
    stem = re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", path.stem)
    return path.parent.name if stem.isdigit() else stem


def _listed(folder: Path, config: str | None) -> dict[str, list[Path]]:
    """What the README's front matter says of a configuration; empty when it says nothing."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, IndexError):
        return {}
    configs = front.get("configs") if isinstance(front, dict) else None
    if not isinstance(configs, list):
        return {}
    for entry in configs:
        if not isinstance(entry, dict) or (config is not None and entry.get("config_name") != config):
            continue
        if config is None and len(configs) > 1 and entry.get("config_name") != "default" and not entry.get("default"):
            continue
        parts = [p for p in entry.get("data_files") or [] if isinstance(p, dict) and isinstance(p.get("path"), str | list)]
        found = {
            str(part.get("split")): sorted(p for pattern in _list(part["path"]) for p in folder.glob(pattern)) for part in parts
        }
        if any(found.values()):
            return found
    return {}


def _list(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


class Splits(Mapping[str, Any]):
    """A data set as lm-eval wants it, {split: datasets.Dataset}; a split is read when it is asked for."""

    def __init__(self, folder: Path, config: str | None):
        self._files, self._read = splits(folder, config), dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._read:
            self._read[name] = _read(self._files[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _read(paths: list[Path]) -> Any:
    """One split as a datasets.Dataset, in memory; columns of {bytes, path} are pictures whatever the file says."""
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    table = datasets.Dataset(pa.concat_tables([parquet.read_table(path) for path in paths], promote_options="default"))
    for name, feature in table.features.items():
        if isinstance(feature, dict) and feature.keys() == {"bytes", "path"}:
            table = table.cast_column(name, datasets.Image())
    return table
