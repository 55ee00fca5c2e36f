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
from symtune_pipeline.models.head import predict_in_float32
from symtune_pipeline.models.loading import load_scorer
from symtune_pipeline.models.opening import check_vocabulary
from symtune_pipeline.models.proof import attention_of, choose_path
from symtune_pipeline.models.trees import Layout, Tree, predicted_tokens
from symtune_pipeline.models.trial import NOT_FINITE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Numbered = tuple[int, Tree]  # a tree, or some of its queries, with its number
Batch = list[Numbered]  # what runs in one pass
Scored = tuple[float, bool]  # of a label: its log-probability, and whether it would be generated

PREDICTING = (
    4_096  # tokens of a pass that reach the LM head, each as a row as long as the vocabulary
)


def open_scorer(folder: Path, precision: Precision, asking: Asking) -> PreTrainedModel:
    """The model in a folder, where and as it is evaluated; on several ranks, all fail together.

    Raises UserError where `load_scorer` does, and where memory runs out.
    """
    device, dtype = device_and_precision(precision)

    def loaded() -> PreTrainedModel:
        with fitting(folder):
            if asking.team is None:
                return load_scorer(folder, dtype, device)
            model: PreTrainedModel = asking.team.open(folder, dtype, "eager")
            predict_in_float32(model)
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
    scored = score_greedily(model, trees, max_tokens, progress, asking)
    return [[[logprob for logprob, _ in labels] for labels in tree] for tree in scored]


def score_greedily(
    model: PreTrainedModel,
    trees: Sequence[Tree],
    max_tokens: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking = ALONE,
) -> list[list[list[Scored]]]:
    """As `score`, and of each label whether the model would generate it, token by token."""
    check_vocabulary(model, _tokens(trees))
    passes = _passes(enumerate(trees), max_tokens or PASS_TOKENS[model.device.type])
    answer = asking.team.answering(partial(_score_pass, model)) if asking.team else _Scorer(model)
    answers = asking.all(passes, answer, _queries, progress, attention_of(model))
    scores: list[list[list[Scored]]] = [[] for _ in trees]
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

    def __call__(self, batch: Batch) -> list[list[list[Scored]]]:
        """What `score_greedily` has, by the pass's trees, their queries and labels."""
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
        scores: dict[int, list[list[Scored]]] = {number: [] for number, _ in batch}
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
    room, rows = max_tokens, PREDICTING
    while waiting and (
        not batch or (waiting[0][1].tokens <= room and waiting[0][1].predicting <= rows)
    ):
        number, tree = waiting.popleft()
        ends = list(accumulate((q.size for q in tree.queries), initial=len(tree.prefix)))
        heads = list(accumulate(q.predicting for q in tree.queries))
        fitting = max(1, min(bisect_right(ends, max_tokens) - 1, bisect_right(heads, PREDICTING)))
        taken = Tree(tree.prefix, tree.queries[:fitting])
        batch.append((number, taken))
        room, rows = room - taken.tokens, rows - taken.predicting
        if fitting < len(tree.queries):
            waiting.appendleft((number, Tree(tree.prefix, tree.queries[fitting:])))
    return batch


def _score_pass(model: PreTrainedModel, batch: Batch) -> list[list[list[Scored]]]:
    trees = [tree for _, tree in batch]
    layout = Layout(trees)
    with torch.inference_mode():
        logprobs, chosen = predicted_tokens(model, layout)
        label_of = torch.tensor(layout.label_of, device=model.device)
        none = torch.zeros(layout.labels, dtype=torch.float64, device=model.device)
        summed = none.index_add(0, label_of, logprobs.double())
        others = none.index_add(0, label_of, (~chosen).double())  # tokens that it would not choose
    if not bool(torch.isfinite(summed).all()):
        raise UserError(NOT_FINITE.format(model.name_or_path))
    flat = zip(summed.tolist(), (others == 0).tolist(), strict=True)
    return [[[next(flat) for _ in query.labels] for query in tree.queries] for tree in trees]
