"""A small server on 127.0.0.1 for tests, with a real model behind OpenAI's /v1/completions.

It echoes a prompt with the log-probability of each token, and then generates one token, as vLLM
does. Trouble can be ordered.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from tiny_models import reference_logprobs, reference_model
from transformers import AutoTokenizer

NAME = "tiny"
KEY = "sk-for-tests"


@dataclass
class CompletionsServer:
    """What it serves, what goes wrong, and how often it was asked."""

    folder: Path
    ends: bool = False  # the text ends with the prompt: no generated token is listed
    merges: bool = False  # the last two tokens come as one
    echoes: bool = True
    needs_key: bool = False
    troubles: int = 0  # so many of the next requests get a 503
    says: bytes | None = None  # instead of a completion
    delay: float = 0.0  # seconds
    asked: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def serving(self) -> Iterator[CompletionsServer]:
        """Serve until the block ends."""
        self.model = reference_model(self.folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)

        class Handler(_Handler):
            ours = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def completion(self, prompt: str) -> dict[str, Any]:
        """The response to a request."""
        ids = self.tokenizer.encode(prompt)
        texts = [self.tokenizer.decode([i]) for i in ids]
        with torch.inference_mode():
            logprobs: list[float | None] = [None, *reference_logprobs(self.model, ids).tolist()]
        if self.merges:
            texts[-2:] = ["".join(texts[-2:])]
            logprobs.pop()
        generated = 0 if self.ends else 1
        if not self.echoes:
            texts, logprobs = [], []
        texts += ["x"] * generated
        logprobs += [-1.0] * generated
        return {
            "object": "text_completion",
            "model": NAME,
            "choices": [
                {
                    "index": 0,
                    "text": prompt + "x" * generated,
                    "finish_reason": "length",
                    "logprobs": {"tokens": texts, "token_logprobs": logprobs},
                }
            ],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": generated},
        }


class _Handler(BaseHTTPRequestHandler):
    ours: CompletionsServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.ours.lock:
            self.ours.asked += 1
            trouble = self.ours.troubles > 0
            self.ours.troubles -= trouble
        time.sleep(self.ours.delay)
        if trouble:
            self._send(503, b"busy")
        elif self.ours.needs_key and self.headers.get("Authorization") != f"Bearer {KEY}":
            self._send(401, b"no such key: " + str(self.headers.get("Authorization")).encode())
        elif self.path != "/v1/completions":
            self._send(404, b"Not Found")
        elif asked["model"] != NAME:
            self._send(404, b'{"error": {"message": "The model does not exist."}}')
        elif self.ours.says is not None:
            self._send(200, self.ours.says)
        else:
            assert (asked["echo"], asked["logprobs"], asked["max_tokens"]) == (True, 1, 1)
            self._send(200, json.dumps(self.ours.completion(asked["prompt"])).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""
