"""The peer of `benchmarks/tuning.py`: TRL's SFTTrainer on a job file of ours.

    python -m benchmarks.tuning_peer --config job.json

Reads what `python -m symtune_pipeline.tuning` reads, trains on the same blocks in the same order, and
writes a log with the same names to the same place. TRL is given the blocks as its own packing would
make them: token ids, labels that are -100 off the targets (its completion-only loss), and the
prompts' lengths, by which positions restart. Without flash-attention, transformers keeps the prompts
apart by a mask that it makes from the positions.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils.import_utils import is_flash_attn_2_available
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.order import blocks_per_step, step_plan
from symtune_pipeline.tuning.step import Block


class _Log(TrainerCallback):
    """Keeps each step's loss, in nats a target, and the seconds since the start."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            seconds = time.monotonic() - self.started
            self.rows.append({"step": state.global_step, "loss": logs["loss"], "seconds": seconds})


def train(config: JobConfig) -> pl.DataFrame:
    """Train a block a pass; returns the log: step, loss, seconds."""
    torch.manual_seed(config.seed)
    cuda = torch.cuda.is_available()
    flash = cuda and is_flash_attn_2_available()
    model = AutoModelForCausalLM.from_pretrained(
        config.model_folder,
        dtype=torch.float32,
        attn_implementation="flash_attention_2" if flash else "sdpa",
    )
    log = _Log()
    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(config.output_folder),
            packing=True,
            max_length=config.block_tokens,
            dataset_kwargs={"skip_prepare_dataset": True},  # packed and tokenised already
            train_sampling_strategy="sequential",
            per_device_train_batch_size=1,
            gradient_accumulation_steps=blocks_per_step(config),
            num_train_epochs=1,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=config.max_grad_norm,
            bf16=config.precision == "bf16",
            use_cpu=not cuda,
            activation_checkpointing=False,  # as ours, and faster
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(_examples(config)),
        processing_class=AutoTokenizer.from_pretrained(config.model_folder),
        optimizers=(
            torch.optim.Adafactor(model.parameters(), lr=config.learning_rate, weight_decay=0.0),
            None,
        ),
        callbacks=[log],
    )
    trainer.train()
    return pl.DataFrame(log.rows)


def _examples(config: JobConfig) -> list[dict[str, list[int]]]:
    """The blocks in the order in which the job trains on them, with TRL's names."""
    table = pl.read_parquet(config.blocks)
    examples = []
    for number in chain.from_iterable(step_plan(len(table), config)):
        row = table.row(number, named=True)
        block = Block.from_row(row, config.loss, len(row["tokens"]))
        labels = torch.full_like(block.tokens, -100)
        labels[block.targets] = block.tokens[block.targets]
        examples.append(
            {
                "input_ids": block.tokens.tolist(),
                "labels": labels.tolist(),
                "seq_lengths": block.lengths,
            }
        )
    return examples


def main() -> None:
    """Train, write the log."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning_peer")
    parser.add_argument("--config", type=Path, required=True, help="the job's JSON file")
    path = parser.parse_args().config
    config = JobConfig.model_validate_json(path.read_text(encoding="utf-8"))
    log = train(config)
    result = config.output_folder / "model"
    result.mkdir(parents=True)
    (result / "log.json").write_text(json.dumps({"log": log.to_dicts()}), encoding="utf-8")


if __name__ == "__main__":
    main()
