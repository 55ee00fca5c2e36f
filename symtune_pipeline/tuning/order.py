"""Which blocks each step takes, which are held out, and after which steps those are measured.

This module knows nothing about models.
"""

from __future__ import annotations

import numpy as np

from symtune_pipeline.errors import UserError
from symtune_pipeline.tuning.config import JobConfig

# A block that is only read costs about a third of one that is also learned from.
READS_PER_TRAINED_BLOCK = 3
SHARE = 0.03  # of the run that measuring may take, where two measurements take less
MEASUREMENTS = 50  # at most: enough for a curve
# Tokens of a pass on a GPU, in whole blocks: on an H100 with 135M parameters about twice as fast as
# 8,192.
PASS_TOKENS = 16_384


def step_plan(blocks: int, config: JobConfig) -> list[list[int]]:
    """The numbers of the blocks of every step, up to `steps`; each epoch is shuffled anew.

    Raises UserError where all blocks are held out.
    """
    kept_out = set(held_out(blocks, config))
    if len(kept_out) == blocks:
        raise UserError(
            f"tuning.held_out_blocks is {config.held_out_blocks}, and {config.blocks} has no more"
            f" than {blocks} blocks; lower it, or raise mixture.prompts."
        )
    order = [
        number
        for epoch in range(config.epochs)
        for number in _shuffled(blocks, config, epoch)
        if number not in kept_out
    ]
    per_step = blocks_per_step(config)
    plan = [order[start : start + per_step] for start in range(0, len(order), per_step)]
    return plan[: config.steps]


def blocks_per_step(config: JobConfig) -> int:
    """How many blocks a step has; the last one may have fewer."""
    return max(1, round(config.tokens_per_step / config.block_tokens))


def held_out(blocks: int, config: JobConfig) -> list[int]:
    """The blocks that no step takes: those that the first epoch would have taken last."""
    first_kept_out = max(0, blocks - config.held_out_blocks)
    return _shuffled(blocks, config, epoch=0)[first_kept_out:]


def measured_steps(steps: list[list[int]], held_out_blocks: int) -> set[int]:
    """After how many steps the held-out blocks are measured: 0, all of them, and evenly between."""
    if not held_out_blocks:
        return set()
    affordable = SHARE * READS_PER_TRAINED_BLOCK * sum(map(len, steps)) / held_out_blocks
    count = min(MEASUREMENTS, max(2, int(affordable)))
    return set(np.linspace(0, len(steps), count).round().astype(int).tolist())


def _shuffled(blocks: int, config: JobConfig, epoch: int) -> list[int]:
    order: list[int] = np.random.default_rng([config.seed, epoch]).permutation(blocks).tolist()
    return order
