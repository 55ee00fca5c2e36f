"""Pairs of a context and a continuation as trees, so that what contexts begin with alike runs once.

A context with all its continuations is a query of a tree; the contexts of a tree share a beginning, such
as the exemplars of a few-shot task. This module knows nothing about the harness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from symtune_pipeline.evaluation.scorer import Scored, score_greedily
from symtune_pipeline.models.trees import Query, Tree
from symtune_pipeline.prompts.tokens import shared_beginning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pair = tuple[list[int], list[int]]  # the tokens of a context, and of what follows

MOST = 256  # contexts of a tree, which costs little: a pass holds fewer


def score_pairs(
    model: PreTrainedModel,
    pairs: Sequence[Pair],
    max_tokens: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Scored]:
    """The summed log-probability of each continuation, in nats, and whether it would be generated.

    The model comes from `loading.load_model`; `progress` is told how many pairs are scored. Equal pairs
    are scored once. Raises UserError where `scorer.score` does.
    """
    continuations: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for context, continuation in pairs:
        continuations.setdefault(tuple(context), {})[tuple(continuation)] = None
    groups = list(alike(sorted(continuations)))
    trees = []
    for contexts in groups:
        shared = shared_beginning([list(context[:-1]) for context in contexts])
        queries = [Query(each[shared:], list(continuations[each])) for each in contexts]
        trees.append(Tree(contexts[0][:shared], queries))

    def asked(done: int) -> None:
        progress(done * len(pairs) // len(continuations))

    answers = score_greedily(model, trees, max_tokens, asked)
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], Scored] = {}
    for group, of_tree in zip(groups, answers, strict=True):
        for own, scores in zip(group, of_tree, strict=True):
            scored = zip(continuations[own], scores, strict=True)
            found |= {(own, following): score for following, score in scored}
    return [found[tuple(context), tuple(continuation)] for context, continuation in pairs]


def alike(contexts: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Sorted contexts in groups: neighbours that share at least half of the shorter one's tokens.

    A tree has one beginning, so a context that shares little would take from the others what they share.
    """
    group = list(contexts[:1])
    for before, context in pairwise(contexts):
        shared = shared_beginning([list(before), list(context)])
        if len(group) == MOST or 2 * shared < min(len(before), len(context)):
            yield group
            group = []
        group.append(context)
    if group:
        yield group
