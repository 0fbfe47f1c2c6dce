"""ModelScope: the one file that touches its client, `modelscope_hub` (`modelscope` is a shell around it since 1.40).

`ModelScope` is what `fetch` reads from, `Branch` what `publish` reads and writes. Nothing here creates a repository but
`Branch.create`: the client's own `upload_file` and `upload_folder` would make a public one of a mistyped name.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from harness.hub.base import (
    LARGEST_READ,
    Change,
    Moved,
    RemoteFile,
    Repo,
    Uncertain,
    Unreachable,
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
        api, config, self._errors = _client()

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
        return [_remote(f) for f in listed if f.type != "tree"]

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


class Branch(ModelScope):
    """One branch of a model repository, to be read and to be written to by single commits.

    Every method raises, in one line and without the token: Refused when the token is wrong or may not do it, or when what
    is asked for is not there; Unreachable when the hub does not answer; CellFailed for what else it says.
    """

    def __init__(self, name: str, branch: str, token: str):
        _client()
        installed = metadata.version("modelscope-hub")
        if installed != VERSION:
            what = f"modelscope-hub {installed} is installed, publishing was built for {VERSION}"
            raise Refused(Fault("ModelScope's client", what, f"pip install modelscope-hub=={VERSION}"))
        super().__init__(token)
        from requests.adapters import HTTPAdapter

        for scheme in ("http://", "https://"):
            # Retries are counted here: the client's own would sleep for as long as a hub says, and hide its status.
            self._api.legacy._session.mount(scheme, HTTPAdapter(max_retries=0))
        self.repo = Repo("model", name, branch)
        self.where = f"{self.repo} at {self.host}"

    @property
    def secret(self) -> str:
        """The token, to look for it in what is sent; empty without one."""
        return self._token

    def account(self) -> str:
        """The name of the token's account."""
        return str(self._ask(lambda: self._api.whoami()).username or "an account without a name")

    def visibility(self) -> str:
        """`public`, `private` or, where the hub does not say, nothing. Refused when there is no such repository."""
        info = self._ask(lambda: self._api.legacy.get_repo_info(self.repo.name, "model"))
        if not isinstance(info, dict) or not info.keys() & {"Name", "Path", "Id"}:  # 200 with `Success: false`
            raise missing(self.where, self.repo, self.variable, bool(self._token))
        return {1: "private", 3: "internal", 5: "public"}.get(info.get("Visibility", 0), "")

    def check_branch(self) -> None:
        """Refused unless the repository has this branch; a tag cannot be written to."""
        name = self.repo.revision
        branches, tags = (
            [str(r.get("Revision")) for r in some]
            for some in self._ask(lambda: self._api.legacy.list_revisions_detail(self.repo.name, "model"))
        )
        if name in branches or (not (branches or tags) and name == self.default_revision):
            return
        if name in tags:
            right = f"name a branch: {', '.join(branches)}"
            raise Refused(Fault(self.where, f"{name} is a tag, and tags cannot be written to", right))
        raise Refused(Fault(self.where, f"there is no branch {name}", f"it has {', '.join(branches) or 'none'}"))

    def create(self, visibility: str) -> None:
        """Create the repository, `public` or `private`. Refused when it is there already."""
        try:
            self._api.create_repo(self.repo.name, "model", visibility=visibility)
        except Exception as error:
            if isinstance(error, self._errors.AlreadyExistsError):
                raise Refused(Fault(self.where, "is there already", "leave out --create")) from None
            raise self._told(error, self.repo) from None
        try:
            found = self.visibility()  # the client takes an answer that says `Success: false` for a success
        except Refused:
            raise CellFailed(f"{self.where}: the hub said nothing against it and created nothing") from None
        if found and found != visibility:
            raise CellFailed(f"{self.where}: was created {found}, not {visibility}; change it on its page now")

    def listing(self) -> dict[str, RemoteFile]:
        """The files of the branch by path; empty also where the hub fails without saying so."""
        listed = self._ask(lambda: self._api.list_repo_files(self.repo.name, "model", revision=self.repo.revision))
        return {f.path: _remote(f) for f in listed if f.type != "tree"}

    def read(self, path: str, most: int | None = None) -> bytes | None:
        """A file's bytes, the first `most` of them where that is given; None when it is not there. Nothing is cached."""

        def once() -> bytes | None:
            try:
                answer = self._api.legacy.download_stream(self.repo.name, "model", path, revision=self.repo.revision)
            except self._errors.NotExistError:
                return None
            found = b""
            with answer:
                for part in answer.iter_content(most or 1 << 20):
                    found += part
                    if most or len(found) > LARGEST_READ:
                        break
            return found

        found = self._ask(once)
        if found is not None and len(found) > LARGEST_READ:
            raise Refused(Fault(f"{path} of {self.where}", f"is larger than {LARGEST_READ >> 20} MiB", "make it smaller"))
        return found

    def is_large(self, change: Change) -> bool:
        """Whether the file goes beside the commit (git LFS), as the client decides: by size, name and suffix."""
        from modelscope_hub import _upload

        return bool(_upload._is_lfs(change.path, change.size, "model"))

    def place_for(self, change: Change) -> str | None:
        """Where a large file is to be sent, an address that may run out; None when the hub holds it already."""
        asked = [{"oid": change.sha256, "size": change.size}]
        told = self._ask(lambda: self._api.legacy.validate_blobs(self.repo.name, "model", asked))
        return str(told[change.sha256]) if told.get(change.sha256) else None

    def store(self, change: Change, target: str, moved: Moved) -> None:
        """Send one large file to `target`, whole and in one request; sent again from its beginning when that breaks off."""
        # The client would send the token to whatever host is named; a storage address carries its own permission.
        strangers = None if self._is_own(target) else {"Authorization": None, "Cookie": None}

        def once() -> None:
            content = change.content
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                self._api.legacy.upload_blob(target, _Counted(file, change.size, moved), change.size, headers=strangers)

        self._ask(once)

    def commit(self, changes: Sequence[Change], message: str) -> str:
        """Make one commit of all changes and return its id. Uncertain when the hub broke off: it may have been made."""
        errors = self._errors
        try:
            operations = [self._operation(change) for change in changes]
            answer = self._api.legacy.create_commit(self.repo.name, "model", operations, message, self.repo.revision)
        except errors.RateLimitError as error:
            raise CellFailed(f"{self._too_many('commits', error)}; nothing was changed") from None
        except Exception as error:
            body = getattr(error, "response_body", None)
            code = body.get("Code") if isinstance(body, dict) else None
            if isinstance(error, errors.AlreadyExistsError) or code == 10030000001:
                raise CellFailed(f"{self.where}: another commit came in between; run the same command again") from None
            told = self._told(error, self.repo)
            raise (Uncertain(str(told)) if isinstance(told, CellFailed) else told) from None
        if not isinstance(answer, dict) or not answer.get("oid"):  # 200 with a bad `Code` comes back as a success
            raise Uncertain(f"{self.where}: the hub names no commit{self._words(answer)}")
        return str(answer["oid"])

    def _operation(self, change: Change) -> dict[str, Any]:
        """One entry of a commit; `create` also replaces."""
        whole = {"action": "create", "path": change.path, "size": change.size}
        if self.is_large(change):
            return whole | {"type": "lfs", "sha256": change.sha256, "content": "", "encoding": ""}
        content = base64.b64encode(change.data()).decode()
        return whole | {"type": "normal", "sha256": "", "content": content, "encoding": "base64"}

    def _is_own(self, target: str) -> bool:
        """Whether an address is the hub's own: its host, or one beside it under the same domain, no less protected."""
        hub, other = urlsplit(self._endpoint), urlsplit(target)
        domain = ".".join((hub.hostname or "").split(".")[-2:])
        beside = not domain.replace(".", "").isdigit() and (other.hostname or "").endswith(f".{domain}")
        return other.scheme == hub.scheme and (other.netloc == hub.netloc or beside)

    def _ask(self, question: Callable[[], T]) -> T:
        """The answer; asked again a few times when the network or the hub fails."""
        answers: list[T] = []
        try:
            patiently(lambda: answers.append(question()), lambda: 0, self._passing, threading.Event())
        except Exception as error:
            raise self._told(error, self.repo) from None
        return answers[0]

    def _told(self, error: Exception, repo: Repo, file: RemoteFile | None = None) -> Exception:
        errors = self._errors
        if isinstance(error, errors.PermissionDeniedError) and not self._token:
            return forbidden(self.where, self.variable, False)
        if isinstance(error, errors.PermissionDeniedError):
            what = "the token may not do this: its account has no right to it, or it is a token for reading only"
            return Refused(Fault(self.where, what, "use a token of the owner that may write (modelscope.cn/my/myaccesstoken)"))
        if isinstance(error, errors.AuthenticationError):
            return unauthorized(self.where, self.variable, bool(self._token))
        if isinstance(error, errors.NotExistError):
            return missing(self.where, repo, self.variable, bool(self._token))
        if isinstance(error, errors.RateLimitError):
            return Unreachable(self._too_many("requests", error))
        if isinstance(error, errors.APIError) and not error.retryable:
            return CellFailed(f"{self.where}: the hub says no{self._words(error.response_body)}")
        if isinstance(error, ValueError) and not isinstance(error, errors.HubError):
            return Unreachable(f"{self.host} answers with something that is no JSON; see whether it is a hub")
        told = super()._told(error, repo, file)
        return Unreachable(f"{told}; check the network, or try again later") if isinstance(told, Unreachable) else told

    def _too_many(self, what: str, error: Any) -> str:
        wait = f"in {error.retry_after} s" if error.retry_after else "in some minutes"
        return f"{self.where}: takes no more {what} for now, try again {wait}"

    def _words(self, body: Any) -> str:
        """What the hub gives as its reason, in one line and without the token."""
        text = str((body.get("Message") or body.get("message") or "") if isinstance(body, dict) else "")
        text = "".join(c if c.isprintable() else " " for c in text)[:200].strip()
        text = text.replace(self._token, "***") if self._token else text
        return f" ({text})" if text else ""


class _Counted:
    """A file on its way: tells how much was read, and its length without a seek."""

    def __init__(self, file: BinaryIO, size: int, moved: Moved):
        self._file, self.len, self._moved, self._sent = file, size, moved, 0

    def read(self, size: int = -1) -> bytes:
        part = self._file.read(size if size > 0 else 1 << 20)
        self._sent += len(part)
        self._moved(self._sent)
        return part


def _remote(listed: Any) -> RemoteFile:
    return RemoteFile(listed.path, listed.size or 0, f"sha256:{listed.sha256.lower()}" if listed.sha256 else "")


def _client() -> tuple[Any, Any, Any]:
    for name, value in MODELSCOPE_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from modelscope_hub import api, config, errors
    except ImportError:
        right = f"pip install modelscope-hub=={VERSION} (fetch can use --from huggingface)"
        raise Refused(Fault("ModelScope's client", "is not installed", right)) from None
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # what matters is in the errors
    return api, config, errors
