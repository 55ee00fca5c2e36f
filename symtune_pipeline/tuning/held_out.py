"""How far tuning has come: how held-out prompts' own symbols rank, and what they cost in nats.

The model predicts no symbol by itself here: of a prompt's symbols, the one ranks first whose tokens have
the highest log-probability together, so that a symbol is not right for being copied well.
This module knows nothing about when that is measured.

Shapes: N tokens of all symbols after all queries of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import FSDPModule

from symtune_pipeline.files import read_table
from symtune_pipeline.models.trees import Layout, Query, Tree, token_logprobs
from symtune_pipeline.tuning.log import ACCURACY_OF, CHANCE_OF, QUERIES_OF, mean
from symtune_pipeline.tuning.metrics import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HeldOutPrompt:
    """A prompt with its queries, each followed by every symbol; `targets` are the queries' own."""

    dataset: str
    tree: Tree
    targets: Sequence[int]


@dataclass(frozen=True)
class Ranked:
    """What a model makes of one query; losses are of its own symbol, in nats a token."""

    dataset: str
    right: float  # 1, 0, or where symbols share the first rank, its share of it
    chance: float
    first_loss: float
    later_losses: list[float]


def read_held_out(path: Path | None) -> list[HeldOutPrompt]:
    """The prompts of a table of `tables.PACKED_HELD_OUT`; none where there is no file."""
    if path is None:
        return []
    prompts = []
    for row in read_table(path).iter_rows(named=True):
        queries = map(Query, row["query_tokens"], row["symbol_tokens"])
        tree = Tree(row["tokens"], list(queries))
        prompts.append(HeldOutPrompt(row["dataset"], tree, row["targets"]))
    return prompts


def known_tokens(prompts: Sequence[HeldOutPrompt]) -> set[int]:
    """The token ids that the prompts hold."""
    trees = [prompt.tree for prompt in prompts]
    queries = [query for tree in trees for query in tree.queries]
    labels = [label for query in queries for label in query.labels]
    return set(chain(*(t.prefix for t in trees), *(q.tokens for q in queries), *labels))


def measure(model: PreTrainedModel, prompts: Sequence[HeldOutPrompt], precision: str) -> Row:
    """The columns of the log that held-out prompts give, and those of each dataset (`log`).

    Each rank measures all prompts: sharded layers need all ranks anyway, and nothing is left to sum.
    No random number is drawn, and the model is left in training mode.
    """
    bf16 = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16")
    model.eval()
    # Compiled layers would be compiled anew for these shapes, and for those of blocks after them.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), bf16:
        ranked = [query for prompt in prompts for query in _ranked(model, prompt)]
    if isinstance(model, FSDPModule):
        model.reshard()  # which after a pass without gradients nothing else does
    model.train()
    row: Row = {
        "symbol_accuracy": mean(query.right for query in ranked),
        "symbol_chance": mean(query.chance for query in ranked),
        "first_token_loss": mean(query.first_loss for query in ranked),
        "later_token_loss": mean(loss for query in ranked for loss in query.later_losses),
    }
    for dataset in sorted({query.dataset for query in ranked}):
        own = [query for query in ranked if query.dataset == dataset]
        row[f"{ACCURACY_OF}{dataset}"] = mean(query.right for query in own)
        row[f"{CHANCE_OF}{dataset}"] = mean(query.chance for query in own)
        row[f"{QUERIES_OF}{dataset}"] = len(own)
    return row


def _ranked(model: PreTrainedModel, prompt: HeldOutPrompt) -> list[Ranked]:
    logprobs_N = token_logprobs(model, Layout([prompt.tree])).double().cpu()
    sizes = [len(label) for query in prompt.tree.queries for label in query.labels]
    by_symbol = iter(logprobs_N.split(sizes))
    found = []
    for query, target in zip(prompt.tree.queries, prompt.targets, strict=True):
        symbols = [next(by_symbol) for _ in query.labels]
        sums = torch.stack([logprobs.sum() for logprobs in symbols])
        first = sums == sums.max()  # none, where the model's output is no number
        right = float(first[target] / first.sum().clamp(min=1))
        losses = (-symbols[target]).tolist()
        found.append(Ranked(prompt.dataset, right, 1 / len(symbols), losses[0], losses[1:]))
    return found
