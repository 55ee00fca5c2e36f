"""Trees: a shared prefix, queries that branch from it, labels that branch from their query.

A tree runs as one sequence in which a token sees its ancestors only, so the prefix is computed once for
all queries and labels. Only positions that predict a label token reach the LM head. A class that
cannot be packed runs each string alone. This module knows nothing about what the queries are.

Shapes: N label tokens, or the positions that predict them; V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from symtune_pipeline.models.attention import packed_logits
from symtune_pipeline.models.lengths import scaled_above
from symtune_pipeline.models.packing import Branch, PackedSequence
from symtune_pipeline.models.plain import logits_alone
from symtune_pipeline.models.proof import is_packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = Sequence[int]


@dataclass(frozen=True)
class Query:
    """A query's tokens after the shared prefix, and the tokens of each candidate label."""

    tokens: Tokens
    labels: Sequence[Tokens]

    @property
    def size(self) -> int:
        """Tokens that run through the model; a label's last token only has to be predicted."""
        return len(self.tokens) + sum(len(label) - 1 for label in self.labels)

    @property
    def predicting(self) -> int:
        """Tokens that predict a label's, and so reach the LM head."""
        return 1 + sum(len(label) - 1 for label in self.labels)


@dataclass(frozen=True)
class Tree:
    """A shared prefix with its queries."""

    prefix: Tokens
    queries: Sequence[Query]

    @property
    def tokens(self) -> int:
        """Tokens that run through the model."""
        return len(self.prefix) + sum(query.size for query in self.queries)

    @property
    def predicting(self) -> int:
        """Tokens that predict a label's, and so reach the LM head."""
        return sum(query.predicting for query in self.queries)


class Layout:
    """Trees as one sequence: token ids, positions, visibility, and where each label is predicted."""

    def __init__(self, trees: Sequence[Tree]) -> None:
        self.trees = trees
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


def token_logprobs(model: PreTrainedModel, layout: Layout) -> torch.Tensor:
    """The log-probability of each label token [N] in the layout's order, in nats, as float32.

    The trees run in one pass where the model's class can be packed.
    """
    return predicted_tokens(model, layout)[0]


def predicted_tokens(model: PreTrainedModel, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """As `token_logprobs`, and whether each label token is the one that the model would choose [N]."""
    return _of_trees(model, layout) if is_packed(model) else _of_strings(model, layout.trees)


def _of_trees(model: PreTrainedModel, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """As `predicted_tokens`; all trees in one pass."""
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
    logprobs = logits_NV[rows, targets].float() - log_total_N[rows]
    return logprobs, logits_NV.argmax(dim=-1)[rows] == targets


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


def _of_strings(model: PreTrainedModel, trees: Sequence[Tree]) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_of_trees`, each string in a row of its own; a pass has no more tokens than the trees.

    Where the longest row of a pass scales the positions of all, a pass has rows that are scaled alike.
    """
    most = sum(tree.tokens for tree in trees)
    bound = scaled_above(model.config.get_text_config()) or math.inf
    waiting = deque(sorted(_strings(trees), key=lambda string: len(string.tokens)))
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    while waiting:
        rows = [waiting.popleft()]
        while (
            waiting
            and (len(rows) + 1) * len(waiting[0].tokens) <= most
            and (len(rows[0].tokens) <= bound) == (len(waiting[0].tokens) <= bound)
        ):
            rows.append(waiting.popleft())
        logits = logits_alone(model, [r.tokens for r in rows], [r.predicting for r in rows])
        for row, logits_NV in zip(rows, logits, strict=True):
            logprobs_NV = logits_NV.float().log_softmax(dim=-1)
            for number, label in row.labels.items():
                targets = torch.tensor(label, device=model.device)
                own = logprobs_NV[-len(label) :]
                logprobs = own.gather(1, targets[:, None])[:, 0]
                found[number] = logprobs, own.argmax(dim=-1) == targets
    logprobs_by_label, chosen = zip(*(found[number] for number in range(len(found))), strict=True)
    return torch.cat(logprobs_by_label), torch.cat(chosen)
