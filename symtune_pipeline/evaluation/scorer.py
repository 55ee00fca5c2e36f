"""Rank classification: the log-probability of every candidate label after a prompt.

A context with its queries is a tree: the shared prefix is the root, queries branch from it, labels
branch from their query. The tree runs as one sequence in which a token sees its ancestors only, so
the prefix is computed once for all queries and labels. Only positions that predict a label token
reach the LM head. This module knows nothing about benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from symtune_pipeline.attention import Part, attending
from symtune_pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = Sequence[int]


@dataclass(frozen=True)
class Query:
    """A query's tokens after the shared prefix, and the tokens of each candidate label."""

    tokens: Tokens
    labels: Sequence[Tokens]


@dataclass(frozen=True)
class Tree:
    """A shared prefix with its queries."""

    prefix: Tokens
    queries: Sequence[Query]

    @property
    def tokens(self) -> int:
        """Tokens that run through the model; a label's last token only has to be predicted."""
        return len(self.prefix) + sum(
            len(q.tokens) + sum(len(label) - 1 for label in q.labels) for q in self.queries
        )


def score(
    model: PreTrainedModel,
    trees: Sequence[Tree],
    max_tokens: int = 2_048,
    progress: Callable[[int], None] = lambda _: None,
) -> list[list[list[float]]]:
    """Summed log-probability of each label, in nats: result[tree][query][label].

    Trees run together up to `max_tokens` a pass; a larger tree runs its queries in several passes.
    `progress` is called with the number of queries done. Raises UserError where a model's output is
    not a number.
    """
    scores: list[list[list[float]]] = [[] for _ in trees]
    done = 0
    for batch in _batches(trees, max_tokens):
        for (place, _), found in zip(
            batch, _score_batch(model, [t for _, t in batch]), strict=True
        ):
            scores[place].extend(found)
            done += len(found)
        progress(done)
    return scores


def _batches(trees: Sequence[Tree], max_tokens: int) -> Iterator[list[tuple[int, Tree]]]:
    """Trees by their place, grouped to `max_tokens`; a tree above that is cut between queries."""
    batch: list[tuple[int, Tree]] = []
    size = 0
    for place, tree in enumerate(trees):
        for part in _cut(tree, max_tokens):
            if batch and size + part.tokens > max_tokens:
                yield batch
                batch, size = [], 0
            batch.append((place, part))
            size += part.tokens
    if batch:
        yield batch


def _cut(tree: Tree, max_tokens: int) -> Iterator[Tree]:
    queries: list[Query] = []
    for query in tree.queries:
        if queries and Tree(tree.prefix, [*queries, query]).tokens > max_tokens:
            yield Tree(tree.prefix, queries)
            queries = []
        queries.append(query)
    yield Tree(tree.prefix, queries)


class _Layout:
    """Trees as one sequence: token ids, positions, visibility, and where each label is predicted."""

    def __init__(self, trees: Sequence[Tree], device: torch.device) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.parts: list[Part] = []
        self.sources: list[int] = []  # the token that predicts each target
        self.targets: list[int] = []
        self.label_of: list[
            int
        ] = []  # the label that each target belongs to, counted over all trees
        self.labels = 0
        for tree in trees:
            self._add(tree, device)

    def _add(self, tree: Tree, device: torch.device) -> None:
        start = len(self.ids)
        spans: list[tuple[int, int, int]] = []  # first token, end, parent's span
        root = self._run(tree.prefix, 0, -1, spans)
        for query in tree.queries:
            branch = self._run(query.tokens, len(tree.prefix), root, spans)
            before = spans[branch][1] - 1
            for label in query.labels:
                first = len(self.ids)
                self._run(label[:-1], len(tree.prefix) + len(query.tokens), branch, spans)
                self.sources.extend([before, *range(first, first + len(label) - 1)])
                self.targets.extend(label)
                self.label_of.extend([self.labels] * len(label))
                self.labels += 1
        length = len(self.ids) - start
        visible = np.zeros((length, length), dtype=bool)
        for first, end, parent in spans:
            rows = slice(first - start, end - start)
            visible[rows, rows] = np.tri(end - first, dtype=bool)
            while parent >= 0:
                above_first, above_end, parent = spans[parent]
                visible[rows, above_first - start : above_end - start] = True
        self.parts.append(Part(length, torch.from_numpy(visible).to(device)))

    def _run(
        self, tokens: Tokens, position: int, parent: int, spans: list[tuple[int, int, int]]
    ) -> int:
        spans.append((len(self.ids), len(self.ids) + len(tokens), parent))
        self.ids.extend(tokens)
        self.positions.extend(range(position, position + len(tokens)))
        return len(spans) - 1


def _score_batch(model: PreTrainedModel, trees: Sequence[Tree]) -> list[list[list[float]]]:
    device = model.device
    layout = _Layout(trees, device)
    sources, place = np.unique(layout.sources, return_inverse=True)
    with torch.inference_mode(), attending(layout.parts):
        logits_NV = model(
            input_ids=torch.tensor([layout.ids], device=device),
            position_ids=torch.tensor([layout.positions], device=device),
            logits_to_keep=torch.from_numpy(sources).to(device),
            use_cache=False,
        ).logits[0]
        log_total_N = logits_NV.float().logsumexp(dim=-1)
        rows = torch.from_numpy(place).to(device)
        chosen = (
            logits_NV[rows, torch.tensor(layout.targets, device=device)].float() - log_total_N[rows]
        )
        summed = torch.zeros(layout.labels, dtype=torch.float64, device=device).index_add_(
            0, torch.tensor(layout.label_of, device=device), chosen.double()
        )
    if not bool(torch.isfinite(summed).all()):
        raise UserError(
            f"Model {model.name_or_path} returned a log-probability that is no finite number; its"
            " weights are damaged or its precision is too low."
        )
    flat = iter(summed.tolist())
    return [[[next(flat) for _ in query.labels] for query in tree.queries] for tree in trees]
