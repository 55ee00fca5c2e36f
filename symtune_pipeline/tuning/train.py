"""The loop over the steps of a fine-tune: their blocks, rows of the log, and checkpoints.

This module knows nothing about how a job begins and what becomes of its model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import torch

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import read_table
from symtune_pipeline.jobs.ranks import Ranks
from symtune_pipeline.models.opening import check_vocabulary
from symtune_pipeline.progress import Progress
from symtune_pipeline.tuning.checkpoint import Checkpoints, State
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.held_out import HeldOutPrompt, known_tokens, measure, read_held_out
from symtune_pipeline.tuning.log import is_best
from symtune_pipeline.tuning.metrics import Meter, Row
from symtune_pipeline.tuning.optimizer import learning_rates, take_step
from symtune_pipeline.tuning.order import blocks_per_step, measured_steps, step_plan
from symtune_pipeline.tuning.passes import Passes
from symtune_pipeline.tuning.step import Block
from symtune_pipeline.tuning.working import Working


class PackedBlocks:
    """The packed mixture that a job trains on, by the blocks' numbers."""

    def __init__(self, config: JobConfig) -> None:
        self._table = read_table(config.blocks)  # its row i holds block i
        self._config = config
        self._tokens = self._table["tokens"].list.len().to_list()
        self._lengths = self._table["sequence_lengths"].to_list()

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> Block:
        """The block as tensors; raises UserError where the loss trains on none of its tokens."""
        row = self._table.row(number, named=True)
        config = self._config
        return Block.from_row(row, config.loss, config.block_tokens, config.label_smoothing)

    def tokens(self, numbers: Sequence[int]) -> int:
        """How many tokens the blocks hold."""
        return sum(self._tokens[number] for number in numbers)

    def largest_tokens(self) -> Iterable[int]:
        """The largest token of each block."""
        return self._table["tokens"].list.max()

    def sequence_lengths(self, numbers: Sequence[int]) -> list[int]:
        """Tokens of each prompt in the blocks."""
        return [length for number in numbers for length in self._lengths[number]]


def train(
    working: Working,
    optimizer: torch.optim.Optimizer,
    config: JobConfig,
    state: State,
    checkpoints: Checkpoints,
    say: Callable[[str], None],
    ranks: Ranks,
) -> None:
    """Run the steps that `state` has not done yet, keeping `state` current.

    Raises UserError where a loss or a gradient is no finite number, where blocks have tokens that the
    model does not know, and where there are more ranks than blocks in a step.
    """
    model, blocks = working.tuned, PackedBlocks(config)
    prompts = read_held_out(config.held_out)
    check_vocabulary(model, [*blocks.largest_tokens(), *known_tokens(prompts)])
    steps = step_plan(len(blocks), config)
    _check_shares(config, ranks)
    measured = measured_steps(steps, config.block_tokens, sum(p.tree.tokens for p in prompts))
    if not state.log and measured:
        before: Row = {"step": 0, "tokens": 0, "seconds": 0.0}
        state.log.append(before | _measured(working, prompts, ranks))
    schedule = learning_rates(optimizer, config, state.step)
    meter = Meter(model, ranks.count)
    passes = Passes(config.block_tokens, ranks)
    progress = Progress("tuning", sum(map(blocks.tokens, steps)), "tokens", say)
    progress.resume(state.tokens)
    started = time.monotonic() - state.seconds
    saved = time.monotonic()

    def due() -> bool:
        return time.monotonic() - saved >= config.checkpoint_seconds and not checkpoints.busy

    for numbers in steps[state.step :]:
        step_started = time.monotonic()
        step_blocks = [blocks[number] for number in numbers]
        rate = optimizer.param_groups[0]["lr"]
        state.step += 1
        limit, together = config.max_grad_norm, passes.together()
        row = take_step(working, optimizer, step_blocks, state.step, limit, ranks, together)
        schedule.step()
        state.tokens += blocks.tokens(numbers)
        state.seconds = time.monotonic() - started
        row |= {"tokens": state.tokens, "seconds": state.seconds, "learning_rate": rate}
        targets = sum(len(block.targets) for block in step_blocks)
        took = time.monotonic() - step_started
        row |= meter.row(blocks.sequence_lengths(numbers), targets, took)
        if state.step in measured:
            row |= _measured(working, prompts, ranks)
            if config.keep == "best" and is_best(row, state.log):
                state.best = state.step
        state.log.append(row)
        progress(state.tokens, f"step {state.step} of {len(steps)}, loss {row['loss']:.3f}")
        if state.step < len(steps) and (state.best == state.step or ranks.broadcast(due)):
            checkpoints.save(model, optimizer, state)
            saved = time.monotonic()


def _measured(working: Working, prompts: Sequence[HeldOutPrompt], ranks: Ranks) -> Row:
    """What all ranks measure, as rank 0 found it: what follows from it, all do together."""
    found = measure(working.model, prompts, working.precision)
    return ranks.broadcast(lambda: found)


def _check_shares(config: JobConfig, ranks: Ranks) -> None:
    if ranks.count > blocks_per_step(config):
        raise UserError(
            f"{ranks.count} processes were started for steps of {blocks_per_step(config)} blocks;"
            f" start fewer, or set tuning.tokens_per_step to {ranks.count * config.block_tokens} or"
            " more."
        )
