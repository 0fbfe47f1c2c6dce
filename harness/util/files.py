"""Files that are whole or absent: atomic writes, content hashes, a folder that appears at once, a lock.

Knows nothing of the harness's own nouns, so every package may use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) so that a reader sees the old file or the new one, never a part. Makes missing parents."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """`write_text` of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            error.filename, error.filename2 = (
                str(path),
                None,
            )  # a full disk has no name, and the temporary one tells nobody anything
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_text` of `value` as indented JSON, keys in the order given."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, there or not, or None. Tried, not read from its mode: root may write
    where /proc or a disk mounted read-only takes nothing."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists() or p.is_symlink())
    if not place.exists():
        return f"{place} is a link to nothing"
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=place) as tried:
            (Path(tried) / "x").write_bytes(bytes(4096))  # a full disk may still take a folder
            return None
    except OSError as error:
        return f"{place} takes no new file ({error.strerror})"


def digest(value: Any, length: int = 16) -> str:
    """A hash of a JSON value, independent of key order: the first `length` hex digits of its SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


PIECE = 16 << 20
"""Bytes hashed at a time. Reading and hashing leave Python's lock to other threads and take it back between pieces;
beside a busy thread each taking back can wait for 5 ms, so the pieces are large."""
HASHERS = 4
"""Files hashed side by side: the weights of a model are a handful of files."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    total = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        piece = memoryview(bytearray(max(1, min(PIECE, path.stat().st_size))))
        while count := file.readinto(piece):
            total.update(piece[:count])
    return total.hexdigest()


def files_sha256(folder: Path, skip: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of each of a folder's files (not its subfolders) by name, in name order; several are hashed at a time."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and p.name not in skip)
    with ThreadPoolExecutor(HASHERS) as pool:
        return {path.name: found for path, found in zip(paths, pool.map(file_sha256, paths), strict=True)}


def folder_sha256(folder: Path, skip: tuple[str, ...] = ()) -> str:
    """SHA-256 over the names and contents of a folder's files (not its subfolders), in name order."""
    return joined_sha256(files_sha256(folder, skip))


def joined_sha256(files: Mapping[str, str]) -> str:
    """What `folder_sha256` gives, from the hashes of the folder's files."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0{files[name]}\n".encode())
    return total.hexdigest()


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `final` and rename it to `final` when the block ends well; else remove it."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def shown(path: Path) -> str:
    """A path as people and stored files see it: from the current folder where it lies below it, else in full."""
    with contextlib.suppress(ValueError, RuntimeError, OSError):  # RuntimeError: a loop of links
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


class Locked(Exception):
    """Another process holds the lock; `holder` is its process id, or "unknown"."""

    def __init__(self, path: Path, holder: str):
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder


def held(path: Path) -> bool:
    """Whether another process holds a lock on `path` for itself. Creates nothing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def lock(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold a lock on `path` for the block; raises Locked at once when another process has it.

    An exclusive lock keeps everybody else out, a shared one those who want it for themselves. The kernel drops the lock
    when its holder dies, however it dies, so none is ever left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Locked(path, file.read().strip() or "unknown") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
