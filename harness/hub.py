"""The two hubs that models and data come from: what a repository holds, and one of its files brought here.

The one file that touches the ModelScope client. That is `modelscope_hub`: `modelscope` is a shell around it since 1.40.
The token comes from the environment alone (MODELSCOPE_API_TOKEN, HF_TOKEN), never from what a login left on the disk,
and stands in no message. Heavy imports stand inside the functions.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from harness.errors import CellFailed, Fault, Refused

Kind = Literal["model", "dataset"]
Moved = Callable[[int], None]
"""Called with how many bytes of a file are here now; less than before when a part had to be thrown away."""

PAUSES = (1.0, 3.0)
"""Seconds waited before a file is tried again; counted anew whenever bytes have arrived since the last failure."""
TIMEOUT = 20.0
"""Seconds until a question to the Hugging Face Hub is given up."""
MODELSCOPE_SETTINGS = {
    "MODELSCOPE_API_MAX_RETRIES": "1",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "3",
    # Retries are counted here (PAUSES): the client counts over a file's whole life, which a flaky line uses up.
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
    # One hour a file, the client's own limit, is too little for 5 GB on a slow line.
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": str(7 * 24 * 3600),
    "TQDM_DISABLE": "1",
}
"""What the client reads from the environment when it is imported; what the user has set stays."""


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
        return not self.digest or self.digest == _digest(place, self.digest.partition(":")[0])


class Unreachable(CellFailed):
    """The hub does not answer, or only with errors of its own; the same command may work later."""


class _Stopped(Exception):
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


def hub(source: str) -> Hub:
    """The hub of a name; `modelscope` or `huggingface`. Raises Refused when its client is not installed."""
    return ModelScope() if source == "modelscope" else HuggingFace()


class ModelScope:
    """modelscope.cn, or the host MODELSCOPE_ENDPOINT names."""

    label, default_revision, variable = "ModelScope", "master", "MODELSCOPE_API_TOKEN"

    def __init__(self) -> None:
        api, config, self._errors = _modelscope_client()

        class Config(config.HubConfig):  # type: ignore[name-defined,misc]
            def get_session_id(self) -> str:
                """The client would keep an identifier of this installation under ~/.modelscope; nothing needs it."""
                return uuid.uuid4().hex

        self._token = os.environ.get(self.variable, "")
        settings = Config(token=self._token)
        self.host = urlsplit(settings.endpoint).netloc
        self._api = api.HubApi(config=settings)

    def files(self, repo: Repo) -> list[RemoteFile]:
        try:
            listed = self._api.list_repo_files(repo.name, repo.kind, revision=repo.revision)
        except (self._errors.NotExistError, self._errors.InvalidParameter):
            raise self._absent(repo) from None
        except Exception as error:
            raise self._told(error, repo) from None
        if not listed:  # the client takes an answer that says `Success: false` for an empty repository
            raise self._absent(repo)
        return [
            RemoteFile(f.path, f.size or 0, f"sha256:{f.sha256.lower()}" if f.sha256 else "")
            for f in listed
            if f.type != "tree"
        ]

    def download(self, repo: Repo, file: RemoteFile, folder: Path, moved: Moved, stop: threading.Event) -> None:
        if not file.digest:  # nothing would tell whether an old part and a new rest belong together
            (folder / f"{file.path}.incomplete").unlink(missing_ok=True)
        here = 0

        class Counter:  # the client makes one for each try, and tells each time how much is there already
            def __init__(self, *_: object):
                nonlocal here
                here = 0

            def update(self, size: int) -> None:
                nonlocal here
                here += size
                moved(here)

            def end(self) -> None:
                pass

        def once() -> None:
            self._api.downloader.download_file(
                repo.name,
                repo.kind,
                file.path,
                revision=repo.revision,
                local_dir=folder,
                cache_dir=folder.parent,
                file_size=file.size or None,
                expected_sha256=file.digest.removeprefix("sha256:") or None,
                progress_callbacks=[Counter],
                _cancel_event=stop,
            )

        try:
            _patiently(once, lambda: here, self._passing, stop)
        except Exception as error:
            raise self._told(error, repo, file) from None

    def _passing(self, error: Exception) -> bool:
        import requests

        return bool(getattr(error, "retryable", False)) or isinstance(error, requests.ConnectionError | requests.Timeout)

    def _absent(self, repo: Repo) -> Exception:
        """Why a listing came back empty or not at all: no repository, no revision, or nothing in it."""
        where = f"{repo} at {self.host}"
        try:
            self._api.legacy.get_repo_info(repo.name, repo.kind)
            known = [str(r.get("Revision")) for r in self._api.legacy.list_revisions(repo.name, repo.kind)]
        except self._errors.NotExistError:
            return _missing(where, repo, self.variable, bool(self._token))
        except Exception as error:
            return self._told(error, repo)
        if repo.revision not in known:
            return _unknown_revision(where, repo, known)
        return Refused(Fault(where, f"revision {repo.revision} holds no files"))

    def _told(self, error: Exception, repo: Repo, file: RemoteFile | None = None) -> Exception:
        """The client's error as one of ours, in one line."""
        import requests

        errors, where = self._errors, f"{repo} at {self.host}"
        if isinstance(error, errors.AuthenticationError):
            return _unauthorized(where, self.variable, bool(self._token))
        if isinstance(error, errors.PermissionDeniedError):
            return _forbidden(where, self.variable, bool(self._token))
        if isinstance(error, errors.NotExistError):
            what = f"{file.path} is listed, but not there" if file else "is not there"
            return CellFailed(f"{where}: {what}")
        if isinstance(error, errors.FileIntegrityError):
            return _damaged(where, file)
        if isinstance(error, errors.HubError | requests.RequestException):
            status = getattr(error, "status_code", None)
            return _unreachable(self.host, error, status)
        return error


class HuggingFace:
    """huggingface.co, or the host HF_ENDPOINT names."""

    label, default_revision, variable = "the Hugging Face Hub", "main", "HF_TOKEN"

    def __init__(self) -> None:
        try:
            import huggingface_hub
        except ImportError:
            raise Refused(Fault("the Hugging Face Hub's client", "is not installed", "pip install huggingface_hub")) from None
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # what matters is in the errors
        self._hub = huggingface_hub
        self._token: str | Literal[False] = os.environ.get(self.variable) or False  # False: not what a login left either
        self._endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        self.host = urlsplit(self._endpoint).netloc
        self._commits: dict[Repo, str] = {}

    def files(self, repo: Repo) -> list[RemoteFile]:
        try:
            api = self._hub.HfApi(endpoint=self._endpoint, token=self._token)
            info: Any = api.repo_info(
                repo.name, repo_type=repo.kind, revision=repo.revision, files_metadata=True, timeout=TIMEOUT
            )
        except Exception as error:
            raise self._told(error, repo) from None
        self._commits[repo] = info.sha or repo.revision  # so that all files are of one commit
        return [
            RemoteFile(f.rfilename, f.size or 0, f"sha256:{f.lfs.sha256}" if f.lfs else f"git:{f.blob_id}")
            for f in info.siblings or []
        ]

    def download(self, repo: Repo, file: RemoteFile, folder: Path, moved: Moved, stop: threading.Event) -> None:
        from tqdm.std import tqdm

        class Bar(tqdm):  # type: ignore[misc,type-arg]
            """Draws nothing; counts, and is where a download can be ended."""

            def __init__(self, *args: Any, **named: Any):
                named.pop("name", None)
                super().__init__(*args, **(named | {"disable": True}))
                self.here = self.n

            def update(self, n: float | None = 1) -> None:
                if stop.is_set():
                    raise _Stopped
                self.here += n or 0
                moved(int(self.here))

        try:
            got = Path(
                self._hub.hf_hub_download(
                    repo.name,
                    file.path,
                    repo_type=repo.kind,
                    revision=self._commits.get(repo, repo.revision),
                    local_dir=folder,
                    token=self._token,
                    endpoint=self._endpoint,
                    tqdm_class=Bar,
                )
            )
        except _Stopped:
            raise
        except Exception as error:
            raise self._told(error, repo, file) from None
        if not file.is_at(got):  # this client compares sizes alone
            got.unlink()
            raise _damaged(f"{repo} at {self.host}", file)

    def _told(self, error: Exception, repo: Repo, file: RemoteFile | None = None) -> Exception:
        """The client's error as one of ours, in one line."""
        from huggingface_hub import errors

        where, token = f"{repo} at {self.host}", bool(self._token)
        if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.GatedRepoError):
            return _forbidden(where, self.variable, token)
        if isinstance(error, errors.RepositoryNotFoundError):
            return _missing(where, repo, self.variable, token)
        if isinstance(error, errors.RevisionNotFoundError):
            return _unknown_revision(where, repo, [])
        if isinstance(error, errors.RemoteEntryNotFoundError):
            return CellFailed(f"{where}: {file.path if file else 'a file'} is listed, but not there")
        if status in (401, 403):
            return (_unauthorized if status == 401 else _forbidden)(where, self.variable, token)
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        return _unreachable(self.host, error, status)


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG)
"""What the disk says, never the network."""


def _modelscope_client() -> tuple[Any, Any, Any]:
    for name, value in MODELSCOPE_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from modelscope_hub import api, config, errors
    except ImportError:
        right = "pip install modelscope==1.40.2 modelscope-hub==0.5.1, or use --from huggingface"
        raise Refused(Fault("ModelScope's client", "is not installed", right)) from None
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # what matters is in the errors
    return api, config, errors


def _patiently(
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


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        if kind == "sha256":
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
        while part := file.read(1 << 20):
            blob.update(part)
        return f"git:{blob.hexdigest()}"


def _missing(where: str, repo: Repo, variable: str, token: bool) -> Refused:
    right = f"check the name; if it is private, {'the token must be its owner’s' if token else f'set {variable}'}"
    return Refused(Fault(where, f"there is no such {repo.kind}", right))


def _unknown_revision(where: str, repo: Repo, known: list[str]) -> Refused:
    return Refused(Fault(where, f"there is no revision {repo.revision}", f"it has {', '.join(known)}" if known else ""))


def _unauthorized(where: str, variable: str, token: bool) -> Refused:
    what = f"the token in {variable} is wrong or has run out" if token else "can be read only with a token"
    return Refused(Fault(where, what, f"set {variable} to a token of an account that may read it"))


def _forbidden(where: str, variable: str, token: bool) -> Refused:
    what = f"the account of the token in {variable} may not read it" if token else "may not be read without a token"
    right = "ask for access on its page" if token else f"ask for access on its page and set {variable}"
    return Refused(Fault(where, what, right))


def _damaged(where: str, file: RemoteFile | None) -> CellFailed:
    path = file.path if file else "a file"
    return CellFailed(f"{where}: what arrives of {path} is not what the hub lists (size or hash); try again later")


def _unreachable(host: str, error: Exception, status: int | None) -> Unreachable:
    """The reason in a few words: a client's own text is long, and might quote what was sent."""
    if status:
        return Unreachable(f"{host} answers with status {status}")
    text = ""
    with contextlib.suppress(Exception):
        text = f"{error} {error.__cause__ or error.__context__ or ''}"
    found = re.search(r"\[Errno -?\d+\] ([A-Za-z ,]+)|(timed out)|(SSL|certificate)|(HF_HUB_OFFLINE)", text)
    reason = next((g for g in found.groups() if g), "") if found else type(error).__name__
    return Unreachable(f"{host} cannot be reached ({reason.strip()})")
