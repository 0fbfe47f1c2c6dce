"""Publishing to ModelScope: one branch of a repository, read and written through the client that modelscope.py imports.

Nothing here creates a repository but `Branch.create`: the client's own `upload_file` and `upload_folder` would make a
public one of a mistyped name.
"""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
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
    forbidden,
    missing,
    patiently,
    unauthorized,
)
from harness.hub.modelscope import VERSION, ModelScope, client, is_large, remote
from harness.util.errors import CellFailed, Fault, Refused

NO_REPOSITORY = 10010205001
"""The hub's code for a repository that is not there."""
ODD = "see whether it is a hub"


T = TypeVar("T")


class Branch(ModelScope):
    """One branch of a model repository, to be read and to be written to by single commits.

    Every method raises, in one line and without the token: Refused when the token is wrong or may not do it, or when what
    is asked for is not there; Unreachable when the hub does not answer; CellFailed for what else it says.
    """

    def __init__(self, name: str, branch: str, token: str):
        client()
        installed = metadata.version("modelscope-hub")
        if installed != VERSION:
            what = f"modelscope-hub {installed} is installed, publishing was built for {VERSION}"
            raise Refused(Fault("ModelScope's client", what, f"pip install modelscope-hub=={VERSION}"))
        super().__init__(token)
        from requests.adapters import HTTPAdapter

        for scheme in ("http://", "https://"):
            # Retries are counted here: the client's own would sleep for as long as a hub says, and hide its status.
            self._api.legacy._session.mount(scheme, HTTPAdapter(max_retries=0))
        for session in (self._api.legacy._session, self._api.openapi._session):
            session.hooks["response"].append(_judged)
        self.repo = Repo("model", name, branch)
        self.where = f"{self.repo} at {self.host}"

    @property
    def secret(self) -> str:
        """The token, to look for it in what is sent; empty without one."""
        return self._token

    def account(self) -> str:
        """The name of the token's account."""
        name = self._ask(lambda: self._api.whoami()).username
        if not name:
            raise Unreachable(f"{self.host} names no account for the token; {ODD}")
        return str(name)

    def visibility(self) -> str:
        """`public`, `private` or, where the hub does not say, nothing. Refused when there is no such repository."""
        info = self._ask(lambda: self._api.legacy.get_repo_info(self.repo.name, "model"))
        if not isinstance(info, dict) or not any(info.get(key) for key in ("Name", "Path", "Id")):
            raise Unreachable(f"{self.host} tells nothing of {self.where}; {ODD}")
        return {1: "private", 3: "internal", 5: "public"}.get(info.get("Visibility", 0), "")

    def check_branch(self) -> None:
        """Refused unless the repository has this branch; a tag cannot be written to."""
        name = self.repo.revision
        branches, tags = self._ask(
            lambda: [
                [str(r.get("Revision")) for r in some]
                for some in self._api.legacy.list_revisions_detail(self.repo.name, "model")
            ]
        )
        if not (branches or tags):
            raise Unreachable(f"{self.host} names no branch of {self.where}; {ODD}")
        if name in branches:
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
        """The files of the branch by path."""
        listed = self._ask(lambda: self._api.list_repo_files(self.repo.name, "model", revision=self.repo.revision))
        if not listed:  # the client takes an answer that says `Success: false` for an empty repository
            where, asked = f"models/{self.repo.name}/repo/files", {"Revision": self.repo.revision}
            self._ask(lambda: self._api.legacy._request("GET", where, params=asked))
        if not all(f.path for f in listed):
            raise Unreachable(f"{self.host} lists files of {self.where} without a path; {ODD}")
        return {f.path: remote(f) for f in listed if f.type != "tree"}

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
        return is_large(change.path, change.size)

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
        if isinstance(error, _SaidNo):
            if error.body.get("Code") == NO_REPOSITORY:
                return missing(self.where, repo, self.variable, bool(self._token))
            return CellFailed(f"{self.where}: the hub says no{self._words(error.body)}")
        if isinstance(error, ValueError | TypeError | AttributeError | LookupError) and _of_client(error):
            # The client reads answers without asking what they are: a list, null, a page of HTML.
            return Unreachable(f"{self.host} answers with something that no hub answers; {ODD}")
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


def _of_client(error: Exception) -> bool:
    """Whether an error was raised outside the harness, so by what reads the hub's answers."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return not str(frame.f_globals.get("__name__", "")).startswith("harness.")


class _SaidNo(Exception):
    """An answer with status 200 whose body says that it failed. body: what the hub sent."""

    def __init__(self, body: dict[str, Any]):
        super().__init__("the hub says no")
        self.body = body


def _judged(answer: Any, *_: Any, **__: Any) -> Any:
    """A requests hook that takes `Success: false` for what it is; the client takes it for an empty answer."""
    kind, length = answer.headers.get("Content-Type", ""), int(answer.headers.get("Content-Length") or 0)
    # What writing is answered with is judged where it is written.
    if answer.request.method == "GET" and answer.ok and "json" in kind and length < 1 << 16:
        with contextlib.suppress(ValueError):
            body = answer.json()
            if isinstance(body, dict) and body.get("Success") is False and "Code" in body:
                raise _SaidNo(body)
    return answer


class _Counted:
    """A file on its way: tells how much was read, and its length without a seek."""

    def __init__(self, file: BinaryIO, size: int, moved: Moved):
        self._file, self.len, self._moved, self._sent = file, size, moved, 0

    def read(self, size: int = -1) -> bytes:
        part = self._file.read(size if size > 0 else 1 << 20)
        self._sent += len(part)
        self._moved(self._sent)
        return part
