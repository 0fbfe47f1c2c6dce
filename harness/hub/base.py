"""What a hub is asked for, in words of our own: repositories, files, errors, patience."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from harness.util.errors import CellFailed, Fault, Refused

Kind = Literal["model", "dataset"]
Moved = Callable[[int], None]
"""Called with how many bytes of a file are here now; less than before when a part had to be thrown away."""

PAUSES = (1.0, 3.0)
"""Seconds waited before a file is tried again; counted anew whenever bytes have arrived since the last failure."""
LARGEST_READ = 16 << 20
"""Bytes of a file that is read into memory, a card or results; a larger one is neither."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG)
"""What the disk says, never the network."""


@dataclass(frozen=True)
class Repo:
    """A repository at a revision."""

    kind: Kind
    name: str
    """OWNER/NAME."""
    revision: str
    """A branch, a tag, or (Hugging Face) a commit."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it."""

    path: str
    """Its place in the repository, with slashes."""
    size: int
    """Bytes; 0 also where the hub does not know."""
    digest: str = ""
    """`sha256:HEX`, or `git:HEX` (SHA-1 of the git blob); empty where the hub tells none."""

    def is_at(self, place: Path) -> bool:
        """Whether `place` holds this file, whole: the size and, where the hub tells one, the digest."""
        if not place.is_file() or (self.size and place.stat().st_size != self.size):
            return False
        return not self.digest or self.digest == digest(place, self.digest.partition(":")[0])


@dataclass(frozen=True)
class Change:
    """A file as a commit makes it."""

    path: str
    """Its place in the repository, with slashes."""
    content: bytes | Path
    """What it holds, or the file that holds it."""
    size: int
    """Bytes."""
    sha256: str
    """64 hex digits."""

    @classmethod
    def of(cls, path: str, content: bytes | Path) -> Change:
        """Size and hash are read from the content."""
        if isinstance(content, bytes):
            return cls(path, content, len(content), hashlib.sha256(content).hexdigest())
        return cls(path, content, content.stat().st_size, digest(content, "sha256").removeprefix("sha256:"))

    def data(self) -> bytes:
        """All of it, in memory."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


class Unreachable(CellFailed):
    """The hub does not answer, or only with errors of its own; the same command may work later."""


class Uncertain(CellFailed):
    """The hub broke off before it said whether the commit was made: read again to know."""


class Stopped(Exception):
    """Another file failed, or the user interrupted."""


class Hub(Protocol):
    """What `fetch` needs of a hub."""

    label: str
    """For people."""
    host: str
    """The machine that is asked."""
    default_revision: str

    def files(self, repo: Repo) -> list[RemoteFile]:
        """What the repository holds.

        Raises Refused when it is not there, may not be read, or lacks the revision; Unreachable when the hub is down.
        """

    def download(self, repo: Repo, file: RemoteFile, folder: Path, moved: Moved, stop: threading.Event) -> None:
        """Bring one file under `folder`, where it appears only when whole; what an earlier call left is gone on with.

        Raises as `files` does, CellFailed when what arrives is not what is listed, OSError for the disk's own faults.
        """


def patiently(
    once: Callable[[], None], here: Callable[[], int], passing: Callable[[Exception], bool], stop: threading.Event
) -> None:
    """Call `once` until it ends well, or fails for good, or has failed len(PAUSES) + 1 times without new bytes."""
    pauses, best = list(PAUSES), -1
    while True:
        try:
            return once()
        except Exception as error:
            if not passing(error) or stop.is_set():
                raise
            if best < here():
                pauses, best = list(PAUSES), here()
            if not pauses:
                raise
            stop.wait(pauses.pop(0))


def digest(path: Path, kind: str) -> str:
    """A file's digest as `RemoteFile.digest` writes it; kind: `sha256` or `git`."""
    with path.open("rb") as file:
        if kind == "sha256":
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
        while part := file.read(1 << 20):
            blob.update(part)
        return f"git:{blob.hexdigest()}"


def missing(where: str, repo: Repo, variable: str, token: bool) -> Refused:
    """There is no such repository, or the account may not know that there is."""
    right = f"check the name; if it is private, {'the token must be its owner’s' if token else f'set {variable}'}"
    return Refused(Fault(where, f"there is no such {repo.kind}", right))


def unknown_revision(where: str, repo: Repo, known: list[str]) -> Refused:
    """The repository has no such branch or tag."""
    return Refused(Fault(where, f"there is no revision {repo.revision}", f"it has {', '.join(known)}" if known else ""))


def unauthorized(where: str, variable: str, token: bool) -> Refused:
    """No token, or a wrong one."""
    what = f"the token in {variable} is wrong or has run out" if token else "can be read only with a token"
    return Refused(Fault(where, what, f"set {variable} to a token of an account that may read it"))


def forbidden(where: str, variable: str, token: bool) -> Refused:
    """A token that may not do what was asked."""
    what = f"the account of the token in {variable} may not read it" if token else "may not be read without a token"
    right = "ask for access on its page" if token else f"ask for access on its page and set {variable}"
    return Refused(Fault(where, what, right))


def damaged(where: str, file: RemoteFile | None) -> CellFailed:
    """What arrived differs from what is listed."""
    path = file.path if file else "a file"
    return CellFailed(f"{where}: what arrives of {path} is not what the hub lists (size or hash); try again later")


def unreachable(host: str, error: Exception, status: int | None) -> Unreachable:
    """The reason in a few words: a client's own text is long, and might quote what was sent."""
    if status:
        return Unreachable(f"{host} answers with status {status}")
    text = ""
    with contextlib.suppress(Exception):
        text = f"{error} {error.__cause__ or error.__context__ or ''}"
    match = re.search(r"\[Errno -?\d+\] ([A-Za-z ,]+)|(timed out)|(SSL|certificate)|(HF_HUB_OFFLINE)", text)
    reason = next((g for g in match.groups() if g), "") if match else type(error).__name__
    return Unreachable(f"{host} cannot be reached ({reason.strip()})")
