"""Rank classification by a server with OpenAI's completions protocol, as vLLM has it.

Every label is asked for on its own: the server echoes the prompt that ends with the label and says
each token's log-probability (`echo` with `logprobs`), of which the label's are summed. One token is
generated and ignored, because servers differ in what `max_tokens: 0` means. A server puts before a
prompt what the model's tokenizer puts there, as our own scorer does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from annotated_types import MinLen
from pydantic import BaseModel, ValidationError

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.predictions import by_context, of_model, ranked
from symtune_pipeline.prompts.text import classification_prompt, label_text, render

if TYPE_CHECKING:
    from httpx2 import Client, Response

TRIES = 4
CONCURRENT = 8  # requests at a time, which a server may batch


@dataclass(frozen=True)
class Endpoint:
    """A served model: the address up to and with /v1, its name there, the key that the server asks."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0  # seconds for a response
    wait: float = 1.0  # seconds after a first failure, doubled each time


class _Logprobs(BaseModel):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []


class _Choice(BaseModel):
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    completion_tokens: int


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], MinLen(1)]
    usage: _Usage


def predict(
    endpoint: Endpoint,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
) -> pl.DataFrame:
    """Predictions as `predictions.ranked` describes them, with the served model's name.

    `progress` is called with the number of queries done. In every context one more query is asked,
    which has no content.

    Raises UserError where the endpoint does not answer, refuses, or returns no log-probabilities of
    the prompt.
    """
    from httpx2 import Client

    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    with (
        Client(headers=headers, timeout=endpoint.timeout) as client,
        ThreadPoolExecutor(CONCURRENT) as pool,
    ):

        def scores(row: dict[str, Any]) -> list[float]:
            prompt = render(classification_prompt(row, texts))
            return [_score(client, endpoint, prompt, label_text(text)) for text in row["labels"]]

        contexts, texts = by_context(suite, inputs)
        queries = sum(map(len, contexts))
        found = []
        for of_query in pool.map(scores, chain.from_iterable(contexts)):
            found.append(of_query)
            progress(len(found) * len(suite) // queries)
    by_query = iter(found)
    answers = [[next(by_query) for _ in rows] for rows in contexts]
    # Nothing is ever dropped: the server takes a prompt whole or refuses it.
    predictions = ranked(suite, answers, [0] * len(contexts), "served")
    return of_model(predictions, endpoint.model, "endpoint")


def _score(client: Client, endpoint: Endpoint, prompt: str, label: str) -> float:
    """Summed log-probability of the label after the prompt, in nats."""
    response = _post(
        client,
        endpoint,
        {
            "model": endpoint.model,
            "prompt": prompt + label,
            "max_tokens": 1,
            "temperature": 0,
            "echo": True,
            "logprobs": 1,
        },
    )
    try:
        completion = _Completion.model_validate_json(response.content)
    except ValidationError as error:
        raise UserError(
            f"Endpoint {endpoint.url} answers with something else than a completion; give the address"
            " up to and with /v1."
        ) from error
    echoed = completion.choices[0].logprobs or _Logprobs()
    end = len(echoed.tokens) - completion.usage.completion_tokens
    if end <= 0 or len(echoed.tokens) != len(echoed.token_logprobs):
        raise UserError(
            f"Endpoint {endpoint.url} returns no log-probabilities of the prompt; serve the model with"
            " a program that echoes them, such as vLLM."
        )
    start = _start(echoed.tokens[:end], label)
    if start is None:
        raise UserError(
            f"Endpoint {endpoint.url} splits the prompt otherwise than before the label '{label}' (its"
            f" last tokens are {echoed.tokens[:end][-5:]}); score this model from its folder instead."
        )
    values = [math.nan if value is None else value for value in echoed.token_logprobs[start:end]]
    if not all(map(math.isfinite, values)):
        raise UserError(
            f"Endpoint {endpoint.url} returned a log-probability that is no finite number; its weights"
            " are damaged or its precision is too low."
        )
    return sum(values)


def _start(tokens: Sequence[str], label: str) -> int | None:
    """Where the last tokens begin that make up the label, or None where no token begins there.

    Counted from the end: offsets from the start would be wrong by a special token's text, and by
    characters of the prompt that several tokens share. A server may write the first token of a word
    without the space that SentencePiece has in it, and a token of a space alone as nothing.
    """
    for text in (label, label.removeprefix(" ")):
        length, start = 0, len(tokens)
        while length < len(text) and start:
            start -= 1
            length += len(tokens[start])
        if "".join(tokens[start:]) == text:
            break
    else:
        return None
    if text != label:
        while start and not tokens[start - 1]:
            start -= 1
        if start and tokens[start - 1][-1].isspace():  # the space is the prompt's last token
            return None
    return start


def _post(client: Client, endpoint: Endpoint, request: dict[str, object]) -> Response:
    from httpx2 import InvalidURL, TransportError
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        retry_if_result,
        stop_after_attempt,
        wait_exponential,
    )

    retrying = Retrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(endpoint.wait),
        retry=retry_if_exception_type(TransportError) | retry_if_result(_may_pass),
        # After the last try: its response, or its error.
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    try:
        response: Response = retrying(
            client.post, f"{endpoint.url.rstrip('/')}/completions", json=request
        )
    except (TransportError, InvalidURL) as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ").rstrip(".")
        raise UserError(
            f"Endpoint {endpoint.url} does not answer ({reason}); start the server, or correct the"
            " address."
        ) from error
    if response.status_code in (401, 403):
        raise UserError(
            f"Endpoint {endpoint.url} refuses the key (status {response.status_code}); set OPENAI_API_KEY"
            " to one that it takes."
        )
    if response.status_code != 200:
        reason = " ".join(response.text.split())[:300].rstrip(".")
        raise UserError(
            f"Endpoint {endpoint.url} refuses a request (status {response.status_code}: {reason}); correct"
            " the address, the model's name or the server's settings."
        )
    return response


def _may_pass(response: Response) -> bool:
    """Whether asking again may help: too busy, or out of order."""
    return response.status_code == 429 or response.status_code >= 500
