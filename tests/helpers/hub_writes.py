"""What the stand-in hub does when it is written to: account, repository, large files, commits, as the client parses them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.helpers.hub_server import Asked, HubServer

ON_COMMIT = {
    "denied": (403, {"Code": 403, "Message": "no permission", "Success": False}),
    "rate": (429, {"Code": 429, "Message": "Commit frequency limit", "Success": False}),
    "conflict": (409, {"Code": 409, "Message": "conflict", "Success": False}),
    "race": (409, {"Code": 10030000001, "Message": "branch moved", "Success": False}),
    "down": (503, {"Code": 503, "Message": "maintenance", "Success": False}),
    "refused": (200, {"Code": 10020000001, "Message": "file is sensitive", "Success": False}),
    "bad code": (200, {"Code": 10020000001, "Message": "file is sensitive"}),
}
"""Answers to a commit that is not made. Others: `nothing` accepts it and stores nothing, `not json` and `cut` make it and
answer badly, `cut before` breaks off without making it, `slow` makes it once released and `late` answers once released."""


class Writes:
    """Mixed into the handler of tests/helpers/hub_server.py."""

    hub: HubServer

    def do_POST(self: Any) -> None:
        body = self._body()
        self._write(json.loads(body) if body else {})

    def do_PUT(self: Any) -> None:
        data = self._body()
        self._note()
        if self._fails():
            return None
        self.hub.blobs[self.path.rpartition("/")[2]] = data
        self._json(200, {"Code": 200, "Success": True})

    def do_GET(self: Any) -> None:
        if urlsplit(self.path).path == "/openapi/v1/users/me":
            secrets = self._note()
            if self._fails():
                return None
            if self.hub.token and self.hub.token not in secrets:
                return self._json(401, {"success": False, "code": "InvalidAuthentication", "message": "no"})
            return self._json(200, {"success": True, "data": {"sub": "1", "name": "alice", "email": "a@example.com"}})
        return super().do_GET()  # type: ignore[misc]

    def _body(self: Any) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _note(self: Any) -> str:
        secrets = f"{self.headers.get('Authorization', '')} {self.headers.get('Cookie', '')}".strip()
        self.hub.asked.append(Asked(self.command, self.path, None, secrets))
        return secrets

    def _write(self: Any, body: dict[str, Any]) -> None:
        secrets, path = self._note(), unquote(urlsplit(self.path).path)
        if self._fails():
            return None
        if self.hub.token and self.hub.token not in secrets:
            return self._json(401, {"Code": 401, "Message": "no", "Success": False})
        if path == "/api/v1/models":
            return self._create(body)
        got = re.fullmatch(r"/api/v1/repos/(models/[^/]+/[^/]+)/(commit/(.+)|info/lfs/objects/batch)", path)
        if not got or got[1] not in self.hub.repos:
            return self._json(404, {"Code": 10010205001, "Message": "not found", "Success": False})
        if got[3] is None:
            return self._data({"objects": [o for o in map(self._object, body["objects"]) if o]})
        return self._commit(self.hub.repos[got[1]], body)

    def _create(self: Any, body: dict[str, Any]) -> None:
        if "create" in self.hub.silent:
            return self._json(200, {"Code": 1, "Message": "not verified", "Success": False})
        if self.hub.reader:
            return self._json(403, {"Code": 403, "Message": "read only", "Success": False})
        repo = f"models/{body['Path']}/{body['Name']}"
        if repo in self.hub.repos:
            return self._json(400, {"Code": 10010101001, "Message": "exists", "Success": False})
        self.hub.repos[repo], self.hub.visibility[repo] = {}, body["Visibility"]
        return self._data({"Name": body["Name"], "Path": body["Path"]})

    def _object(self: Any, asked: dict[str, Any]) -> dict[str, Any] | None:
        if asked["oid"] in self.hub.blobs:
            return None
        # Another host name, as storage is: the token must not go there.
        return asked | {"actions": {"upload": {"href": f"http://localhost:{self.hub.port}/store/{asked['oid']}"}}}

    def _commit(self: Any, files: dict[str, bytes], body: dict[str, Any]) -> None:
        what = self.hub.on_commit
        if self.hub.reader:
            what = "denied"
        if what in ON_COMMIT:
            return self._json(*ON_COMMIT[what])
        if what == "cut before":
            return self._cut()
        if what == "slow":
            self.hub.released.wait(20)
        self.hub.commits.append(body)
        for action in body["actions"] if what != "nothing" else []:
            if action["type"] == "lfs":
                files[action["path"]] = self.hub.blobs[action["sha256"]]
                assert hashlib.sha256(files[action["path"]]).hexdigest() == action["sha256"]
            else:
                files[action["path"]] = base64.b64decode(action["content"])
                assert len(files[action["path"]]) == action["size"]
        if what == "late":
            self.hub.released.wait(20)
        if what == "cut":
            return self._cut()
        if what == "not json":
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"<ok>")
            return None
        return self._data({"oid": f"{len(self.hub.commits):040x}"})

    def _cut(self: Any) -> None:
        self.close_connection = True
        self.connection.shutdown(2)
