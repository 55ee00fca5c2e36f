"""A server between a client and another server of this machine, which at times answers wrongly."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# What can become of a request: an error, no answer before or after it was served, an answer that
# breaks off, and one that is shorter than what is kept there, in order otherwise.
FAULTS = ("500", "503", "drop", "lost answer", "cut", "short")


class Flaky(ThreadingHTTPServer):
    """Serves `behind`, an http:// address, with `faults` for a `share` of the requests."""

    daemon_threads = True

    def __init__(
        self, behind: str, share: float, seed: int, faults: Sequence[str] = FAULTS
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(behind).netloc
        self.share, self.faults = share, faults
        self.done: list[str] = []
        self._random, self._lock = random.Random(seed), threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self) -> str | None:
        with self._lock:
            if self._random.random() >= self.share:
                return None
            self.done.append(self._random.choice(self.faults))
            return self.done[-1]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is no news."""


@contextmanager
def flaky(
    behind: str, share: float, seed: int = 0, faults: Sequence[str] = FAULTS
) -> Iterator[Flaky]:
    """Such a server, which ends with the block."""
    server = Flaky(behind, share, seed, faults)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def _serve(self) -> None:
        self.close_connection = True
        body = self._body()
        fault = self.server.next_fault()
        if fault == "drop":
            return
        if fault in ("500", "503"):
            self._answer(int(fault), [], b"", 0)
            return
        status, headers, content = self._behind(body)
        if fault == "lost answer":
            return
        sent = content if fault not in ("cut", "short") else content[: len(content) // 2]
        length = len(sent) if fault == "short" and self.command != "HEAD" else None
        self._answer(status, headers, sent, length)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _behind(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.behind)
        left_out = ("transfer-encoding", "expect", "connection", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in left_out}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, length: int | None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        told = [value for name, value in headers if name.lower() == "content-length"]
        size = length if length is not None else (told[0] if told else len(content))
        self.send_header("Content-Length", str(size))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""
