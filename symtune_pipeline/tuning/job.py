"""The fine-tune job: blocks in, a tuned model folder out, resumable at any step.

The job writes into its output folder: `checkpoints/` while it runs, and at the end `model/`
(safetensors, tokenizer, `log.json`). This module knows nothing about who launched it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout

from symtune_pipeline.errors import JobLost
from symtune_pipeline.models.opening import open_tokenizer
from symtune_pipeline.models.proof import attention_of, is_packed, set_path
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.tuning.checkpoint import Checkpoints, State
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.limits import disk_space, memory
from symtune_pipeline.tuning.optimizer import make_optimizer
from symtune_pipeline.tuning.parallel import Ranks, joined
from symtune_pipeline.tuning.result import read_result, seal_result
from symtune_pipeline.tuning.train import train
from symtune_pipeline.tuning.trainable import finished, load_trainable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def only_job(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock; it goes with the process, so a killed job never leaves it behind."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        say("tuning: waiting for another process that tunes this model")
        held = lock.acquire()
    with held:
        yield


def run_job(config: JobConfig, say: Callable[[str], None]) -> Path:
    """Tune the model; returns the folder of the result, at once where it is already finished.

    Raises UserError for what a setting, the data or the machine is at fault for; the last
    checkpoint stays. Where several ranks run it, only rank 0 speaks.
    """
    with joined() as ranks:
        if ranks.rank:
            return _run(config, ranks, lambda _: None)
        with only_job(config.output_folder, say):
            return _run(config, ranks, say)


def _run(config: JobConfig, ranks: Ranks, say: Callable[[str], None]) -> Path:
    result = config.output_folder / "model"
    if ranks.broadcast(lambda: _finished(result, config)):
        return result
    device = ranks.device.type
    precision = resolve_precision(config.precision, device)
    torch.manual_seed(config.seed)
    with memory():
        model = _loaded(config, precision, ranks)
    if not is_packed(model):
        say(f"tuning: attention {attention_of(model)}")
    optimizer = make_optimizer(model, config)
    checkpoints = Checkpoints(
        config.output_folder / "checkpoints",
        config.keep_checkpoints,
        say,
        ranks,
        Bucket(config.checkpoint_url) if config.checkpoint_url else None,
    )
    state = checkpoints.load(model, optimizer, config.fingerprint())
    if state is None:
        state = State(config.fingerprint())
    else:
        say(f"tuning: going on from step {state.step}")
    try:
        with memory():
            train(model, optimizer, config, state, precision, checkpoints, say, ranks)
    finally:
        checkpoints.wait()  # whatever stopped the job, the last one is whole

    attention = attention_of(model)
    if config.lora or ranks.count > 1:
        weights = ranks.trained_weights(model)
        model = finished(config, weights) if ranks.rank == 0 else model
    if ranks.rank == 0:
        facts = {"precision": precision, "device": device, "attention": attention}
        _save(model, config, state, facts)
        checkpoints.remove()
    ranks.barrier()  # to no rank is it finished before the result is there
    return result


def _loaded(config: JobConfig, precision: str, ranks: Ranks) -> PreTrainedModel:
    """The model as this rank tunes it, on the path that is right for it."""
    if ranks.count == 1:
        return load_trainable(config, precision, ranks.device.type)
    model = load_trainable(config, precision, "meta")
    # One rank reads the whole, which no device has to hold, and lets go of it.
    values = None if ranks.rank else load_trainable(config, precision, "cpu")
    set_path(model, ranks.broadcast(lambda: attention_of(values) if values else ""))
    ranks.shard(model, values, precision)
    return model


def _save(model: PreTrainedModel, config: JobConfig, state: State, facts: dict[str, str]) -> None:
    """The result, written beside and renamed."""
    result = config.output_folder / "model"
    beside = config.output_folder / ".writing"
    shutil.rmtree(beside, ignore_errors=True)
    with disk_space(result, model.num_parameters() * 4):
        model.save_pretrained(beside)
        open_tokenizer(config.model_folder).save_pretrained(beside)
        summary = {
            "fingerprint": state.fingerprint,
            **facts,
            "seconds": state.seconds,
            "log": state.log,
        }
        seal_result(beside, summary)
    shutil.rmtree(result, ignore_errors=True)  # of another job, or half removed
    os.rename(beside, result)


def _finished(result: Path, config: JobConfig) -> bool:
    try:
        return bool(read_result(result)["fingerprint"] == config.fingerprint())
    except JobLost:
        return False


def resolve_precision(asked: str, device: str) -> str:
    """'fp32' or 'bf16'; 'auto' is bf16 where the hardware multiplies bf16 matrices (CUDA, AMX)."""
    if asked != "auto":
        return asked
    return "bf16" if device == "cuda" or torch.cpu.get_capabilities().get("amx_bf16") else "fp32"
