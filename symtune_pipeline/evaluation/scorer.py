"""Rank classification: the log-probability of every candidate label after a prompt.

A context with its queries is a tree (`models.trees`); trees share a pass without padding. This module
knows nothing about benchmarks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from symtune_pipeline.errors import UserError, is_out_of_memory
from symtune_pipeline.evaluation.asking import ALONE, PASS_TOKENS, Asking
from symtune_pipeline.models.device import Precision, device_and_precision, fitting
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.opening import check_vocabulary
from symtune_pipeline.models.proof import attention_of, choose_path
from symtune_pipeline.models.trees import Layout, Tree, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Numbered = tuple[int, Tree]  # a tree, or some of its queries, with its number
Batch = list[Numbered]  # what runs in one pass


def open_scorer(folder: Path, precision: Precision, asking: Asking) -> PreTrainedModel:
    """The model in a folder, where and as it is evaluated; on several ranks, all fail together.

    Raises UserError where `load_model` does, and where memory runs out.
    """
    device, dtype = device_and_precision(precision)

    def loaded() -> PreTrainedModel:
        with fitting(folder):
            if asking.team is None:
                return load_model(folder, dtype, device).eval()  # type: ignore[no-any-return]
            model: PreTrainedModel = asking.team.open(folder, dtype, "eager")
            choose_path(model)
            return model

    return asking.together(loaded)


def score(
    model: PreTrainedModel,
    trees: Sequence[Tree],
    max_tokens: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking = ALONE,
) -> list[list[list[float]]]:
    """Summed log-probability of each label, in nats: result[tree][query][label].

    Trees run together up to `max_tokens` a pass (None: what suits the device); a larger tree runs its
    queries in several passes. A pass that runs out of memory is tried again in halves. `progress` is
    called with the number of queries done, and `asking` says who runs which passes. Raises UserError
    for a token beyond the model's vocabulary, where its output is not a number, and where one query
    alone runs out of memory.
    """
    check_vocabulary(model, _tokens(trees))
    passes = _passes(enumerate(trees), max_tokens or PASS_TOKENS[model.device.type])
    answer = asking.team.answering(partial(_score_pass, model)) if asking.team else _Scorer(model)
    answers = asking.all(passes, answer, _queries, progress, attention_of(model))
    scores: list[list[list[float]]] = [[] for _ in trees]
    for batch, by_tree in zip(passes, answers, strict=True):
        for (number, _), of_tree in zip(batch, by_tree, strict=True):
            scores[number].extend(of_tree)
    return scores


def _queries(batch: Batch) -> int:
    return sum(len(tree.queries) for _, tree in batch)


class _Scorer:
    """Scores passes, and remembers which are too large for the memory.

    A pass runs in halves where it, or a smaller one before it, has run out of memory: its parts are
    the same whichever passes came before.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._too_large = math.inf  # tokens

    def __call__(self, batch: Batch) -> list[list[list[float]]]:
        """Log-probabilities by the pass's trees, their queries and labels."""
        size = sum(tree.tokens for _, tree in batch)
        if size < self._too_large or _queries(batch) == 1:
            try:
                return _score_pass(self._model, batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if _queries(batch) == 1:
                    raise UserError(
                        f"Model {self._model.name_or_path} runs out of memory on a prompt of {size} tokens;"
                        " lower evaluation.exemplars_per_class or use a machine with more memory."
                    ) from error
                self._too_large = size
        scores: dict[int, list[list[float]]] = {number: [] for number, _ in batch}
        for half in _passes(batch, size // 2):
            for (number, _), of_tree in zip(half, self(half), strict=True):
                scores[number].extend(of_tree)
        return list(scores.values())


def _tokens(trees: Sequence[Tree]) -> Iterator[int]:
    for tree in trees:
        yield from tree.prefix
        for query in tree.queries:
            yield from chain(query.tokens, *query.labels)


def _passes(trees: Iterable[Numbered], max_tokens: int) -> list[Batch]:
    """All trees, as many a pass as fit."""
    waiting, passes = deque(trees), []
    while waiting:
        passes.append(_take(waiting, max_tokens))
    return passes


def _take(waiting: deque[Numbered], max_tokens: int) -> Batch:
    """The next trees, up to `max_tokens`; one above that leaves its later queries waiting."""
    batch: Batch = []
    room = max_tokens
    while waiting and (not batch or waiting[0][1].tokens <= room):
        number, tree = waiting.popleft()
        ends = list(accumulate((q.size for q in tree.queries), initial=len(tree.prefix)))
        fitting = max(1, bisect_right(ends, max_tokens) - 1)
        batch.append((number, Tree(tree.prefix, tree.queries[:fitting])))
        room -= ends[min(fitting, len(tree.queries))]
        if fitting < len(tree.queries):
            waiting.appendleft((number, Tree(tree.prefix, tree.queries[fitting:])))
    return batch


def _score_pass(model: PreTrainedModel, batch: Batch) -> list[list[list[float]]]:
    trees = [tree for _, tree in batch]
    layout = Layout(trees)
    with torch.inference_mode():
        logprobs = token_logprobs(model, layout)
        summed = torch.zeros(layout.labels, dtype=torch.float64, device=model.device).index_add_(
            0, torch.tensor(layout.label_of, device=model.device), logprobs.double()
        )
    if not bool(torch.isfinite(summed).all()):
        raise UserError(
            f"Model {model.name_or_path} returned a log-probability that is no finite number; its"
            " weights are damaged or its precision is too low."
        )
    flat = iter(summed.tolist())
    return [[[next(flat) for _ in query.labels] for query in tree.queries] for tree in trees]
