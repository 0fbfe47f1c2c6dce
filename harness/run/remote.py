"""A store that machines reach by fsspec where they share no folder: checkpoints go there, Records come back.

STORE/checkpoints/CONTENT/...       a checkpoint's files, by the hash of its content; `whole` is written last
STORE/NAME/records/, samples/, logs/    a Run's, as in its folder
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from harness.plan.plan import PlannedVariant
from harness.plan.schedule import Chain
from harness.record.folder import RunFolder
from harness.record.records import Noun, Record
from harness.util import environments, files
from harness.util.errors import CellFailed
from harness.util.scratch import Scratch

LIST_S = 1.0
"""Seconds for which a list of the store's Records is believed."""


class Store:
    """One address, for example s3://bucket/folder. Raises OSError, or what its client raises, when it does not answer."""

    def __init__(self, address: str):
        from fsspec.core import url_to_fs

        self.system, self.root = url_to_fs(address)

    def send(self, variant: PlannedVariant) -> None:
        """Put a checkpoint there, unless it is there whole."""
        place = f"{self.root}/checkpoints/{variant.content}"
        if self.system.exists(f"{place}/whole"):
            return
        self.system.makedirs(place, exist_ok=True)
        for path in sorted(variant.path.iterdir()):
            if path.is_file():
                self.system.put_file(str(path), f"{place}/{path.name}")
        self.system.pipe_file(f"{place}/whole", b"")

    def brought(self, variant: PlannedVariant) -> PlannedVariant:
        """The variant with its checkpoint in this machine's cache folder; the caller checks its content."""
        folder = environments.cache_folder() / "checkpoints" / str(variant.content)
        if not folder.is_dir():
            try:
                with files.new_folder(folder) as new:
                    for name in self.system.ls(f"{self.root}/checkpoints/{variant.content}", detail=False):
                        self.system.get_file(name, str(new / Path(name).name))
                    (new / "whole").unlink()
            except OSError as error:
                if not folder.is_dir():  # else another process of this machine was quicker
                    raise CellFailed(f"{variant.name} could not be brought from {self.root}: {error}") from None
        return replace(variant, path=folder)


class Mirrored(RunFolder):
    """A Run whose Records are in a store too: what is added goes there, what is asked for and is not here comes from there."""

    def __init__(self, path: Path, store: Store, name: str):
        super().__init__(path)
        self.store, self.name = store, name
        self._listed, self._names = 0.0, frozenset[str]()

    def record(self, key: str) -> Record | None:
        found = super().record(key)
        if (found is None or found.status != "done") and self._there(key):
            for there, here in zip(self._places(key), self._here(key), strict=True):
                if self.store.system.exists(there):
                    files.write_bytes(here, self.store.system.cat_file(there))
            found = super().record(key)
        return found

    def add(self, record: Record, samples: Iterable[Noun] = ()) -> Record:
        made = super().add(record, samples)
        self._send(record.cell.key)
        return made

    def share(self, keys: Iterable[str]) -> None:
        """Send Records that are here and not there: those that were taken over from another Run."""
        for key in keys:
            if (found := self.record(key)) is not None and found.status == "done" and not self._there(key):
                self._send(key)

    def _send(self, key: str) -> None:
        for there, here in zip(self._places(key), self._here(key), strict=True):
            self._put(here, there)

    def put_logs(self) -> None:
        """Send what engines printed."""
        for path in sorted(self.logs.glob("*")):
            self._put(path, f"{self.store.root}/{self.name}/logs/{path.name}")

    def _put(self, here: Path, there: str) -> None:
        if here.is_file():
            self.store.system.makedirs(there.rpartition("/")[0], exist_ok=True)
            self.store.system.pipe_file(there, here.read_bytes())

    def _places(self, key: str) -> tuple[str, str]:
        """The samples, then the Record that counts them, as everywhere."""
        run = f"{self.store.root}/{self.name}"
        return f"{run}/samples/{key}.jsonl", f"{run}/records/{key}.json"

    def _here(self, key: str) -> tuple[Path, Path]:
        return self.samples_path(key), self.path / "records" / f"{key}.json"

    def _there(self, key: str) -> bool:
        if time.monotonic() - self._listed > LIST_S:
            try:
                self.store.system.invalidate_cache()
                listed = self.store.system.ls(f"{self.store.root}/{self.name}/records", detail=False)
            except FileNotFoundError:
                listed = []
            self._names, self._listed = frozenset(Path(name).stem for name in listed), time.monotonic()
        return key in self._names


@contextlib.contextmanager
def here(chain: Chain) -> Iterator[tuple[Chain, RunFolder]]:
    """A chain as this machine can measure it, and the Run's folder: the shared ones, or copies from the store."""
    if chain.store is None:
        yield chain, RunFolder(chain.folder)
        return
    store = Store(chain.store)
    with Scratch("run") as place:
        folder = Mirrored(place, store, chain.folder.name)
        local = replace(chain, folder=folder.path)
        missing = any((r := folder.record(c.id.key)) is None or r.status != "done" for c in chain.cells)
        if missing:
            groups = tuple(replace(group, variant=store.brought(group.variant)) for group in chain.groups)
            local = replace(local, groups=groups)
        try:
            yield local, folder
        finally:
            folder.put_logs()


def of_run(folder: RunFolder, address: str | None) -> RunFolder:
    """The Run as the process that plans it sees it: itself, or with what the store has of it."""
    return folder if address is None else Mirrored(folder.path, Store(address), folder.path.name)


def send(chains: Collection[Chain], folder: Mirrored) -> None:
    """Put into the store what chains need: their checkpoints, and the answers they start from."""
    for variant in {group.variant.content: group.variant for chain in chains for group in chain.groups}.values():
        folder.store.send(variant)
    folder.share({key for chain in chains for key in chain.reference.values()})
