"""What needs a GPU, in one command of under nine minutes: `make bench-gpu`.

Needs no network: weights are random, and what else is read lies in the folder that `make gpu-bundle`
fills. Tuning is compared with a plain loop over transformers' model, scoring with a plain batched loop;
both peers run in bf16 with the largest batch that is best for them. What differs between a GPU in bf16
and a CPU in fp32 is measured on the same weights.

    python -m benchmarks.gpu --device cpu --models micro    every part of it on a CPU
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import ROOT, Record, print_table, write
from benchmarks.gpu_bundle import BLOCKS, BUNDLE, CASES, TOKENIZER
from benchmarks.gpu_peers import plain_scores, plain_step
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.errors import is_out_of_memory
from symtune_pipeline.evaluation.classification import predict
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.jobs.ranks import Ranks
from symtune_pipeline.models.proof import choose_path
from symtune_pipeline.models.spreading import decoder_layers
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.metrics import Meter, peak_flops
from symtune_pipeline.tuning.optimizer import make_optimizer, take_step
from symtune_pipeline.tuning.passes import Passes
from symtune_pipeline.tuning.settings import job_config
from symtune_pipeline.tuning.step import Block, block_loss
from symtune_pipeline.tuning.working import Working

MODELS = ("smollm2-135m", "smollm2-360m", "smollm2-1.7b")
SCORED = ("smollm2-135m", "smollm2-1.7b")
STEP_TOKENS = 16_384  # on a CPU two blocks
WARM_UP, STEPS = 3, 5  # in the first two, blocks run one by one (see `Passes`)
PEER_TOKENS = (16_384, 8_192, 2_048)  # a pass
PEER_BATCHES = (32, 128, 512)
PEER_QUERIES = 500  # to find the best batch by
COMPARED_BLOCKS, COMPARED_QUERIES = 4, 40
FINE_TUNE_SECONDS = 60
GOALS = {("smollm2-135m", 2_048): 240_000}  # tokens/s, on an H100


@dataclass(frozen=True)
class Bench:
    """Where the benchmark runs, and on what."""

    device: torch.device
    bundle: Path
    name: str

    @property
    def is_gpu(self) -> bool:
        """Else only whether everything runs is of interest."""
        return self.device.type == "cuda"

    @property
    def precision(self) -> tuple[str, torch.dtype]:
        """What both compute in."""
        return ("bf16", torch.bfloat16) if self.is_gpu else ("fp32", torch.float32)

    def step_tokens(self, block_tokens: int) -> int:
        """Tokens of a step."""
        return STEP_TOKENS if self.is_gpu else 2 * block_tokens

    def blocks(self, tokens: int) -> list[Block]:
        """The bundle's blocks of so many tokens."""
        rows = pl.read_parquet(self.bundle / BLOCKS.format(tokens)).iter_rows(named=True)
        return [Block.from_row(row, "all_labels", tokens) for row in rows]

    def model(self, key: str, dtype: torch.dtype, attention: str) -> Any:
        """A random model of a size of the catalogue, which knows the bundle's tokens."""
        torch.manual_seed(0)
        vocabulary = len(AutoTokenizer.from_pretrained(self.bundle / TOKENIZER))
        shape = find_model(key).architecture | {"vocab_size": vocabulary}
        with self.device:
            return AutoModelForCausalLM.from_config(
                AutoConfig.for_model(**shape),
                dtype=dtype,
                attn_implementation=attention,
            )

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds that `work` takes, with all that it has started on the device."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until the device has done all that was started."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """What other models have left behind: memory, and what was compiled."""
        gc.collect()
        torch._dynamo.reset()  # else models of other sizes count as layers that were compiled anew
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> float:
        """The most memory since then, in GB; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.is_gpu else 0.0


@dataclass(frozen=True)
class Speed:
    """What steps of tuning gave: tokens and floating-point operations a second, memory in GB."""

    tokens: float
    flops: float
    memory: float
    loss: float
    how: str = ""


def config_of(bench: Bench, key: str, folder: Path, block_tokens: int) -> JobConfig:
    """A job of ours on the bundle's blocks."""
    experiment = load_experiment("quickstart")
    tuning = experiment.tuning.model_copy(
        update={
            "block_tokens": block_tokens,
            "tokens_per_step": bench.step_tokens(block_tokens),
            "loss": "all_labels",
            "precision": bench.precision[0],
            "optimizer": "adamw",
            "learning_rate": 3e-4,
            "checkpoint_seconds": 3_600,
            "compile": bench.is_gpu,
        }
    )
    return job_config(
        find_model(key),
        experiment.model_copy(update={"tuning": tuning}),
        model_folder=folder / "base",
        blocks=folder / "blocks.parquet",
        output_folder=folder / "job",
        inputs={},
    )


def steps_of(bench: Bench, blocks: list[Block]) -> Iterator[list[Block]]:
    """The blocks of each step that is measured, over and over where they are few."""
    block_tokens = len(blocks[0].tokens)
    per_step = bench.step_tokens(block_tokens) // block_tokens
    for step in range(WARM_UP + STEPS):
        yield [blocks[(step * per_step + i) % len(blocks)] for i in range(per_step)]


def measured_steps(
    bench: Bench, blocks: list[Block], meter: Meter, step: Callable[[int, list[Block]], float]
) -> Speed:
    """Run steps, and then the last of them again, which count.

    In the first run, kernels are chosen, memory is taken, and layers are compiled for each new shape.
    """
    bench.forget()
    steps = list(steps_of(bench, blocks))
    losses = [step(number, those) for number, those in enumerate(steps, start=1)]
    counted = steps[WARM_UP:]
    seconds = bench.timed(
        lambda: [step(len(steps) + n, those) for n, those in enumerate(counted, start=1)]
    )
    tokens = sum(sum(block.lengths) for those in counted for block in those)
    flops = sum(
        meter.flops(block.lengths, len(block.targets)) for those in counted for block in those
    )
    return Speed(tokens / seconds, flops / seconds, bench.memory(), losses[0])


def ours(bench: Bench, key: str, blocks: list[Block], config: JobConfig) -> Speed:
    """The steps of our job."""
    bench.forget()
    model = bench.model(key, torch.float32, "eager")
    choose_path(model)
    model.train()
    compile_layers(bench, model)
    optimizer = make_optimizer(model, config)
    ranks = Ranks(device=bench.device)
    passes = Passes(config.block_tokens, ranks)

    def step(number: int, those: list[Block]) -> float:
        options = config.max_grad_norm, ranks, passes.together()
        run = Working(model, model, bench.precision[0])
        return float(take_step(run, optimizer, those, number, *options)["loss"] or 0)

    return measured_steps(bench, blocks, Meter(model), step)


def compile_layers(bench: Bench, model: Any) -> None:
    """As the setting tuning.compile does; on a CPU it would take longer than all the rest."""
    if bench.is_gpu:
        for layer in decoder_layers(model):
            layer.compile()


def peer(bench: Bench, key: str, blocks: list[Block], config: JobConfig) -> Speed | None:
    """The faster of a plain loop, compiled or not, with the largest pass that memory has room for.

    None where it has room for no block.
    """
    found: list[Speed] = []
    for compiled in (False, True):
        for tokens in PEER_TOKENS:
            together = max(1, min(tokens, config.tokens_per_step) // config.block_tokens)
            try:
                found.append(peer_with(bench, key, blocks, config, together, compiled))
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
    return max(found, key=lambda speed: speed.tokens, default=None)


def peer_with(
    bench: Bench, key: str, blocks: list[Block], config: JobConfig, together: int, compiled: bool
) -> Speed:
    """The steps of a plain loop with so many blocks a pass."""
    bench.forget()
    model = bench.model(key, torch.float32, "sdpa").train()
    if compiled:
        compile_layers(bench, model)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=0.0, fused=True
    )

    def step(_: int, those: list[Block]) -> float:
        return plain_step(model, optimizer, those, together, config.max_grad_norm)

    speed = measured_steps(bench, blocks, Meter(model), step)
    return replace(speed, how=f"{together} a pass" + (", compiled" if compiled else ""))


def tuning(bench: Bench, key: str, block_tokens: int) -> list[Record]:
    """Both at one size and block."""
    blocks = bench.blocks(block_tokens)
    config = config_of(bench, key, bench.bundle, block_tokens)
    mine, theirs = ours(bench, key, blocks, config), peer(bench, key, blocks, config)
    name = f"{key}, blocks of {block_tokens:,}"
    how = theirs.how if theirs else "out of memory"
    goal = GOALS.get((key, block_tokens))
    reached = {"bar": f"{goal:,} tokens/s", "holds": mine.tokens >= goal} if goal else {}
    records = [
        beside(f"{name} (peer: {how})", "tokens/s", mine, theirs, lambda s: s.tokens, **reached),
        Record(f"{name}, first loss", mine.loss, theirs.loss if theirs else None, "nats"),
    ]
    if bench.is_gpu:
        records.append(beside(f"{name}, memory", "GB", mine, theirs, lambda s: s.memory))
    if peak := peak_flops(bench.name):
        used = 100 * mine.flops / peak
        reached = {"bar": "40%", "holds": used >= 40} if key == MODELS[-1] else {}
        title = f"{name}, FLOP utilisation"
        records.append(beside(title, "%", mine, theirs, lambda s: 100 * s.flops / peak, **reached))
    return records


def beside(
    name: str,
    unit: str,
    mine: Speed,
    theirs: Speed | None,
    of: Callable[[Speed], float],
    **bar: Any,
) -> Record:
    """One number of both; of memory less is better."""
    other = of(theirs) if theirs else None
    ratio = of(mine) / other if other else None
    return Record(
        name, of(mine), other, unit, 1 / ratio if ratio and unit == "GB" else ratio, **bar
    )


def scoring(bench: Bench, key: str) -> list[Record]:
    """Queries a second, for contexts that queries share and for a context a query."""
    tokenizer = AutoTokenizer.from_pretrained(bench.bundle / TOKENIZER)
    model = bench.model(key, bench.precision[1], "eager").eval()
    choose_path(model)
    other = bench.model(key, bench.precision[1], "sdpa").eval()
    records = []
    for name in CASES:
        suite, inputs = suite_of(bench, name)
        mine = rate(bench, partial(predict, model, tokenizer, inputs=inputs), suite)
        peers = {
            batch: partial(plain_scores, other, tokenizer, inputs=inputs, batch=batch)
            for batch in PEER_BATCHES
        }
        rates = {
            batch: rate(bench, work, suite.head(PEER_QUERIES)) for batch, work in peers.items()
        }
        best = max(rates, key=lambda batch: rates[batch])
        theirs = rate(bench, peers[best], suite)
        title = f"{key}, {name} (peer: batches of {best})"
        ratio = mine / theirs if theirs else None  # out of memory
        records.append(Record(title, mine, theirs, "queries/s", ratio))
    return records


def suite_of(bench: Bench, name: str) -> tuple[pl.DataFrame, list[str]]:
    """The rows of a case and the inputs of its examples; a few rows where only that it runs matters."""
    suite = pl.read_parquet(bench.bundle / name / "suite.parquet")
    examples = pl.read_parquet(bench.bundle / name / "examples.parquet")
    return suite if bench.is_gpu else suite.head(6), examples["input"].to_list()


def rate(bench: Bench, work: Callable[..., object], suite: pl.DataFrame) -> float:
    """Queries a second once kernels are chosen; 0 where memory runs out."""
    try:
        work(suite=suite.head(50))
        return len(suite) / bench.timed(partial(work, suite=suite))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 0.0


def differences(bench: Bench, folder: Path, block_tokens: int) -> list[Record]:
    """Losses and log-probabilities of the device in bf16 beside a CPU's in fp32, on one model."""
    tokenizer = AutoTokenizer.from_pretrained(bench.bundle / TOKENIZER)
    suite, inputs = suite_of(bench, next(iter(CASES)))
    suite = suite.head(COMPARED_QUERIES)
    blocks = bench.blocks(block_tokens)[:COMPARED_BLOCKS]

    def both(
        precision: str, dtype: torch.dtype, device: str
    ) -> tuple[list[float], list[list[float]]]:
        model = AutoModelForCausalLM.from_pretrained(
            folder / "base", dtype=torch.float32, attn_implementation="eager"
        ).to(device)
        choose_path(model.eval())
        with torch.no_grad():
            losses = [block_loss(model, block, precision)[0].item() for block in blocks]
        model.to(dtype)
        return losses, predict(model, tokenizer, suite, inputs)["logprobs"].to_list()

    exact = both("fp32", torch.float32, "cpu")
    found = both(*bench.precision, bench.device.type)
    targets = [len(block.targets) for block in blocks]
    by_loss = [abs(a - b) / n for a, b, n in zip(exact[0], found[0], targets, strict=True)]
    by_label = [
        abs(a - b)
        for row, other in zip(exact[1], found[1], strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    same = [
        row.index(max(row)) == other.index(max(other))
        for row, other in zip(exact[1], found[1], strict=True)
    ]
    return [
        Record("CPU fp32 against bf16, largest difference of a block's loss", max(by_loss), None, "nats"),
        Record("CPU fp32 against bf16, largest difference of a label", max(by_label), None, "nats"),
        Record("CPU fp32 against bf16, same choice", 100 * sum(same) / len(same), None, "%"),
    ]  # fmt: skip


def fine_tune(bench: Bench, key: str, folder: Path, block_tokens: int, rate: float) -> list[Record]:
    """The whole job on real blocks: how its loss falls, and its speed with all that belongs to it."""
    bench.forget()  # the job is another process, which takes what is free
    config = config_of(bench, key, folder, block_tokens)
    blocks = pl.read_parquet(bench.bundle / BLOCKS.format(block_tokens))
    blocks.write_parquet(config.blocks)
    step_tokens = config.tokens_per_step
    steps = int(FINE_TUNE_SECONDS * rate / step_tokens) if bench.is_gpu else 10
    epochs = 1 + steps * step_tokens // (block_tokens * len(blocks))
    config = config.model_copy(update={"steps": steps, "epochs": epochs})
    file = folder / "job.json"
    file.write_text(config.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "symtune_pipeline.tuning", "--config", str(file)]
    subprocess.run(command, cwd=ROOT, check=True)
    log = json.loads((folder / "job" / "model" / "log.json").read_text(encoding="utf-8"))["log"]
    losses = [row["loss"] for row in log if row.get("loss") is not None]
    few = max(1, len(losses) // 20)
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    name = f"{key}, job of {steps} steps"
    return [
        Record(f"{name}, loss at its end (peer: at its start)", last, first, "nats", None, "falls",
               last < first),
        Record(f"{name}, speed", log[-1]["tokens"] / log[-1]["seconds"], None, "tokens/s"),
    ]  # fmt: skip


def saved(bench: Bench, key: str, folder: Path) -> None:
    """A model of the size as a folder: the bundle's own weights where it has some, or random ones."""
    real = bench.bundle / key
    if real.is_dir():
        (folder / "base").symlink_to(real.resolve())
        return
    bench.model(key, torch.float32, "eager").save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(bench.bundle / TOKENIZER).save_pretrained(folder / "base")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", nargs="+", default=MODELS, help="keys of the catalogue")
    parser.add_argument("--blocks", nargs="+", type=int, default=(2_048, 8_192))
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    bench = Bench(device, given.bundle, name)
    print(f"{name}, torch {torch.__version__}", flush=True)
    records: list[Record] = []
    started = time.monotonic()

    def add(found: list[Record]) -> None:
        records.extend(found)
        print_table(found)
        print(f"{time.monotonic() - started:.0f} s so far", flush=True)
        if bench.is_gpu:
            write("gpu", records)  # whatever stops a later part, these are kept

    for key in given.models:
        for block_tokens in given.blocks:
            add(tuning(bench, key, block_tokens))
    for key in [key for key in given.models if key in SCORED] or given.models[:1]:
        add(scoring(bench, key))
    with TemporaryDirectory() as made:
        key, block_tokens, folder = given.models[0], given.blocks[0], Path(made)
        saved(bench, key, folder)
        add(differences(bench, folder, block_tokens))
        add(fine_tune(bench, key, folder, block_tokens, records[0].ours))


if __name__ == "__main__":
    main()
