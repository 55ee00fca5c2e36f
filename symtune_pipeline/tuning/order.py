"""Which blocks each step takes, and after which steps progress is measured.

This module knows nothing about models.
"""

from __future__ import annotations

import numpy as np

from symtune_pipeline.tuning.config import JobConfig

# Tokens that are only read cost about a third of those that are also learned from.
READS_PER_TRAINED = 3
SHARE = 0.03  # of the run that measuring may take, where the fewest measurements take less
MEASUREMENTS = (5, 50)  # at least and at most: enough to see where a curve goes, and for a curve
# Tokens of a pass on a GPU, in whole blocks: on an H100 with 135M parameters about twice as fast as
# 8,192.
PASS_TOKENS = 16_384


def step_plan(blocks: int, config: JobConfig) -> list[list[int]]:
    """The numbers of the blocks of every step, up to `steps`; each epoch is shuffled anew."""
    order = [
        number for epoch in range(config.epochs) for number in _shuffled(blocks, config, epoch)
    ]
    per_step = blocks_per_step(config)
    plan = [order[start : start + per_step] for start in range(0, len(order), per_step)]
    return plan[: config.steps]


def blocks_per_step(config: JobConfig) -> int:
    """How many blocks a step has; the last one may have fewer."""
    return max(1, round(config.tokens_per_step / config.block_tokens))


def measured_steps(steps: list[list[int]], block_tokens: int, held_out_tokens: int) -> set[int]:
    """After how many steps progress is measured on so many tokens: 0, all, and evenly between."""
    if not held_out_tokens:
        return set()
    trained = sum(map(len, steps)) * block_tokens
    fewest, most = MEASUREMENTS
    count = min(most, max(fewest, int(SHARE * READS_PER_TRAINED * trained / held_out_tokens)))
    return set(np.linspace(0, len(steps), count).round().astype(int).tolist())


def _shuffled(blocks: int, config: JobConfig, epoch: int) -> list[int]:
    order: list[int] = np.random.default_rng([config.seed, epoch]).permutation(blocks).tolist()
    return order
