"""A small hub on 127.0.0.1 for tests: one repository, over HTTP as the real one serves it.

It also takes one commit of small files into a model repository, as `HfApi.upload_folder` sends it.
Trouble can be ordered: answers with a status, for the first requests or for those to an address.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What it serves, what goes wrong, and what it was asked."""

    repository: str
    files: Mapping[str, bytes]
    troubles: int = 0  # so many of the next requests get a 503
    kind: str = "datasets"  # or models
    # What a part of an address is answered with: a status, and the error's code if it has one.
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)  # what a new repository was asked to be
    uploaded: dict[str, bytes] = field(default_factory=dict)
    commit: str = REVISION
    endpoint: str = ""

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        """Serve until the block ends."""

        class Handler(_Handler):
            hub = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def tree(self, folder: str) -> list[dict[str, object]]:
        """What is directly in a folder, as the hub lists it."""
        above = f"{folder}/" if folder else ""
        inside = {path: path.removeprefix(above) for path in self.files if path.startswith(above)}
        folders = dict.fromkeys(
            above + rest.split("/")[0] for rest in inside.values() if "/" in rest
        )
        return [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders] + [
            self.entry(path) for path, rest in inside.items() if "/" not in rest
        ]

    def entry(self, path: str) -> dict[str, object]:
        """One file in a listing."""
        content = self.files[path]
        oid = sha256(content).hexdigest()[:40]
        return {"type": "file", "path": path, "size": len(content), "oid": oid}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        hub, path = self.hub, unquote(self.path).partition("?")[0]
        body = self._body()
        if self._ordered(path):
            return
        if path == "/api/repos/create":
            hub.paths.append(f"POST {path}")
            hub.made = json.loads(body)
            return self._json({"url": f"{hub.endpoint}/{hub.repository}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.startswith(f"/api/models/{hub.repository}/preupload/"):
            asked = json.loads(body)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": file["path"]} | regular for file in asked]})
        if path.startswith(f"/api/models/{hub.repository}/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    hub.uploaded[value["path"]] = base64.b64decode(value["content"])
            address = f"{hub.endpoint}/{hub.repository}/commit/{hub.commit}"
            return self._json({"commitUrl": address, "commitOid": hub.commit})
        self._answer()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def _answer(self) -> None:
        hub = self.hub
        path, _, query = unquote(self.path).partition("?")
        hub.paths.append(f"{self.command} {path}")
        if hub.troubles and hub.repository in path:
            hub.troubles -= 1
            return self._send(503, b"")
        if self._ordered(path):
            return
        above = "" if hub.kind == "models" else f"/{hub.kind}"
        api, download = f"/api/{hub.kind}/{hub.repository}", f"{above}/{hub.repository}/resolve/"
        if path.startswith(api):
            _, _, rest = path.removeprefix(api).partition("/")
            kind, _, rest = rest.partition("/")
            revision, _, folder = rest.partition("/")
            if revision != REVISION:
                return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            if kind == "revision":
                return self._json(
                    {
                        "id": hub.repository,
                        "sha": REVISION,
                        "siblings": [{"rfilename": name} for name in hub.files],
                    }
                )
            if kind == "tree":
                everything = "recursive=true" in query.lower()
                found = [hub.entry(name) for name in hub.files] if everything else hub.tree(folder)
                return (
                    self._json(found)
                    if found
                    else self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                )
            if kind == "paths-info":
                return self._json([hub.entry(name) for name in hub.files])
        if path.startswith(download):
            revision, _, name = path.removeprefix(download).partition("/")
            if revision != REVISION:
                return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            if name in hub.files:
                content = hub.files[name]
                return self._send(200, content, {"ETag": f'"{sha256(content).hexdigest()}"'})
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _ordered(self, path: str) -> bool:
        """Whether an answer was ordered for a part of the path; it is given."""
        for part, (status, code) in self.hub.answers.items():
            if part in path:
                self._send(status, b"", {"X-Error-Code": code} if code else {})
                return True
        return False

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": REVISION, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
