"""What a server is asked, and how its answers are read: a class for each protocol.

Prompts go as token ids, so that a server has the tokens that a model has in its folder. Every answer is
held against what was asked: the model's name, the tokens, and numbers that are finite.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, TypeVar

from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, ValidationError

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.server import Server
from symtune_pipeline.tables import Protocol

Facts = dict[str, Any]
Read = TypeVar("Read", bound=BaseModel)

FLOOR = -9_999.0  # what vLLM writes for the logarithm of zero
TOKEN = "token_id:"  # before a token that vLLM names by its number
NO_WORD = "\ufffd"  # in the text of a token that is part of a character
# Greedy, whatever generation_config.json asks for: a server would fill up from it what is left out.
GREEDY: Final = {
    "temperature": 0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}


class Asked(ABC):
    """A model on a server, under its name there.

    `spell` gives the text of a token. Every method raises UserError where the server does not answer,
    refuses, or answers something else than it was asked.
    """

    models: str  # the path of the list of models

    def __init__(self, server: Server, model: str, spell: Callable[[int], str]) -> None:
        self.server, self.model, self.spell = server, model, cache(spell)

    def facts(self) -> Facts:
        """What the server says of the model, equal as long as it says that it is the same one."""
        content = self.server.get(self.models)
        if content is None:
            return {}
        cards = {card.id: card for card in self._read(_Cards, content, "a list of models").data}
        if self.model not in cards:
            raise UserError(
                f"Endpoint {self.server.url} does not serve '{self.model}' but"
                f" {', '.join(map(repr, cards)) or 'nothing'}; correct the model's name, or serve that one."
            )
        return cards[self.model].model_dump(exclude_none=True)

    @abstractmethod
    def logprobs(self, ids: Sequence[int], start: int) -> list[float]:
        """Log-probability in nats of every token from `start`, which is above 0, given those before."""

    @abstractmethod
    def completion(self, ids: Sequence[int], most: int, ends: Sequence[int]) -> str:
        """The text of at most `most` likeliest tokens after a prompt, to a line's end or an end token."""

    def _read(self, kind: type[Read], content: bytes, what: str) -> Read:
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            raise UserError(
                f"Endpoint {self.server.url} answers with something else than {what}; correct its address"
                " or its protocol."
            ) from error

    def _as_asked(self, answered: str | None) -> None:
        if answered is not None and answered != self.model:
            raise UserError(
                f"Endpoint {self.server.url} answers as '{answered}' where '{self.model}' was asked; serve"
                " that one, or correct the model's name."
            )

    def _same_tokens(self, same: bool, ids: Sequence[int]) -> None:
        if not same:
            raise UserError(
                f"Endpoint {self.server.url} has other tokens than the {len(ids)} that it was asked; serve"
                f" '{self.model}' with the tokenizer of the model that it is evaluated beside."
            )

    def _finite(self, values: Sequence[float | None]) -> list[float]:
        found = [math.nan if value is None else value for value in values]
        if not all(math.isfinite(value) and value > FLOOR for value in found):
            raise UserError(
                f"Endpoint {self.server.url} returned a log-probability that is no finite number; its"
                " weights are damaged or its precision is too low."
            )
        return found

    def _no_logprobs(self) -> UserError:
        return UserError(
            f"Endpoint {self.server.url} returns no log-probabilities of the prompt; serve the model with"
            " a program that echoes them, such as vLLM or SGLang."
        )


class Completions(Asked):
    """OpenAI's completions, which echo the prompt with its log-probabilities, as of vLLM.

    The address ends with /v1. One token is generated and ignored where a prompt is scored, because
    servers differ in what `max_tokens: 0` means.
    """

    models = "/models"

    def logprobs(self, ids: Sequence[int], start: int) -> list[float]:
        """As of `Asked`."""
        scored = {"max_tokens": 1, "echo": True, "logprobs": 1, "return_tokens_as_token_ids": True}
        answer = self._completion(ids, scored)
        echoed = answer.choices[0].logprobs or _Logprobs()
        generated = len(echoed.tokens) - len(ids)
        if len(echoed.tokens) <= 1 or len(echoed.tokens) != len(echoed.token_logprobs):
            raise self._no_logprobs()
        counted = generated if answer.usage is None else answer.usage.completion_tokens
        same = generated in (0, 1) and generated == counted
        self._same_tokens(same and all(map(self._is_token, echoed.tokens, ids)), ids)
        return self._finite(echoed.token_logprobs[start : len(ids)])

    def completion(self, ids: Sequence[int], most: int, ends: Sequence[int]) -> str:
        """As of `Asked`."""
        stops = {"stop": ["\n"], "stop_token_ids": list(ends)}
        return self._completion(ids, {"max_tokens": most, **stops}).choices[0].text

    def _completion(self, ids: Sequence[int], settings: Mapping[str, Any]) -> _Completion:
        request = {"model": self.model, "prompt": list(ids), **GREEDY, **settings}
        answer = self._read(_Completion, self.server.post("/completions", request), "a completion")
        self._as_asked(answer.model)
        if answer.usage is not None:
            self._same_tokens(answer.usage.prompt_tokens in (None, len(ids)), ids)
        return answer

    def _is_token(self, told: str, token: int) -> bool:
        """Whether a server's word for a token is that of this one, as far as a word can say."""
        if told.startswith(TOKEN):
            return told == f"{TOKEN}{token}"
        texts = [_bare(told), _bare(self.spell(token))]
        unclear = not all(texts) or any(NO_WORD in text or text.startswith("<0x") for text in texts)
        return unclear or told.startswith("bytes:") or texts[0] == texts[1]


class SGLang(Asked):
    """SGLang's own `/generate`: log-probabilities from where they are wanted, so its cache serves."""

    models = "/v1/models"

    def facts(self) -> Facts:
        """As of `Asked`, with the folder of the weights and their version."""
        named = super().facts()
        for path in ("/model_info", "/get_model_info"):  # its name in later versions and before
            content = self.server.get(path)
            if content is not None:
                info = self._read(_ModelInfo, content, "what SGLang says of its model")
                if not named:
                    self._as_asked(info.model_path)
                return named | info.model_dump(exclude_none=True)
        raise UserError(
            f"Endpoint {self.server.url} does not say which model it serves; give SGLang's address without"
            " a path, or another protocol."
        )

    def logprobs(self, ids: Sequence[int], start: int) -> list[float]:
        """As of `Asked`."""
        # What is predicted from a token needs that token to run; so of the first there is no number.
        wanted = {"return_logprob": True, "logprob_start_len": start - 1}
        told = self._generated(ids, 0, {}, wanted).meta_info.input_token_logprobs
        if not told:
            raise self._no_logprobs()
        tail = told[-(len(ids) - start) :]
        self._same_tokens([token for _, token, *_ in tail] == list(ids[start:]), ids)
        return self._finite([value for value, *_ in tail])

    def completion(self, ids: Sequence[int], most: int, ends: Sequence[int]) -> str:
        """As of `Asked`."""
        return self._generated(ids, most, {"stop": ["\n"], "stop_token_ids": list(ends)}, {}).text

    def _generated(
        self, ids: Sequence[int], most: int, stops: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> _Generated:
        sampling = {**GREEDY, "max_new_tokens": most, **stops}
        request = {"input_ids": list(ids), "sampling_params": sampling, **wanted}
        answer = self._read(
            _Generated, self.server.post("/generate", request), "SGLang's generated text"
        )
        self._same_tokens(answer.meta_info.prompt_tokens == len(ids), ids)
        return answer


PROTOCOLS: Final[Mapping[Protocol, type[Asked]]] = {"completions": Completions, "sglang": SGLang}


def _bare(text: str) -> str:
    """A token's text without white space, which servers write in different ways or not at all."""
    return text.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n").strip()


class _Card(BaseModel):
    """A model in a server's list; what changes from one request to the next is not read."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    meta: dict[str, Any] | None = None


class _Cards(BaseModel):
    data: list[_Card]


class _Logprobs(BaseModel):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []


class _Choice(BaseModel):
    text: str = ""
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    completion_tokens: int
    prompt_tokens: int | None = None


class _Completion(BaseModel):
    model: str | None = None
    choices: Annotated[list[_Choice], MinLen(1)]
    usage: _Usage | None = None


class _ModelInfo(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model_path: str
    weight_version: str | None = None


class _MetaInfo(BaseModel):
    prompt_tokens: int
    input_token_logprobs: list[tuple[float | None, int] | tuple[float | None, int, str | None]] = []


class _Generated(BaseModel):
    text: str = ""
    meta_info: _MetaInfo
