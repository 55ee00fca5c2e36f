"""A server over HTTP: requests that are tried again, and a sentence where it does not answer.

This module knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from threading import Event
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from symtune_pipeline.errors import UserError

if TYPE_CHECKING:
    from httpx2 import Response
    from tenacity import RetryCallState

TRIES = 6  # half a minute in all, in which a server may be started again
TIMEOUT = 120.0  # seconds for a response, in which a server may have others before
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
MISSING = (404, 405)  # the server has no such path


class Server:
    """The server at an address; `key` is shown to it alone. To be entered, and left when done."""

    def __init__(
        self, url: str, key: str | None = None, timeout: float = TIMEOUT, wait: float = 1.0
    ) -> None:
        """`wait` are the seconds after a first failure, doubled each time.

        Raises UserError where the key would travel unencrypted.
        """
        from httpx2 import Client

        if key and in_clear(url):
            raise UserError(
                f"Endpoint {url} would be shown the key in OPENAI_API_KEY unencrypted; use https, or a"
                " tunnel to 127.0.0.1, or unset the key where the server asks for none."
            )
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = Client(headers=headers, timeout=timeout)
        self._wait, self._left = wait, Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()  # a thread that waits to try again gives up
        self._client.close()

    def get(self, path: str) -> bytes | None:
        """What the server has at a path; None where it has no such path. Raises as `post` does."""
        response = self._tried("GET", path)
        return None if response.status_code in MISSING else self._content(response)

    def post(self, path: str, request: Mapping[str, Any]) -> bytes:
        """The answer to a request; raises UserError where there is none, or the server refuses it."""
        return self._content(self._tried("POST", path, json=request))

    def _tried(self, method: str, path: str, **body: object) -> Response:
        from httpx2 import InvalidURL, TransportError
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            retry_if_result,
            sleep_using_event,
            stop_after_attempt,
            stop_when_event_set,
        )

        retrying = Retrying(
            stop=stop_after_attempt(TRIES) | stop_when_event_set(self._left),
            wait=self._pause,
            sleep=sleep_using_event(self._left),
            retry=retry_if_exception_type(TransportError) | retry_if_result(_may_pass),
            # After the last try: its response, or its error.
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        try:
            response: Response = retrying(self._client.request, method, f"{self.url}{path}", **body)
        except (TransportError, InvalidURL) as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ").rstrip(".")
            raise UserError(
                f"Endpoint {self.url} does not answer ({reason}); start the server, or correct the"
                " address."
            ) from error
        return response

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next try: as many as the server asks for, or ever more."""
        asked = ""
        if state.outcome and not state.outcome.failed:
            asked = state.outcome.result().headers.get("Retry-After", "")
        pause = float(asked) if asked.isdecimal() else self._wait * 2 ** (state.attempt_number - 1)
        return min(pause, LONGEST_WAIT)

    def _content(self, response: Response) -> bytes:
        if response.status_code in (401, 403):
            raise UserError(
                f"Endpoint {self.url} refuses the key (status {response.status_code}); set OPENAI_API_KEY"
                " to one that it takes."
            )
        if response.status_code != 200:
            reason = " ".join(response.text.split())[:300].rstrip(".")
            raise UserError(
                f"Endpoint {self.url} refuses a request (status {response.status_code}: {reason}); correct"
                " the address, the model's name or the server's settings."
            )
        content: bytes = response.content
        return content


def in_clear(url: str) -> bool:
    """Whether others than this machine could read what is sent to an address."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


def _may_pass(response: Response) -> bool:
    """Whether asking again may help: too busy, or out of order."""
    return response.status_code == 429 or response.status_code >= 500
