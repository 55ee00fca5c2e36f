"""The fine-tune job: blocks in, a tuned model folder out, resumable at any step.

The job writes into its output folder: `checkpoints/` while it runs, and at the end `model/`
(safetensors, tokenizer, `log.json`). This module knows nothing about who launched it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from symtune_pipeline.errors import JobLost
from symtune_pipeline.jobs.ranks import Ranks, work_as_rank
from symtune_pipeline.models.opening import open_tokenizer
from symtune_pipeline.models.proof import attention_of, is_packed, set_path
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.tuning.checkpoint import Checkpoints, State
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.limits import disk_space, memory
from symtune_pipeline.tuning.optimizer import make_optimizer
from symtune_pipeline.tuning.parallel import shard, trained_weights
from symtune_pipeline.tuning.result import read_result, seal_result
from symtune_pipeline.tuning.train import train
from symtune_pipeline.tuning.trainable import finished, load_trainable
from symtune_pipeline.tuning.working import working

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run_job(config: JobConfig, say: Callable[[str], None]) -> Path:
    """Tune the model; returns the folder of the result, at once where it is already finished.

    Raises UserError for what a setting, the data or the machine is at fault for; the last
    checkpoint stays. Where several ranks run it, only rank 0 speaks.
    """
    return work_as_rank(config.output_folder, say, partial(_run, config))


def _run(config: JobConfig, ranks: Ranks, say: Callable[[str], None]) -> Path:
    result = config.result_folder
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
            run = working(model, config, precision, ranks.count)
            train(run, optimizer, config, state, checkpoints, say, ranks)
    finally:
        checkpoints.wait()  # whatever stopped the job, the last one is whole

    kept = state.step
    if state.best not in (0, kept) and checkpoints.restore_best(model, optimizer, state):
        kept = state.best
    attention = attention_of(model)
    if config.lora or config.trainable != "all" or ranks.count > 1:
        weights = trained_weights(ranks, model)
        model = finished(config, weights) if ranks.rank == 0 else model
    if ranks.rank == 0:
        facts = {"precision": precision, "device": device, "attention": attention}
        _save(model, config, state, kept, facts)
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
    shard(ranks, model, values, precision)
    return model


def _save(
    model: PreTrainedModel, config: JobConfig, state: State, kept: int, facts: dict[str, str]
) -> None:
    """The result, the weights after step `kept`, written beside and renamed."""
    result = config.result_folder
    beside = config.output_folder / ".writing"
    shutil.rmtree(beside, ignore_errors=True)
    with disk_space(result, model.num_parameters() * 4):
        model.save_pretrained(beside)
        open_tokenizer(config.model_folder).save_pretrained(beside)
        summary = {
            "fingerprint": state.fingerprint,
            **facts,
            "seconds": state.seconds,
            "log": [row | {"kept": row["step"] == kept} for row in state.log],
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
    """'fp32' or 'bf16'; 'auto' is bf16 where the hardware multiplies bf16 matrices.

    These are GPUs, and CPUs with AMX or AVX-512's instructions for bf16.
    """
    if asked != "auto":
        return asked
    cpu = torch.cpu.get_capabilities()
    halves = device == "cuda" or cpu.get("amx_bf16") or cpu.get("avx512_bf16")
    return "bf16" if halves else "fp32"
