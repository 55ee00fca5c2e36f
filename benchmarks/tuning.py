"""Tuning, against TRL's SFTTrainer with packing and completion-only loss.

Ours is the job that the pipeline launches, `python -m symtune_pipeline.tuning`; the peer is
`benchmarks/tuning_peer.py`. Both are started in turn with the same job file: the same model, blocks
of the quickstart's mixture in the same order, Adafactor (ours; the peer's is torch's), gradient
clipping, steps of 4,096 tokens and threads. Both run in float32, whose losses are compared, and in
bf16; ours as `auto` chooses is compared with the peer's faster run. Each runs as its users start it:
ours with the launchers' settings of the allocator, the peer with none; what the environment sets, both
get. Neither recomputes activations. The first step, which allocates and chooses kernels, does not count
for the speed. Memory is the largest of the whole process.

Both run on the CPU with two threads; `benchmarks/gpu.py` is for a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import polars as pl

from benchmarks.common import ROOT, Record, base_model, report
from benchmarks.data import examples_in_normal_form
from resources.pipes import ENVIRONMENT as LAUNCHED
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.prompts.blocks import packed_blocks
from symtune_pipeline.prompts.mixture import mixture_chunks
from symtune_pipeline.prompts.symbols import SymbolSampler, symbol_pool
from symtune_pipeline.sections import LossName
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import resolve_precision
from symtune_pipeline.tuning.order import step_plan
from symtune_pipeline.tuning.settings import job_config
from symtune_pipeline.tuning.step import Block

Precision = Literal["auto", "fp32", "bf16"]
OURS, PEER = "symtune_pipeline.tuning", "benchmarks.tuning_peer"
MODEL = "smollm2-135m"
STEPS, LABEL_STEPS = 6, 3
STEP_TOKENS = 4_096
BLOCK_TOKENS, LONG_TOKENS = 1_024, 4_096
LONG_STEPS = 3
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
LEARNING_RATE = 1e-3
THREADS = {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Run:
    """A finished run: by step its loss, tokens, label tokens and when it ended; its peak memory."""

    steps: pl.DataFrame
    peak_bytes: int

    def per_second(self, column: str) -> float:
        """How much of `column` was done in a second, after the first step."""
        seconds = self.steps["seconds"]
        return float(self.steps[column][1:].sum() / (seconds[-1] - seconds[0]))


def write_blocks(
    path: Path, model_folder: Path, block_tokens: int, count: int, prompts: int | None = None
) -> None:
    """Any `count` blocks of the quickstart's mixture, or of one like it with so many prompts."""
    from transformers import AutoTokenizer

    experiment = load_experiment("quickstart")
    examples = examples_in_normal_form()
    pool = symbol_pool(experiment.symbols, ())
    drawn = experiment.mixture.model_copy(update={"prompts": prompts or experiment.mixture.prompts})
    mixture = mixture_chunks(examples, SymbolSampler(pool, "tuning"), drawn, experiment.seed)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    blocks = pl.concat(packed_blocks(mixture, examples["input"], {}, tokenizer, block_tokens))
    chosen = blocks.sample(count, shuffle=True, seed=0)
    chosen.with_columns(block=pl.int_range(count, dtype=pl.UInt32)).write_parquet(path)


def job(
    blocks: Path, model_folder: Path, block_tokens: int, loss: LossName, precision: Precision
) -> JobConfig:
    """A job with steps of 4,096 tokens and a constant learning rate; it runs beside its blocks."""
    experiment = load_experiment("quickstart")
    tuning = experiment.tuning.model_copy(
        update={
            "loss": loss,
            "block_tokens": block_tokens,
            "tokens_per_step": STEP_TOKENS,
            "learning_rate": LEARNING_RATE,
            "precision": precision,
            "checkpoint_seconds": 3_600,  # none
        }
    )
    config = job_config(
        find_model(MODEL),
        experiment.model_copy(update={"tuning": tuning}),
        model_folder=model_folder,
        blocks=blocks,
        output_folder=blocks.parent,
        inputs={},
    )
    return config.model_copy(update={"optimizer": "adafactor", "warmup_steps": 0})


def run(program: str, config: JobConfig) -> Run:
    """Run ours or the peer on a job, in an empty folder and a process of its own."""
    with TemporaryDirectory(dir=config.output_folder) as made:
        file = Path(made) / "job.json"
        config = config.model_copy(update={"output_folder": Path(made)})
        file.write_text(config.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", program, "--config", str(file)]
        launched = LAUNCHED if program == OURS else {}
        process = subprocess.Popen(command, cwd=ROOT, env=THREADS | launched | os.environ)
        _, status, usage = os.wait4(process.pid, 0)  # what the process itself used
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{program} ended with status {process.returncode}")
        log = json.loads((Path(made) / "model" / "log.json").read_text(encoding="utf-8"))["log"]
    table = pl.read_parquet(config.blocks)
    rows = [
        [table.row(number, named=True) for number in numbers]
        for numbers in step_plan(len(table), config)
    ]
    steps = pl.DataFrame(
        {
            "loss": [done["loss"] for done in log if done["step"]],
            "seconds": [done["seconds"] for done in log if done["step"]],
            "tokens": [sum(len(row["tokens"]) for row in of_step) for of_step in rows],
            "labels": [sum(_targets(row, config) for row in of_step) for of_step in rows],
        }
    )
    return Run(steps, usage.ru_maxrss * 1024)


def _targets(row: dict[str, list[int]], config: JobConfig) -> int:
    return len(Block.from_row(row, config.loss, config.block_tokens).targets)


def compared(key: str, steps: int, folder: Path) -> list[Record]:
    """Speed, label tokens, losses and memory at blocks of 1,024 tokens."""
    model, blocks, first = base_model(key), folder / "blocks.parquet", folder / "first.parquet"
    per_step = STEP_TOKENS // BLOCK_TOKENS
    write_blocks(blocks, model, BLOCK_TOKENS, steps * per_step)
    pl.read_parquet(blocks).head(LABEL_STEPS * per_step).write_parquet(first)
    ours, theirs = (
        {p: run(who, job(blocks, model, BLOCK_TOKENS, "final_label", p)) for p in PRECISIONS}
        for who in (OURS, PEER)
    )
    mine, best = ours[resolve_precision("auto", "cpu")], fastest(theirs.values())
    all_labels = run(OURS, job(first, model, BLOCK_TOKENS, "all_labels", "auto"))
    name = f"{key}, {BLOCK_TOKENS:,} tokens"
    apart = _apart(ours["fp32"], theirs["fp32"])
    return [
        _speed(name, "tokens", mine, best, 3.5),
        _speed(f"{name}, beside our own fp32", "tokens", mine, ours["fp32"], 3),
        _speed(f"{name}, fp32", "tokens", ours["fp32"], theirs["fp32"]),
        _speed(f"{name}, bf16", "tokens", ours["bf16"], theirs["bf16"]),
        _speed(f"{name}, all_labels", "labels", all_labels, best, 10),
        Record(f"{name}, largest difference of {steps} losses in fp32", apart, None, "nats", None,
               "1e-3", apart <= 1e-3),
        Record(f"{name}, ours in bf16 beside fp32", _apart(ours["bf16"], ours["fp32"]), None, "nats"),
        *_memory(name, mine, best, 0.7),
    ]  # fmt: skip


def fastest(runs: Iterable[Run]) -> Run:
    """The run with most tokens a second."""
    return max(runs, key=lambda run: run.per_second("tokens"))


def _apart(one: Run, other: Run) -> float:
    return float((one.steps["loss"] - other.steps["loss"]).abs().max())  # type: ignore[arg-type]


def long_blocks(folder: Path) -> list[Record]:
    """Speed and memory at blocks of 4,096 tokens."""
    model, blocks = base_model(MODEL), folder / "long.parquet"
    write_blocks(blocks, model, LONG_TOKENS, LONG_STEPS)
    mine = run(OURS, job(blocks, model, LONG_TOKENS, "final_label", "auto"))
    best = fastest(run(PEER, job(blocks, model, LONG_TOKENS, "final_label", p)) for p in PRECISIONS)
    name = f"{MODEL}, {LONG_TOKENS:,} tokens"
    return [_speed(name, "tokens", mine, best, 4), *_memory(name, mine, best, 0.6)]


def _speed(name: str, what: str, mine: Run, theirs: Run, bar: float | None = None) -> Record:
    rates = mine.per_second(what), theirs.per_second(what)
    ratio = rates[0] / rates[1]
    wanted = f"{bar:g} times" if bar else ""
    return Record(name, *rates, f"{what}/s", ratio, wanted, ratio >= bar if bar else None)


def _memory(name: str, mine: Run, theirs: Run, bar: float) -> list[Record]:
    gigabytes = mine.peak_bytes / 1e9, theirs.peak_bytes / 1e9
    holds = gigabytes[0] <= bar * gigabytes[1]
    ratio = gigabytes[1] / gigabytes[0]
    return [Record(f"{name}, memory", *gigabytes, "GB", ratio, f"{bar:g} of the peer's", holds)]


def main() -> None:
    """Measure, print, write."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        records = compared(MODEL, STEPS, folder) + long_blocks(folder)
    report("tuning", records)


if __name__ == "__main__":
    main()
