"""A served model on the suites: what the model in a folder is asked, asked of a server.

Prompts, labels, texts and what ends a completion are those of the modules that ask a folder. After every
pass the server must still be the same: it says so, and predicts a first prompt as before. So an
answer that is kept is of one model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from symtune_pipeline.environment import endpoint_key
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.asking import Asking
from symtune_pipeline.evaluation.classification import predictions_of, trees_of
from symtune_pipeline.evaluation.config import Endpoint
from symtune_pipeline.evaluation.generation import end_tokens, first_line, in_turn, prompts_of
from symtune_pipeline.evaluation.language import losses_of, texts_of
from symtune_pipeline.evaluation.predictions import by_context, generated
from symtune_pipeline.evaluation.protocols import PROTOCOLS, Asked, Facts
from symtune_pipeline.evaluation.server import Server
from symtune_pipeline.files import parse_json
from symtune_pipeline.models.opening import context_of, open_tokenizer, read_config
from symtune_pipeline.models.trees import Query, Tree
from symtune_pipeline.prompts.encoding import TextEncoder
from symtune_pipeline.prompts.tokens import SegmentTokenizer
from symtune_pipeline.sections import EvaluationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Progress = Callable[[int], None]

CONCURRENT = 8  # requests at a time, which a server may batch
PASS = 64  # requests of a pass at least: those of a context are neighbours, for a server's cache
PROBE = 256  # tokens of a first prompt that are looked at
# Nats a token by which they may differ: the same weights differ less in any batch, others by more.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Served:
    """A served model, and those who ask it."""

    asked: Asked
    asking: Asking
    pool: ThreadPoolExecutor

    @property
    def path(self) -> str:
        """How the model was run, in a table of predictions."""
        return f"served as {self.asked.model}"

    def all(
        self,
        passes: Sequence[list[int]],
        ask: Callable[[list[int]], object],
        queries: Callable[[list[int]], int],
        progress: Progress,
        probe: Sequence[int] = (),
    ) -> list[Any]:
        """The answers to all passes, as of `Asking`; `probe` are the tokens of a first prompt.

        Raises UserError where the server's model changes meanwhile.
        """
        before, first = self.asking.together(lambda: (self.asked.facts(), self._probed(probe)))

        def answer(numbers: list[int]) -> list[object]:
            found = ask(numbers)
            after, last = self.asked.facts(), self._probed(probe)
            if after != before or _differs(first, last):
                raise self._changed("it was asked first", "start this again")
            return [first, found]

        answers: list[list[Any]] = self.asking.all(passes, answer, queries, progress, self.path)
        if any(_differs(answers[0][0], seen) for seen, _ in answers):
            raise self._changed("this began", f"remove {self.asking.kept_in()} to ask it anew")
        return [found for _, found in answers]

    def _probed(self, probe: Sequence[int]) -> list[float]:
        return self.asked.logprobs(probe, 1) if len(probe) > 1 else []

    def _changed(self, since: str, way_out: str) -> UserError:
        return UserError(
            f"Endpoint {self.asked.server.url} has another model under the name '{self.asked.model}' than"
            f" when {since}; serve one model to the end, and {way_out}."
        )

    def score(self, trees: Sequence[Tree], progress: Progress) -> list[list[list[float]]]:
        """Summed log-probability of each label, in nats: result[tree][query][label]."""

        def ask(numbers: list[int]) -> list[list[list[float]]]:
            every = chain.from_iterable(map(requests, numbers))
            values = iter(self.at_once(lambda request: sum(self.asked.logprobs(*request)), every))
            return [
                [[next(values) for _ in query.labels] for query in trees[number].queries]
                for number in numbers
            ]

        def requests(number: int) -> Iterator[tuple[list[int], int]]:
            tree = trees[number]
            for query in tree.queries:
                prompt = [*tree.prefix, *query.tokens]
                yield from (([*prompt, *label], len(prompt)) for label in query.labels)

        passes = _passes([sum(len(query.labels) for query in tree.queries) for tree in trees])
        probe = next(requests(0))[0][:PROBE] if trees else []
        answers = self.all(
            passes,
            ask,
            lambda numbers: sum(len(trees[i].queries) for i in numbers),
            progress,
            probe,
        )
        return list(chain.from_iterable(answers))

    def at_once(
        self, ask: Callable[[Request], Answer], requests: Iterable[Request]
    ) -> list[Answer]:
        """The answers in order; the first failure ends the work."""
        return list(self.pool.map(ask, requests))


def server_facts(endpoint: Endpoint) -> Facts:
    """What the server says of its model; raises UserError as `Asked.facts` does."""
    with Server(endpoint.url, endpoint_key()) as server:
        return PROTOCOLS[endpoint.protocol](server, endpoint.model, str).facts()


def classify(
    endpoint: Endpoint,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    config: EvaluationConfig,
    progress: Progress,
    asking: Asking,
) -> pl.DataFrame:
    """The predictions of a served model, as `predictions.ranked` describes them.

    Raises UserError where the tokenizer does, and where `Asked` or `Served.all` does.
    """
    tokenizer = open_tokenizer(endpoint.tokenizer)
    contexts, texts = by_context(suite, inputs)
    by_segment = SegmentTokenizer(tokenizer, config.chat_template)
    limit, channel = context_of(read_config(endpoint.tokenizer)), config.channel
    trees, dropped = trees_of(contexts, by_segment, texts, limit, channel)
    queries = sum(len(tree.queries) for tree in trees)

    def asked(done: int) -> None:
        progress(done * len(suite) // queries)

    with _served(endpoint, tokenizer, asking) as served:
        answers = served.score(trees, asked)
    return predictions_of(suite, contexts, answers, dropped, served.path, channel)


def generate(
    endpoint: Endpoint,
    suite: pl.DataFrame,
    config: EvaluationConfig,
    progress: Progress,
    asking: Asking,
) -> pl.DataFrame:
    """The completions of a served model, as `predictions.generated` describes them."""
    tokenizer = open_tokenizer(endpoint.tokenizer)
    ends = _ends(endpoint.tokenizer, tokenizer)
    prompts, most = prompts_of(suite, SegmentTokenizer(tokenizer, config.chat_template))
    turns = in_turn(prompts, suite)
    passes = [turns[start : start + PASS] for start in range(0, len(turns), PASS)]
    with _served(endpoint, tokenizer, asking) as served:

        def ask(numbers: list[int]) -> list[str]:
            texts = served.at_once(
                lambda number: served.asked.completion(prompts[number], most, ends), numbers
            )
            return list(map(first_line, texts))

        answers = served.all(passes, ask, len, progress)
        line_of = dict(zip(turns, chain.from_iterable(answers), strict=True))
        return generated(suite, [line_of[i] for i in range(len(prompts))], served.path)


def measure(
    endpoint: Endpoint,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    config: EvaluationConfig,
    progress: Progress,
    asking: Asking,
) -> pl.DataFrame:
    """The losses of a served model, as `language.language_loss` describes them."""
    tokenizer = open_tokenizer(endpoint.tokenizer)
    texts, first = texts_of(
        suite, inputs, TextEncoder(tokenizer), context_of(read_config(endpoint.tokenizer))
    )
    trees = [Tree([], [Query(text[:first], [text[first:]])]) for text in texts if len(text) > first]
    with _served(endpoint, tokenizer, asking) as served:
        scores = [queries[0][0] for queries in served.score(trees, progress)]
        return losses_of(suite, texts, first, scores, served.path)


@contextmanager
def _served(
    endpoint: Endpoint, tokenizer: PreTrainedTokenizerBase, asking: Asking
) -> Iterator[Served]:
    def spell(token: int) -> str:
        return str(tokenizer.decode([token]))

    with (
        ThreadPoolExecutor(CONCURRENT) as pool,
        Server(endpoint.url, endpoint_key()) as server,
    ):
        yield Served(PROTOCOLS[endpoint.protocol](server, endpoint.model, spell), asking, pool)


def _passes(requests: Sequence[int]) -> list[list[int]]:
    """The numbers of neighbours whose requests are a pass."""
    passes: list[list[int]] = []
    size = PASS
    for number, count in enumerate(requests):
        if size >= PASS:
            passes.append([])
            size = 0
        passes[-1].append(number)
        size += count
    return passes


def _differs(first: Sequence[float], last: Sequence[float]) -> bool:
    """Whether two probes are of different models: the mean difference of a token."""
    if len(first) != len(last):
        return True
    differences = [abs(a - b) for a, b in zip(first, last, strict=True)]
    return bool(differences) and sum(differences) / len(differences) > TOLERANCE


def _ends(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens with which the model ends a text, as for one that is loaded from the folder."""
    from transformers import GenerationConfig

    config = read_config(folder)
    path = folder / "generation_config.json"
    if path.exists():
        generation = GenerationConfig.from_dict(parse_json(path.read_bytes()))
    else:
        generation = GenerationConfig.from_model_config(config)
    return end_tokens(generation, config.get_text_config(), tokenizer)
