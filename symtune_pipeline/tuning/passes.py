"""How many blocks of a step run together in one pass of the model.

On a CPU it is one. A GPU computes the block of a small model faster than Python can start its kernels, so
there several blocks run together, as many as memory has room for. What a step learns stays the same, to
rounding. This module knows nothing about models.
"""

from __future__ import annotations

import torch

from symtune_pipeline.jobs.ranks import Ranks
from symtune_pipeline.tuning.order import PASS_TOKENS

ROOM = 0.8  # of a GPU's memory: passes differ in how many targets they predict


class Passes:
    """The number of blocks that run together, by the memory that one block has taken."""

    def __init__(self, block_tokens: int, ranks: Ranks) -> None:
        self._block_tokens, self._ranks = block_tokens, ranks
        self._steps = 0
        self._together = 1

    def together(self) -> int:
        """Of the step that begins: 1 in the first two, in the second of which memory is measured."""
        if self._ranks.device.type == "cuda":
            if self._steps == 1:  # the optimiser has its moments by now
                torch.cuda.reset_peak_memory_stats()
            elif self._steps == 2:
                self._together = self._ranks.broadcast(self._measured)
            self._steps += 1
        return self._together

    def _measured(self) -> int:
        device = self._ranks.device
        total = torch.cuda.get_device_properties(device).total_memory
        held, most = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        return fitting(total, held, most - held, self._block_tokens)


def fitting(total: int, held: int, of_block: int, block_tokens: int) -> int:
    """How many blocks fit beside what is held between steps; all but the last number are bytes."""
    room = int(ROOM * total) - held
    return max(1, min(PASS_TOKENS // block_tokens, room // of_block))
