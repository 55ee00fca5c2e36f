"""How far tuning has come: loss and symbol accuracy on blocks that it never sees.

This module knows nothing about when that is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from symtune_pipeline.tuning.metrics import Row
from symtune_pipeline.tuning.step import Block, block_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def measure(model: PreTrainedModel, blocks: Sequence[Block], precision: str) -> Row:
    """Mean loss in nats per target, and the share of symbols of which every token was predicted.

    Each rank measures all blocks: sharded layers need all ranks anyway, and nothing is left to sum.
    The model is left in training mode.
    """
    loss, right, targets, symbols = 0.0, 0, 0, 0
    model.eval()
    with torch.no_grad():
        for block in blocks:
            block_sum, right_N = block_loss(model, block, precision)
            # The tokens of a symbol lie side by side; between two symbols there is other text.
            first = np.flatnonzero(np.diff(block.targets.numpy(), prepend=-2) != 1)
            loss += block_sum.item()
            right += int(np.logical_and.reduceat(right_N.cpu().numpy(), first).sum())
            targets += len(block.targets)
            symbols += len(first)
    model.train()
    return {"held_out_loss": loss / targets, "held_out_accuracy": right / symbols}
