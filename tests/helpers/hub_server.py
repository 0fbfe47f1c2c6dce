"""A hub on the loopback interface: answers ModelScope's and the Hugging Face Hub's clients as they parse it.

Statuses and bodies follow what modelscope_hub 0.5.1 and huggingface_hub 2.4 read. Weights are redirected to another
host name, as real hubs redirect them to a CDN, so that a test sees whether the token follows.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    range: str | None
    secrets: str
    """Authorization and Cookie, as they came."""


@dataclass
class HubServer:
    """What the hub holds, how it misbehaves, and what it was asked."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """`models/o/n` or `datasets/o/n` to its files; on branch `master` and `main`."""
    token: str | None = None
    """The token every request must carry; None lets anybody in."""
    denied: int | None = None
    """A status that files (not the listing) are answered with."""
    cut: dict[str, int] = field(default_factory=dict)
    """Path to how many bytes are sent before the connection is cut, once."""
    stall: dict[str, int] = field(default_factory=dict)
    """Path to how many bytes are sent before nothing comes any more, until the server ends."""
    hashes: bool = True
    """Whether ModelScope's listing tells SHA-256."""
    forged: set[str] = field(default_factory=set)
    """Paths whose bytes differ from what is listed."""
    visibility: dict[str, int] = field(default_factory=dict)
    """`models/o/n` to 1 (private) or 5 (public); public where nothing is said."""
    branches: list[str] = field(default_factory=lambda: ["master"])
    silent: set[str] = field(default_factory=set)
    """What fails with status 200 and `Success: false`: `listing`, `info`, `create`, `commit`."""
    reader: bool = False
    """Whether the token may only read."""
    failing: dict[str, list[int]] = field(default_factory=dict)
    """Part of an address (`$` is its end) to the statuses that it is answered with, one after another and the last for
    ever; 200 works, 0 closes the connection. Each comes with a Retry-After of a minute."""
    odd: dict[str, bytes] = field(default_factory=dict)
    """Part of an address (`$` is its end) to the body that it is answered with, with status 200."""
    on_commit: str = ""
    """What a commit does instead of working, see tests/helpers/hub_writes.py."""
    meanwhile: dict[int, bytes] = field(default_factory=dict)
    """A number of card reads, and the card that another writer puts there just after it."""
    card_reads: int = 0
    commits: list[dict[str, object]] = field(default_factory=list)
    """The bodies of the commits that were made."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files that were sent, by SHA-256."""
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    """Until it is set a `slow` commit waits."""
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def failure(self, path: str) -> int | None:
        """The status a request is to fail with, if it is to fail."""
        for part, statuses in self.failing.items():
            if part in f"{path}$":
                status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
                return None if status == 200 else status
        return None

    def fetched(self) -> list[str]:
        """The files whose bytes were sent, in order; with `@N` where a part from byte N on was asked for."""
        found = []
        for one in self.asked:
            got = re.search(r"/cdn/[^/]+/[^/]+/[^/]+/(.+)", one.path)
            if got and one.method == "GET":
                start = re.match(r"bytes=(\d+)-", one.range or "")
                found.append(unquote(got[1]) + (f"@{start[1]}" if start else ""))
        return found


@contextmanager
def serving(hub: HubServer) -> Iterator[HubServer]:
    """Serve `hub` on a free port for the block."""

    from tests.helpers.hub_writes import Writes

    class Handler(Writes, _Handler):
        pass

    Handler.hub = hub
    with _Server(("127.0.0.1", 0), Handler) as server:
        hub.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield hub
        finally:
            hub.ended.set()
            server.shutdown()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that goes away is what the tests want."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets: else each answer waits 40 ms for an acknowledgement

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        secrets = f"{self.headers.get('Authorization', '')} {self.headers.get('Cookie', '')}".strip()
        self.hub.asked.append(Asked(self.command, self.path, self.headers.get("Range"), secrets))
        if self._fails():
            return None
        url = urlsplit(self.path)
        path, query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        if path.startswith("/cdn/"):
            return self._bytes(path.removeprefix("/cdn/"))
        if self.hub.token and self.hub.token not in secrets:
            status = 401 if secrets else 403
            message = "Invalid credentials in Authorization header" if secrets else "access denied"
            return self._json(status, {"Code": status, "Message": message, "Success": False}, {"X-Error-Message": message})
        if got := re.fullmatch(r"/api/v1/((?:model|dataset)s/[^/]+/[^/]+)(/.*)?", path):
            return self._modelscope(got[1], got[2] or "", query)
        if got := re.fullmatch(r"/api/((?:model|dataset)s/[^/]+/[^/]+)/revision/(.+)", path):
            return self._huggingface_info(got[1], got[2])
        if got := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._huggingface_file(f"{'datasets' if got[1] else 'models'}/{got[2]}", got[4])
        self._json(404, {"Code": 404, "Message": "not found"})

    def _fails(self) -> bool:
        for part, body in self.hub.odd.items():
            if part in f"{self.path}$":
                self._send(200, body, {})
                return True
        status = self.hub.failure(self.path)
        if status == 0:
            self.close_connection = True
            self.connection.shutdown(2)
        elif status is not None:
            self._json(status, {"Code": status, "Message": "sorry", "Success": False}, {"Retry-After": "60"})
        return status is not None

    def _modelscope(self, repo: str, what: str, query: dict[str, str]) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            return self._json(404, {"Code": 10010205001, "Message": "not found", "Success": False})
        if what == "/revisions":
            branches = [{"Revision": name} for name in self.hub.branches]
            return self._data({"RevisionMap": {"Branches": branches, "Tags": [{"Revision": "v1.0"}]}})
        if what == "":
            if "info" in self.hub.silent:
                return self._json(200, {"Code": 10010205001, "Message": "not found", "Success": False})
            return self._data({"Name": repo.rpartition("/")[2], "Visibility": self.hub.visibility.get(repo, 5)})
        if query.get("Revision") not in self.hub.branches:
            return self._json(404, {"Code": 10010205002, "Message": "no such revision", "Success": False})
        if what in ("/repo/files", "/repo/tree"):
            if "listing" in self.hub.silent:
                return self._json(200, {"Code": 500, "Message": "sorry", "Success": False})
            listed = [
                {
                    "Path": p,
                    "Name": p,
                    "Type": "blob",
                    "Size": len(b),
                    "Sha256": hashlib.sha256(b).hexdigest() if self.hub.hashes else "",
                }
                for p, b in files.items()
            ]
            folders = sorted({p.rpartition("/")[0] for p in files} - {""})
            return self._data({"Files": listed + [{"Path": f, "Name": f, "Type": "tree", "Size": 0} for f in folders]})
        self._file(repo, query["FilePath"], {})
        if query["FilePath"] == "README.md":
            self.hub.card_reads += 1
            if self.hub.card_reads in self.hub.meanwhile:
                files["README.md"] = self.hub.meanwhile[self.hub.card_reads]

    def _huggingface_info(self, repo: str, revision: str) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", COMMIT):
            return self._json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        self._json(
            200,
            {
                "id": repo.partition("/")[2],
                "sha": COMMIT,
                "siblings": [
                    {"rfilename": p, "size": len(b), "blobId": _blob(b)}
                    | (
                        {"lfs": {"sha256": hashlib.sha256(b).hexdigest(), "size": len(b), "pointerSize": 130}}
                        if _large(p)
                        else {}
                    )
                    for p, b in files.items()
                ],
            },
        )

    def _huggingface_file(self, repo: str, path: str) -> None:
        data = self.hub.repos[repo][path]
        self._file(
            repo,
            path,
            {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data)), "ETag": f'"{_blob(data)}"'}
            | ({"X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"'} if _large(path) else {}),
        )

    def _file(self, repo: str, path: str, headers: dict[str, str]) -> None:
        if self.hub.denied:
            return self._json(self.hub.denied, {"Code": self.hub.denied, "Message": "denied"})
        if path not in self.hub.repos[repo]:
            return self._json(404, {"Code": 404, "Message": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        if not _large(path):
            return self._bytes(f"{repo}/{path}", headers)
        # Another host name of the same machine: clients send their token to the first alone.
        self._json(302, None, headers | {"Location": f"http://localhost:{self.hub.port}/cdn/{repo}/{path}"})

    def _bytes(self, place: str, headers: dict[str, str] | None = None) -> None:
        repo, path = "/".join(place.split("/")[:3]), "/".join(place.split("/")[3:])
        data = self.hub.repos[repo][path]
        if path in self.hub.forged:
            data = bytes(len(data))
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(start[1]) if start else 0
        self.send_response(206 if start else 200)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.hub.cut:
            self.wfile.write(data[first : self.hub.cut.pop(path)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        if path in self.hub.stall:
            self.wfile.write(data[first : self.hub.stall.pop(path)])
            self.wfile.flush()
            self.hub.ended.wait(20)
            return
        self.wfile.write(data[first:])

    def _data(self, data: object) -> None:
        self._json(200, {"Code": 200, "Success": True, "Data": data})

    def _json(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"" if body is None else json.dumps(body).encode(), headers or {})

    def _send(self, status: int, text: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


def _large(path: str) -> bool:
    return path.endswith((".safetensors", ".parquet"))


def _blob(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
