"""One training step's loss: hidden states of a packed block, and the LM head at targets only.

This module knows nothing about files, launchers or schedules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.strings import target_logits
from symtune_pipeline.prompts.targets import LEAST_KIND
from symtune_pipeline.sections import LossName
from symtune_pipeline.tuning.smoothing import Rivals, rivals_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Block:
    """A packed block as tensors: token ids [T], lengths of its parts, targets' positions [N], rivals.

    Every block is filled up to the same length with a last part that is no prompt: kernels are
    compiled per shape, and shapes that never repeat cost time and memory.
    """

    number: int
    tokens: torch.Tensor
    lengths: list[int]
    targets: torch.Tensor
    rivals: Rivals | None = None  # of its targets, where labels are smoothed

    @classmethod
    def from_row(
        cls, row: dict[str, list[int]], loss: LossName, block_tokens: int, smoothing: float = 0.0
    ) -> Block:
        """From a row of a packed mixture; raises UserError where no token is a target."""
        least = LEAST_KIND[loss]
        positions = [
            position
            for position, kind in zip(row["target_positions"], row["target_kinds"], strict=True)
            if kind >= least
        ]
        if not positions:
            raise UserError(
                f"Block {row['block']} has no token that loss '{loss}' trains on; pack the"
                " mixture again."
            )
        missing = block_tokens - len(row["tokens"])
        return cls(
            int(row["block"]),  # type: ignore[call-overload]
            torch.tensor(row["tokens"] + [0] * missing),
            row["sequence_lengths"] + [missing] * (missing > 0),
            torch.tensor(positions),
            rivals_of(row, positions, smoothing) if smoothing else None,
        )

    @classmethod
    def joined(cls, blocks: Sequence[Block]) -> Block:
        """Blocks one after another, as one with the first one's number, without rivals."""
        starts = accumulate((len(block.tokens) for block in blocks), initial=0)
        return cls(
            blocks[0].number,
            torch.cat([block.tokens for block in blocks]),
            [length for block in blocks for length in block.lengths],
            torch.cat(
                [start + block.targets for start, block in zip(starts, blocks, strict=False)]
            ),
        )


def block_loss(
    model: PreTrainedModel, block: Block, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy over the block's targets, in nats, and which were predicted right [N].

    It is that of smoothed labels where the block has rivals.
    """
    (loss,), right_N = block_losses(model, [block], precision)
    return loss, right_N


def block_losses(
    model: PreTrainedModel, blocks: Sequence[Block], precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `block_loss`, for several blocks in one pass [B]; N counts the targets of all."""
    block = Block.joined(blocks)
    labels_N = block.tokens[block.targets].to(model.device)
    bf16 = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16")
    with bf16:
        logits_NV = target_logits(model, block.tokens, block.lengths, block.targets)
    counts = [len(each.targets) for each in blocks]
    losses = [
        cross_entropy(logits.float(), labels, reduction="sum")
        + (each.rivals.more(logits, labels) if each.rivals else 0.0)
        for each, logits, labels in zip(
            blocks, logits_NV.split(counts), labels_N.split(counts), strict=True
        )
    ]
    return torch.stack(losses), logits_NV.argmax(dim=-1) == labels_N
