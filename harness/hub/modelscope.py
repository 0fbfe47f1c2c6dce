"""ModelScope: what `fetch` reads from. The one file that imports its client, `modelscope_hub` (`modelscope` is a
shell around it since 1.40); modelscope_branch.py calls the same one."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.hub.base import (
    Moved,
    RemoteFile,
    Repo,
    damaged,
    forbidden,
    missing,
    patiently,
    unauthorized,
    unknown_revision,
    unreachable,
)
from harness.util.errors import CellFailed, Fault, Refused

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


VERSION = "0.5.1"
"""The client that writing was built for: it uses parts that the client calls private."""


T = TypeVar("T")


class ModelScope:
    """modelscope.cn, or the host MODELSCOPE_ENDPOINT names. The token comes from MODELSCOPE_API_TOKEN unless it is given."""

    label, default_revision, variable = "ModelScope", "master", "MODELSCOPE_API_TOKEN"

    def __init__(self, token: str | None = None) -> None:
        api, config, self._errors = client()

        class Config(config.HubConfig):  # type: ignore[name-defined,misc]
            def get_session_id(self) -> str:
                """The client would keep an identifier of this installation under ~/.modelscope; nothing needs it."""
                return uuid.uuid4().hex

        self._token = os.environ.get(self.variable, "").strip() if token is None else token
        if not self._token.isascii() or any(c.isspace() or not c.isprintable() for c in self._token):
            # The client would raise an error that quotes it.
            raise Refused(Fault(self.variable, "holds characters that no token has", "copy it again"))
        settings = Config(token=self._token)
        self._endpoint = settings.endpoint
        try:
            self.host = urlsplit(self._endpoint).netloc.rpartition("@")[2]
        except ValueError as error:
            raise Refused(
                Fault("MODELSCOPE_ENDPOINT", f"is no address ({error})", "for example https://modelscope.cn")
            ) from None
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
        return [remote(f) for f in listed if f.type != "tree"]

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
            patiently(once, lambda: here, self._passing, stop)
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
            return missing(where, repo, self.variable, bool(self._token))
        except Exception as error:
            return self._told(error, repo)
        if repo.revision not in known:
            return unknown_revision(where, repo, known)
        return Refused(Fault(where, f"revision {repo.revision} holds no files"))

    def _told(self, error: Exception, repo: Repo, file: RemoteFile | None = None) -> Exception:
        """The client's error as one of ours, in one line."""
        import requests

        errors, where = self._errors, f"{repo} at {self.host}"
        if isinstance(error, errors.AuthenticationError):
            return unauthorized(where, self.variable, bool(self._token))
        if isinstance(error, errors.PermissionDeniedError):
            return forbidden(where, self.variable, bool(self._token))
        if isinstance(error, errors.NotExistError):
            what = f"{file.path} is listed, but not there" if file else "is not there"
            return CellFailed(f"{where}: {what}")
        if isinstance(error, errors.FileIntegrityError):
            return damaged(where, file)
        if isinstance(error, errors.HubError | requests.RequestException):
            status = getattr(error, "status_code", None)
            return unreachable(self.host, error, status)
        return error


def is_large(path: str, size: int) -> bool:
    """Whether a model's file of so many bytes goes beside a commit (git LFS), as the client decides."""
    from modelscope_hub import _upload

    return bool(_upload._is_lfs(path, size, "model"))


def remote(listed: Any) -> RemoteFile:
    return RemoteFile(listed.path, listed.size or 0, f"sha256:{listed.sha256.lower()}" if listed.sha256 else "")


def client() -> tuple[Any, Any, Any]:
    for name, value in MODELSCOPE_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from modelscope_hub import api, config, errors
    except ImportError:
        right = f"pip install modelscope-hub=={VERSION} (fetch can use --from huggingface)"
        raise Refused(Fault("ModelScope's client", "is not installed", right)) from None
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # what matters is in the errors
    return api, config, errors
