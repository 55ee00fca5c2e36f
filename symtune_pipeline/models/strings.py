"""Strings that lie one after another, and what a model predicts at some of their tokens, for a loss.

They run as one sequence where the model's class can be packed, and else each in a row of its own. This
module knows nothing about prompts.

Shapes: T tokens of all strings, N targets, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from symtune_pipeline.models.attention import packed_logits
from symtune_pipeline.models.packing import PackedSequence
from symtune_pipeline.models.plain import logits_alone
from symtune_pipeline.models.proof import is_packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def target_logits(
    model: PreTrainedModel, tokens_T: torch.Tensor, lengths: Sequence[int], targets_N: torch.Tensor
) -> torch.Tensor:
    """Logits that predict the tokens at the positions `targets_N` [N, V], which are in order.

    `lengths` are those of the strings. A target sees what is before it in its string; it is no first
    token of one.
    """
    return (_packed if is_packed(model) else _plain)(model, tokens_T, lengths, targets_N)


def _packed(
    model: PreTrainedModel, tokens_T: torch.Tensor, lengths: Sequence[int], targets_N: torch.Tensor
) -> torch.Tensor:
    device = model.device
    positions = torch.cat([torch.arange(length) for length in lengths])
    # As for blocks: the number of rows that reach the LM head is a multiple of 64.
    rows = torch.cat([targets_N, targets_N[-1:].expand(-len(targets_N) % 64)])
    return packed_logits(
        model,
        tokens_T.to(device),
        positions.to(device),
        [PackedSequence(length) for length in lengths],
        rows.to(device) - 1,  # the token before a target predicts it
    )[: len(targets_N)]


def _plain(
    model: PreTrainedModel, tokens_T: torch.Tensor, lengths: Sequence[int], targets_N: torch.Tensor
) -> torch.Tensor:
    """One pass, whatever the strings: ranks that share a model meet in every pass."""
    ends = torch.tensor(lengths).cumsum(0)
    starts = ends - torch.tensor(lengths)
    of_string = torch.searchsorted(ends, targets_N, right=True)
    strings, counts = of_string.unique_consecutive(return_counts=True)
    keep = (targets_N - 1 - starts[of_string]).split(counts.tolist())
    asked = [tokens_T[starts[n] : ends[n]] for n in strings.tolist()]
    return torch.cat(logits_alone(model, asked, keep))
