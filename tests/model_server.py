"""A small server on 127.0.0.1 for tests, with a real model behind two protocols.

OpenAI's `/v1/completions` as vLLM has it: a prompt of token ids is echoed with the log-probability of each
token, and then tokens are generated. SGLang's `/generate`: log-probabilities from where they are asked. The
model runs each prompt alone, through transformers' own attention. Trouble can be ordered.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
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
JSON = dict[str, Any]


@dataclass
class ModelServer:
    """What it serves, what goes wrong, and what it was asked."""

    folder: Path
    root: str = "/weights/tiny"  # what it says of its weights
    answers_as: str = NAME
    echoes: bool = True
    names_tokens: bool = True  # by their numbers, as vLLM does where it is asked to
    lists_models: bool = True
    adds: Sequence[int] = ()  # tokens that it puts before a prompt
    needs_key: bool = False
    troubles: int = 0  # so many of the next requests get a trouble
    trouble: int | None = 503  # its status; None: the connection is dropped
    says: bytes | None = None  # instead of an answer to a prompt
    delay: float = 0.0  # seconds
    after: int | None = None  # after so many prompts, `then` is set
    then: dict[str, Any] = field(default_factory=dict)
    asked: list[JSON] = field(default_factory=list)  # the prompts' requests in their order
    at_once: int = 0  # the most requests at one time
    finished: set[str] = field(default_factory=set)  # how completions ended
    url: str = ""
    tried: int = 0
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def serving(self) -> Iterator[ModelServer]:
        """Serve until the block ends."""
        self.model = reference_model(self.folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)

        class Handler(_Handler):
            ours = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def got(self, path: str) -> tuple[int, JSON]:
        """The response to a request for what is there."""
        if path == "/v1/models" and self.lists_models:
            # A server of models writes the time of the request into its list.
            card = {"id": NAME, "root": self.root, "created": time.time_ns(), "max_model_len": 4096}
            return 200, {"object": "list", "data": [card]}
        if path == "/get_model_info":
            return 200, {"model_path": self.root, "weight_version": "default"}
        return 404, {"detail": "Not Found"}

    def answer(self, path: str, request: JSON) -> tuple[int, JSON]:
        """The response to a prompt."""
        if path == "/v1/completions":
            if request["model"] != NAME:
                return 404, {"error": {"message": "The model does not exist."}}
            return 200, self._completion(request)
        if path == "/generate":
            return 200, self._generated(request)
        return 404, {"detail": "Not Found"}

    def _completion(self, request: JSON) -> JSON:
        ids = [*self.adds, *request["prompt"]]
        assert request["temperature"] == 0
        assert request["repetition_penalty"] == 1.0
        choice: JSON = {"index": 0, "text": "", "logprobs": None}
        if request.get("echo"):
            assert (request["logprobs"], request["max_tokens"]) == (1, 1)
            generated, count = [self.tokenizer.eos_token_id], 1
            if self.echoes:
                named = self.names_tokens and request["return_tokens_as_token_ids"]
                spell = (lambda i: f"token_id:{i}") if named else self._text
                choice["logprobs"] = {
                    "tokens": [spell(i) for i in [*ids, *generated]],
                    "token_logprobs": [None, *self._logprobs(ids), -1.0],
                }
        else:
            choice["text"], count = self._greedy(
                ids, request["max_tokens"], request["stop"], request["stop_token_ids"]
            )
        usage = {"prompt_tokens": len(ids), "completion_tokens": count}
        return {"model": self.answers_as, "choices": [choice], "usage": usage}

    def _generated(self, request: JSON) -> JSON:
        ids, sampling = [*self.adds, *request["input_ids"]], request["sampling_params"]
        assert sampling["temperature"] == 0
        meta: JSON = {"prompt_tokens": len(ids), "completion_tokens": 0}
        text = ""
        if request.get("return_logprob") and self.echoes:
            start = request["logprob_start_len"]
            told = [None, *self._logprobs(ids)[start:]]  # that of the first is not computed
            meta["input_token_logprobs"] = [[*each, None] for each in zip(told, ids[start:])]  # noqa: B905
        elif sampling["max_new_tokens"]:
            text, meta["completion_tokens"] = self._greedy(
                ids, sampling["max_new_tokens"], sampling["stop"], sampling["stop_token_ids"]
            )
        return {"text": text, "meta_info": meta}

    def _logprobs(self, ids: Sequence[int]) -> list[float]:
        with torch.inference_mode():
            return reference_logprobs(self.model, ids).tolist()  # type: ignore[no-any-return]

    def _text(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    def _greedy(
        self, ids: Sequence[int], most: int, stop: Sequence[str], ends: Sequence[int]
    ) -> tuple[str, int]:
        added: list[int] = []
        with torch.inference_mode():
            while len(added) < most:
                table = self.model(input_ids=torch.tensor([[*ids, *added]]), use_cache=False).logits
                token = int(table[0, -1].argmax())
                if token in ends:
                    self.finished.add("end token")
                    break
                added.append(token)
                text = str(self.tokenizer.decode(added, skip_special_tokens=True))
                found = [text.index(each) for each in stop if each in text]
                if found:
                    self.finished.add("stop")
                    return text[: min(found)], len(added)
            else:
                self.finished.add("length")
        return str(self.tokenizer.decode(added, skip_special_tokens=True)), len(added)

    def starts(self) -> str | None:
        """What is wrong with this request, which has begun; None: nothing."""
        with self._lock:
            self.tried += 1
            self._busy += 1
            self.at_once = max(self.at_once, self._busy)
            if self.troubles <= 0:
                return None
            self.troubles -= 1
            return "drop" if self.trouble is None else str(self.trouble)

    def ends(self, request: JSON | None) -> None:
        """The request is answered; what was to change after so many has changed."""
        with self._lock:
            self._busy -= 1
            if request is not None:
                self.asked.append(request)
            if self.after is not None and len(self.asked) >= self.after:
                self.after = None
                for name, value in self.then.items():
                    setattr(self, name, value)


class _Handler(BaseHTTPRequestHandler):
    ours: ModelServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, request: JSON | None) -> None:
        wrong = self.ours.starts()
        time.sleep(self.ours.delay)
        if wrong == "drop":
            self.close_connection = True
        elif wrong:
            self._send(int(wrong), b"busy")
        elif self.ours.needs_key and self.headers.get("Authorization") != f"Bearer {KEY}":
            self._send(401, b"no such key: " + str(self.headers.get("Authorization")).encode())
        elif request is not None and self.ours.says is not None:
            self._send(200, self.ours.says)
        else:
            status, found = (
                self.ours.got(self.path)
                if request is None
                else self.ours.answer(self.path, request)
            )
            self._send(status, json.dumps(found).encode())
        self.ours.ends(None if wrong else request)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""
