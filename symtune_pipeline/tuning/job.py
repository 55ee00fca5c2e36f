"""The fine-tune job: blocks in, a tuned model folder out, resumable at any step.

The job writes into its output folder: `checkpoints/` while it runs, and at the end `model/`
(safetensors, tokenizer, `log.json`). This module knows nothing about who launched it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import torch
from transformers import AutoTokenizer

from symtune_pipeline.errors import UserError
from symtune_pipeline.progress import Progress
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.tuning.adafactor import Adafactor
from symtune_pipeline.tuning.checkpoint import Checkpoints, State
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.held_out import measure
from symtune_pipeline.tuning.limits import disk_space, memory
from symtune_pipeline.tuning.metrics import Meter, Row
from symtune_pipeline.tuning.order import blocks_per_step, held_out, measured_steps, step_plan
from symtune_pipeline.tuning.parallel import ALONE, Ranks, ranks, whole
from symtune_pipeline.tuning.step import Block, block_loss
from symtune_pipeline.tuning.trainable import finished, load_trainable, trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def only_job(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock; it goes with the process, so a killed job never leaves it behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("tuning: waiting for another process that tunes this model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_job(config: JobConfig, say: Callable[[str], None]) -> Path:
    """Tune the model; returns the folder of the result, at once where it is already finished.

    Raises UserError for what a setting, the data or the machine is at fault for; the last
    checkpoint stays. Where several ranks run it, only rank 0 speaks.
    """
    with ranks() as here:
        if here.rank:
            return _run(config, here, lambda _: None)
        with only_job(config.output_folder, say):
            return _run(config, here, say)


def _run(config: JobConfig, here: Ranks, say: Callable[[str], None]) -> Path:
    result = config.output_folder / "model"
    if here.first(lambda: _finished(result, config)):
        return result
    device = here.device.type
    precision = resolve_precision(config.precision, device)
    torch.manual_seed(config.seed)
    with memory():
        # Where a rank keeps a share, no device has to hold the whole, and one rank reads it.
        place = device if here.count == 1 else "meta" if here.rank else "cpu"
        model = load_trainable(config, precision, place)
        here.shard(model, precision)
    optimizer = make_optimizer(model, config)
    checkpoints = Checkpoints(
        config.output_folder / "checkpoints",
        config.keep_checkpoints,
        say,
        here,
        Bucket(config.checkpoint_url) if config.checkpoint_url else None,
    )
    state = checkpoints.load(model, optimizer, config.fingerprint())
    if state is None:
        state = State(config.fingerprint())
    else:
        say(f"tuning: going on from step {state.step}")
    try:
        with memory():
            train(model, optimizer, config, state, precision, checkpoints, say, here)
    finally:
        checkpoints.wait()  # whatever stopped the job, the last one is whole

    if config.lora or here.count > 1:
        weights = here.trained_weights(model)
        model = finished(config, weights) if here.rank == 0 else model
    if here.rank == 0:
        _save(model, config, state, {"precision": precision, "device": device})
        checkpoints.remove()
    here.every(None)  # to no rank is it finished before the result is there
    return result


def _save(model: PreTrainedModel, config: JobConfig, state: State, facts: dict[str, str]) -> None:
    """The result, written beside and renamed."""
    result = config.output_folder / "model"
    beside = config.output_folder / ".writing"
    shutil.rmtree(beside, ignore_errors=True)
    with disk_space(result, model.num_parameters() * 4):
        model.save_pretrained(beside)
        AutoTokenizer.from_pretrained(config.model_folder).save_pretrained(beside)
        summary = {
            "fingerprint": state.fingerprint,
            **facts,
            "seconds": state.seconds,
            "log": state.log,
        }
        (beside / "log.json").write_text(json.dumps(summary), encoding="utf-8")
    shutil.rmtree(result, ignore_errors=True)  # of another job, or half removed
    os.rename(beside, result)


def _finished(result: Path, config: JobConfig) -> bool:
    try:
        log = json.loads((result / "log.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(log["fingerprint"] == config.fingerprint())


def train(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    config: JobConfig,
    state: State,
    precision: str,
    checkpoints: Checkpoints,
    say: Callable[[str], None],
    here: Ranks = ALONE,
) -> None:
    """Run the steps that `state` has not done yet, keeping `state` current.

    Raises UserError where a loss or a gradient is no finite number, and where there are more ranks
    than blocks in a step.
    """
    table = pl.read_parquet(config.blocks)  # its row i holds block i
    steps = step_plan(len(table), config)
    if here.count > blocks_per_step(config):
        raise UserError(
            f"{here.count} processes were started for steps of {blocks_per_step(config)} blocks;"
            f" start fewer, or set tuning.tokens_per_step to {here.count * config.block_tokens} or"
            " more."
        )
    tokens = table["tokens"].list.len().to_numpy()
    total = int(sum(tokens[step].sum() for step in steps))
    lengths = table["sequence_lengths"].to_list()

    def block_of(number: int) -> Block:
        return Block.from_row(table.row(number, named=True), config.loss, config.block_tokens)

    unseen = [block_of(number) for number in held_out(len(table), config)]
    measured = measured_steps(steps, len(unseen))
    meter = Meter(model, here.count)
    if not state.log and measured:
        before: Row = {"step": 0, "tokens": 0, "seconds": 0.0}
        state.log.append(before | measure(model, unseen, precision))
    progress = Progress("tuning", total, "tokens", say)
    progress.resume(state.tokens)
    started = time.monotonic() - state.seconds
    saved = time.monotonic()

    def due() -> bool:
        return time.monotonic() - saved >= config.checkpoint_seconds and not checkpoints.busy

    for step in steps[state.step :]:
        step_started = time.monotonic()
        blocks = [block_of(number) for number in step]
        targets = sum(len(block.targets) for block in blocks)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(
                1.0, (state.step + 1) / max(config.warmup_steps, 1)
            )
        losses, right = gradients(model, blocks, targets, precision, here)
        norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
        for block, loss in zip(blocks, losses, strict=True):
            if not math.isfinite(loss):
                raise _stopped(state, f"the loss of block {block.number}")
        if not math.isfinite(norm):
            optimizer.zero_grad()
            number = _without_gradient(model, blocks, precision, here)
            raise _stopped(state, f"the gradient of block {number}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.tokens += int(tokens[step].sum())
        state.seconds = time.monotonic() - started
        loss = sum(losses) / targets
        row: Row = {
            "step": state.step,
            "loss": loss,
            "accuracy": right / targets,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "gradient_norm": float(norm),
        }
        prompts = [length for number in step for length in lengths[number]]
        row |= meter.row(prompts, targets, time.monotonic() - step_started)
        if state.step in measured:
            row |= measure(model, unseen, precision)
        state.log.append(row)
        progress(state.tokens, f"step {state.step} of {len(steps)}, loss {loss:.3f}")
        if state.step < len(steps) and here.first(due):
            checkpoints.save(model, optimizer, state)
            saved = time.monotonic()


def gradients(
    model: PreTrainedModel, blocks: list[Block], targets: int, precision: str, here: Ranks
) -> tuple[list[float], int]:
    """Add up the gradients of the mean loss over `targets`, each rank for its share of the blocks.

    Returns each block's summed loss, in nats, and how many targets were predicted right.
    """
    found = torch.zeros(len(blocks), 2, dtype=torch.float64, device=here.device)
    for index in here.share_of(len(blocks)):
        # Ranks meet in every layer, so one without a block of its own takes part with a weight of 0.
        own = index < len(blocks)
        loss, right = block_loss(model, blocks[index if own else 0], precision)
        (loss * own / targets).backward()
        if own:
            found[index, 0], found[index, 1] = loss.detach(), right.sum()
        # Its graph's many small objects would lie between what the next block frees and asks for:
        # measured at blocks of 1,024 tokens, 4.1 GB instead of 3.4.
        del loss
    losses, rights = here.sum(found).T.tolist()
    return losses, int(sum(rights))


def _without_gradient(
    model: PreTrainedModel, blocks: list[Block], precision: str, here: Ranks
) -> int:
    """The number of the first block whose own gradient is no finite number."""
    for block in blocks:
        block_loss(model, block, precision)[0].backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(grads))
        model.zero_grad()
        if not math.isfinite(norm):
            return block.number
    return blocks[0].number  # each alone is finite, only their sum is not


def _stopped(state: State, what: str) -> UserError:
    return UserError(
        f"Tuning stopped in step {state.step + 1}: {what} is not a finite number; lower"
        " tuning.learning_rate or set tuning.precision to fp32. The last checkpoint is kept."
    )


def make_optimizer(model: torch.nn.Module, config: JobConfig) -> torch.optim.Optimizer:
    """Adafactor (Wei et al. 2023) or AdamW, without weight decay: tuning is one short pass."""
    parameters = list(trained(model).values())
    if config.optimizer == "adafactor":
        return Adafactor(parameters, lr=config.learning_rate, weight_decay=0.0)
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0, fused=True)


def resolve_precision(asked: str, device: str) -> str:
    """'fp32' or 'bf16'; 'auto' is bf16 where the hardware multiplies bf16 matrices (CUDA, AMX)."""
    if asked != "auto":
        return asked
    return "bf16" if device == "cuda" or torch.cpu.get_capabilities().get("amx_bf16") else "fp32"
