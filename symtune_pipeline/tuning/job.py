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

import numpy as np
import polars as pl
import torch
from transformers import AutoTokenizer

from symtune_pipeline.attention import load_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.progress import Progress
from symtune_pipeline.tuning.checkpoint import State, load_checkpoint, save_checkpoint
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.step import Block, block_loss


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

    Raises UserError where the loss is no finite number; the last checkpoint stays.
    """
    result = config.output_folder / "model"
    if _finished(result, config):
        return result
    torch.manual_seed(config.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_precision(config.precision, device)
    model = load_model(config.model_folder, torch.float32, device)  # master weights stay fp32
    model.train()
    optimizer = make_optimizer(model, config)
    checkpoints = config.output_folder / "checkpoints"
    state = load_checkpoint(checkpoints, model, optimizer, config.fingerprint())
    if state is None:
        state = State(config.fingerprint())
    else:
        say(f"tuning: going on from step {state.step}")
    train(
        model,
        optimizer,
        config,
        state,
        precision,
        lambda s: save_checkpoint(checkpoints, model, optimizer, s),
        say,
    )

    beside = config.output_folder / ".writing"
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    AutoTokenizer.from_pretrained(config.model_folder).save_pretrained(beside)
    summary = {
        "fingerprint": state.fingerprint,
        "precision": precision,
        "device": device,
        "seconds": state.seconds,
        "log": state.log,
    }
    (beside / "log.json").write_text(json.dumps(summary), encoding="utf-8")
    shutil.rmtree(result, ignore_errors=True)  # of another job, or half removed
    os.rename(beside, result)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def _finished(result: Path, config: JobConfig) -> bool:
    try:
        log = json.loads((result / "log.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(log["fingerprint"] == config.fingerprint())


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: JobConfig,
    state: State,
    precision: str,
    save: Callable[[State], None],
    say: Callable[[str], None],
) -> None:
    """Run the steps that `state` has not done yet, keeping `state` current."""
    table = pl.read_parquet(config.blocks)  # its row i holds block i
    steps = step_plan(len(table), config)
    tokens = table["tokens"].list.len().to_numpy()
    total = sum(int(tokens[step].sum()) for step in steps)
    progress = Progress("tuning", total, "tokens", say)
    progress.resume(state.tokens)
    started = time.monotonic() - state.seconds
    saved = time.monotonic()
    for step in steps[state.step :]:
        blocks = [
            Block.from_row(table.row(number, named=True), config.loss, config.block_tokens)
            for number in step
        ]
        targets = sum(len(block.targets) for block in blocks)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(
                1.0, (state.step + 1) / max(config.warmup_steps, 1)
            )
        loss_sum, right = 0.0, 0
        for block in blocks:
            loss, block_right = block_loss(model, block, precision)  # type: ignore[arg-type]
            (loss / targets).backward()
            loss_sum += loss.item()
            right += int(block_right)
        if not math.isfinite(loss_sum):
            raise UserError(
                f"Tuning stopped at step {state.step}: the loss of blocks {step} is not a finite number;"
                " lower tuning.learning_rate or set tuning.precision to fp32. The last checkpoint is kept."
            )
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.tokens += int(tokens[step].sum())
        state.seconds = time.monotonic() - started
        state.log.append(
            {
                "step": state.step,
                "loss": loss_sum / targets,
                "accuracy": right / targets,
                "tokens": state.tokens,
                "seconds": state.seconds,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "gradient_norm": float(norm),
            }
        )
        progress(state.tokens, f"step {state.step} of {len(steps)}, loss {loss_sum / targets:.3f}")
        if time.monotonic() - saved >= config.checkpoint_seconds and state.step < len(steps):
            save(state)
            saved = time.monotonic()


def step_plan(blocks: int, config: JobConfig) -> list[list[int]]:
    """The numbers of the blocks of every step, up to `steps`; each epoch is shuffled anew."""
    orders = [
        np.random.default_rng([config.seed, epoch]).permutation(blocks)
        for epoch in range(config.epochs)
    ]
    order = np.concatenate(orders).tolist()
    per_step = max(1, round(config.tokens_per_step / config.block_tokens))
    plan = [order[start : start + per_step] for start in range(0, len(order), per_step)]
    return plan[: config.steps]


def make_optimizer(model: torch.nn.Module, config: JobConfig) -> torch.optim.Optimizer:
    """Adafactor (Wei et al. 2023) or AdamW, without weight decay: tuning is one short pass."""
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    return torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True
    )


def resolve_precision(asked: str, device: str) -> str:
    """'fp32' or 'bf16'; 'auto' is bf16 where the hardware multiplies bf16 matrices (CUDA, AMX)."""
    if asked != "auto":
        return asked
    return "bf16" if device == "cuda" or torch.cpu.get_capabilities().get("amx_bf16") else "fp32"
