"""Rank classification: the log-probability of every candidate label after a prompt.

A context with its queries is a tree: the shared prefix is the root, queries branch from it, labels
branch from their query. The tree runs as one sequence in which a token sees its ancestors only, so
the prefix is computed once for all queries and labels. Trees share a pass without padding. Only
positions that predict a label token reach the LM head. This module knows nothing about benchmarks.

Shapes: N positions that predict a label token, V vocabulary.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from symtune_pipeline.errors import UserError, is_out_of_memory
from symtune_pipeline.evaluation.asking import ALONE, Asking
from symtune_pipeline.models.attention import packed_logits
from symtune_pipeline.models.opening import check_vocabulary
from symtune_pipeline.models.packing import Branch, PackedSequence
from symtune_pipeline.models.plain import logits_alone
from symtune_pipeline.models.proof import attention_of, is_packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = Sequence[int]
Numbered = tuple[int, "Tree"]  # a tree, or some of its queries, with its number
Batch = list[Numbered]  # what runs in one pass


# A pass above this is no faster on a CPU, and only takes memory; on a GPU it is hardly faster. Its size
# depends on nothing but the device, so that a GPU gives the numbers of another one of its kind.
CPU_TOKENS, GPU_TOKENS = 2_048, 32_768


@dataclass(frozen=True)
class Query:
    """A query's tokens after the shared prefix, and the tokens of each candidate label."""

    tokens: Tokens
    labels: Sequence[Tokens]

    @property
    def size(self) -> int:
        """Tokens that run through the model; a label's last token only has to be predicted."""
        return len(self.tokens) + sum(len(label) - 1 for label in self.labels)


@dataclass(frozen=True)
class Tree:
    """A shared prefix with its queries."""

    prefix: Tokens
    queries: Sequence[Query]

    @property
    def tokens(self) -> int:
        """Tokens that run through the model."""
        return len(self.prefix) + sum(query.size for query in self.queries)


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
    max_tokens = max_tokens or (GPU_TOKENS if model.device.type == "cuda" else CPU_TOKENS)
    passes = _passes(enumerate(trees), max_tokens)
    answers = asking.all(passes, _Scorer(model), _queries, progress, attention_of(model))
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
                return _score_batch(self._model, [tree for _, tree in batch])
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


class _Layout:
    """Trees as one sequence: token ids, positions, visibility, and where each label is predicted."""

    def __init__(self, trees: Sequence[Tree]) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.sequences: list[PackedSequence] = []
        self.sources: list[int] = []  # the token that predicts each target
        self.targets: list[int] = []
        self.label_of: list[int] = []  # each target's label, counted over all trees
        self.labels = 0
        for tree in trees:
            self._add(tree)

    def _add(self, tree: Tree) -> None:
        root = len(tree.prefix)
        self._run(tree.prefix, 0)
        branches = []
        for query in tree.queries:
            before = self._run(query.tokens, root) - 1
            for label in query.labels:
                first = len(self.ids)
                self._run(label[:-1], root + len(query.tokens))
                self.sources.extend([before, *range(first, first + len(label) - 1)])
                self.targets.extend(label)
                self.label_of.extend([self.labels] * len(label))
                self.labels += 1
            twigs = [len(label) - 1 for label in query.labels]
            branches.append(Branch(len(query.tokens), twigs))
        self.sequences.append(PackedSequence(root, branches))

    def _run(self, tokens: Tokens, position: int) -> int:
        """Add tokens that count their positions from `position`; returns where they end."""
        self.ids.extend(tokens)
        self.positions.extend(range(position, position + len(tokens)))
        return len(self.ids)


def _score_batch(model: PreTrainedModel, trees: Sequence[Tree]) -> list[list[list[float]]]:
    layout = _Layout(trees)
    with torch.inference_mode():
        logprobs = _of_trees(model, layout) if is_packed(model) else _of_strings(model, trees)
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


def _of_trees(model: PreTrainedModel, layout: _Layout) -> torch.Tensor:
    """The log-probability of each target, in the order of the layout; all trees in one pass."""
    device = model.device
    sources, row_of = np.unique(layout.sources, return_inverse=True)
    logits_NV = packed_logits(
        model,
        torch.tensor(layout.ids, device=device),
        torch.tensor(layout.positions, device=device),
        layout.sequences,
        torch.from_numpy(sources).to(device),
    )
    log_total_N = logits_NV.float().logsumexp(dim=-1)
    rows = torch.from_numpy(row_of).to(device)
    targets = torch.tensor(layout.targets, device=device)
    return logits_NV[rows, targets].float() - log_total_N[rows]


@dataclass
class _String:
    """A whole string, and the labels that its last tokens predict, by number."""

    tokens: torch.Tensor
    labels: dict[int, Tokens]

    @property
    def predicting(self) -> torch.Tensor:
        """The tokens that predict a label's."""
        longest = max(map(len, self.labels.values()))
        return torch.arange(len(self.tokens) - longest, len(self.tokens))


def _strings(trees: Sequence[Tree]) -> list[_String]:
    """Each string once: the labels of one token that a query has are predicted by the same one."""
    strings: dict[tuple[int, ...], _String] = {}
    labelled = (
        ((*tree.prefix, *query.tokens), label)
        for tree in trees
        for query in tree.queries
        for label in query.labels
    )
    for number, (prompt, label) in enumerate(labelled):
        tokens = (*prompt, *label[:-1])
        string = strings.setdefault(tokens, _String(torch.tensor(tokens), {}))
        string.labels[number] = label
    return list(strings.values())


def _of_strings(model: PreTrainedModel, trees: Sequence[Tree]) -> torch.Tensor:
    """As `_of_trees`, each string in a row of its own; a pass has no more tokens than the trees."""
    most = sum(tree.tokens for tree in trees)
    waiting = deque(sorted(_strings(trees), key=lambda string: len(string.tokens)))
    found: dict[int, torch.Tensor] = {}
    while waiting:
        rows = [waiting.popleft()]
        while waiting and (len(rows) + 1) * len(waiting[0].tokens) <= most:
            rows.append(waiting.popleft())
        logits = logits_alone(model, [r.tokens for r in rows], [r.predicting for r in rows])
        for row, logits_NV in zip(rows, logits, strict=True):
            logprobs_NV = logits_NV.float().log_softmax(dim=-1)
            for number, label in row.labels.items():
                targets = torch.tensor(label, device=model.device)[:, None]
                found[number] = logprobs_NV[-len(label) :].gather(1, targets)[:, 0]
    return torch.cat([found[number] for number in range(len(found))])
