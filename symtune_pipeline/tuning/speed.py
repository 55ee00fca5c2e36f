"""How long a step takes on this machine's CPU: measured on the model's own layers, one and two of them.

The layers are real ones with random weights, and run through the job's own step. All of a model's layers
cost alike, so the time of many follows from that of one more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from symtune_pipeline.tuning.config import JobConfig

if TYPE_CHECKING:
    from symtune_pipeline.tuning.step import Block

REPEATS = 3  # of which the fastest counts: other processes can only slow one down


@dataclass(frozen=True)
class Speed:
    """Seconds of a pass of one block, forward and backward, and of what a step adds to its passes."""

    of_block: float
    of_step: float


def measured_speed(
    architecture: dict[str, Any], job: JobConfig, precision: str, prompt_tokens: float, targets: int
) -> Speed:
    """The speed of a model of the catalogue in a job, with blocks of prompts of one length.

    `targets` is of a block. Takes seconds, and the memory of two layers and the embedding.
    """
    length = min(max(2, round(prompt_tokens)), job.block_tokens)
    prompts = [length] * (job.block_tokens // length)
    one, two = (
        _of_layers(architecture | {"num_hidden_layers": layers}, job, precision, prompts, targets)
        for layers in (1, 2)
    )
    more = architecture["num_hidden_layers"] - 1
    return Speed(
        one.of_block + more * max(0.0, two.of_block - one.of_block),
        one.of_step + more * max(0.0, two.of_step - one.of_step),
    )


def _of_layers(
    architecture: dict[str, Any], job: JobConfig, precision: str, prompts: list[int], targets: int
) -> Speed:
    """The same of a model of these layers alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from symtune_pipeline.jobs.ranks import Ranks
    from symtune_pipeline.tuning.optimizer import make_optimizer, take_step
    from symtune_pipeline.tuning.trainable import load_trainable
    from symtune_pipeline.tuning.working import working

    with TemporaryDirectory() as folder:
        config = AutoConfig.for_model(**architecture)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        job = job.model_copy(update={"model_folder": Path(folder), "compile": False})
        model = load_trainable(job, precision, "cpu")
        run = working(model, job, precision, 1)
    optimizer = make_optimizer(model, job)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    block = _block(prompts, job.block_tokens, targets, vocabulary)

    def seconds(blocks: int) -> float:
        started = time.perf_counter()
        take_step(run, optimizer, [block] * blocks, 1, job.max_grad_norm, Ranks(), 1)
        return time.perf_counter() - started

    torch.manual_seed(0)
    seconds(1)  # memory is handed out, and the optimiser's state made
    one, three = (min(seconds(blocks) for _ in range(REPEATS)) for blocks in (1, 3))
    of_block = (three - one) / 2
    return Speed(of_block, max(0.0, one - of_block))


def _block(prompts: list[int], tokens: int, targets: int, vocabulary: int) -> Block:
    """Random tokens; the targets are spread evenly."""
    import torch

    from symtune_pipeline.tuning.step import Block

    rest = tokens - sum(prompts)
    lengths = [*prompts, *([rest] if rest else [])]
    every = max(1, tokens // max(1, targets))
    positions = torch.arange(1, tokens, every)[: max(1, ceil(targets))]
    return Block(0, torch.randint(vocabulary, (tokens,)), lengths, positions)
