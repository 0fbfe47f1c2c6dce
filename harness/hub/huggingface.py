"""The Hugging Face Hub, read alone. Heavy imports stand inside the functions."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from harness.hub.base import (
    DISK_ERRORS,
    Moved,
    RemoteFile,
    Repo,
    Stopped,
    damaged,
    forbidden,
    missing,
    unauthorized,
    unknown_revision,
    unreachable,
)
from harness.util.errors import CellFailed, Fault, Refused

TIMEOUT = 20.0
"""Seconds until a question is given up."""


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
                    raise Stopped
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
        except Stopped:
            raise
        except Exception as error:
            raise self._told(error, repo, file) from None
        if not file.is_at(got):  # this client compares sizes alone
            got.unlink()
            raise damaged(f"{repo} at {self.host}", file)

    def _told(self, error: Exception, repo: Repo, file: RemoteFile | None = None) -> Exception:
        """The client's error as one of ours, in one line."""
        from huggingface_hub import errors

        where, token = f"{repo} at {self.host}", bool(self._token)
        if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.GatedRepoError):
            return forbidden(where, self.variable, token)
        if isinstance(error, errors.RepositoryNotFoundError):
            return missing(where, repo, self.variable, token)
        if isinstance(error, errors.RevisionNotFoundError):
            return unknown_revision(where, repo, [])
        if isinstance(error, errors.RemoteEntryNotFoundError):
            return CellFailed(f"{where}: {file.path if file else 'a file'} is listed, but not there")
        if status in (401, 403):
            return (unauthorized if status == 401 else forbidden)(where, self.variable, token)
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        return unreachable(self.host, error, status)
