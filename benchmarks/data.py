"""From examples in normal form to packed blocks on disk, against the ordinary way.

The peer samples each prompt with pandas, renders it, and tokenises the strings with `datasets.map`
in two processes, then fills blocks first-fit. Both read the same sets with the same tokenizer: the
public sets of experiments/mirror.yaml where SYMTUNE_MIRROR is set, the generated ones otherwise.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from benchmarks.common import Record, base_model, measured, report
from symtune_pipeline.environment import mirror_folder
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.files import read_frames, write_frames
from symtune_pipeline.prompts.blocks import packed_blocks
from symtune_pipeline.prompts.mixture import mixture_chunks
from symtune_pipeline.prompts.symbols import SymbolSampler, symbol_pool
from symtune_pipeline.prompts.text import render, segments
from symtune_pipeline.sections import MixtureConfig, SymbolsConfig
from symtune_pipeline.sources.load import load_examples, public_source

BLOCK_TOKENS = 2_048
PEER_PROMPTS = 10_000  # its start counts, as ours does
SIZES = (10_000, 128_000, 1_000_000)


def examples_in_normal_form() -> pl.DataFrame:
    """The training rows of the tuning sets, with one space wherever there was white space."""
    experiment = load_experiment("mirror" if mirror_folder() else "quickstart")
    source = public_source(mirror_folder())
    frames = [
        load_examples(entry, experiment, source)
        .with_columns(pl.col("input").str.replace_all(r"\s+", " ").str.strip_chars())
        .filter(pl.col("split") == "train", pl.col("input") != "")
        for entry in experiment.datasets()
        if entry.role == "tuning"
    ]
    return pl.concat(frames).with_row_index("example")


def ours(folder: Path, prompts: int) -> tuple[int, float]:
    """Mixture and blocks as Parquet files; returns the blocks' number and the share that is filled."""
    from transformers import AutoTokenizer

    examples = pl.read_parquet(folder / "examples.parquet")
    pool = pl.read_parquet(folder / "symbols.parquet")
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    config = MixtureConfig(prompts=prompts)
    write_frames(
        folder / "mixture.parquet",
        mixture_chunks(examples, SymbolSampler(pool, "tuning"), config, seed=0),
    )
    blocks = packed_blocks(
        read_frames(folder / "mixture.parquet"), examples["input"], {}, tokenizer, BLOCK_TOKENS
    )
    write_frames(folder / "blocks.parquet", blocks)
    tokens = pl.scan_parquet(folder / "blocks.parquet").select(
        pl.col("tokens").list.len().cast(pl.Int64).sum(), pl.len()
    )
    total, count = tokens.collect().row(0)
    return count, total / (count * BLOCK_TOKENS)


def peer(folder: Path, prompts: int) -> tuple[int, float]:
    """The same in the ordinary way."""
    from datasets import Dataset

    drawn = Dataset.from_dict({"prompt": list(range(prompts))})
    encoded = drawn.map(
        _peer_prompt, num_proc=2, fn_kwargs={"folder": str(folder)}, keep_in_memory=True
    )
    blocks: list[list[int]] = []
    for tokens in encoded["tokens"]:
        room = next((b for b in blocks if len(b) + len(tokens) <= BLOCK_TOKENS), None)
        if room is None:
            blocks.append(list(tokens))
        else:
            room.extend(tokens)
    Dataset.from_dict({"tokens": blocks}).to_parquet(folder / "peer.parquet")
    return len(blocks), sum(map(len, blocks)) / (len(blocks) * BLOCK_TOKENS)


@cache
def _peer_inputs(folder: str) -> tuple[Any, ...]:
    import pandas as pd
    from transformers import AutoTokenizer

    examples = pd.read_parquet(f"{folder}/examples.parquet")
    pool = pd.read_parquet(f"{folder}/symbols.parquet")
    pool = pool[pool["split"] == "tuning"]
    return (
        dict(list(examples.groupby("dataset"))),
        dict(list(pool.groupby("category")["symbol"])),
        AutoTokenizer.from_pretrained(base_model()),
    )


def _peer_prompt(row: dict[str, int], folder: str) -> dict[str, list[int]]:
    by_dataset, by_category, tokenizer = _peer_inputs(folder)
    rng = np.random.default_rng(row["prompt"])
    frame = by_dataset[str(rng.choice(list(by_dataset)))]
    k = int(rng.integers(2, 11))
    drawn = (
        frame.groupby("label")
        .sample(k + 1, replace=True, random_state=rng)
        .sample(frac=1, random_state=rng)
    )
    symbols = {
        label: by_category[str(rng.choice(list(by_category)))].sample(1, random_state=rng).iloc[0]
        for label in drawn["label"].unique()
    }
    examples = drawn.head(k * len(symbols) + 1)
    labels = [symbols[label] for label in examples["label"]]
    text = render(segments(int(rng.integers(10)), examples["input"].tolist(), labels))
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"tokens": tokens[:BLOCK_TOKENS]}


def main() -> None:
    """Measure, print, write."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    base_model()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        examples_in_normal_form().write_parquet(folder / "examples.parquet")
        symbol_pool(SymbolsConfig(), ()).write_parquet(folder / "symbols.parquet")
        theirs = measured(peer, folder, PEER_PROMPTS)
        runs = {size: measured(ours, folder, size) for size in SIZES}
    records = []
    peer_rate = PEER_PROMPTS / theirs.seconds
    for size, run in runs.items():
        rate = size / run.seconds
        ratio = rate / peer_rate
        records.append(
            Record(
                f"{size:,} prompts", rate, peer_rate, "prompts/s", ratio, "30 times", ratio >= 30
            )
        )
    for size, run in runs.items():
        bar = {128_000: "under 30 s"}.get(size, "")
        records.append(
            Record(f"{size:,} prompts, time", run.seconds, None, "s", None, bar,
                   run.seconds < 30 if bar else None)
        )  # fmt: skip
    for size, run in runs.items():
        gigabytes = run.peak_bytes / 1e9
        bar = "under 2 GB" if size == max(SIZES) else ""
        records.append(
            Record(f"{size:,} prompts, memory", gigabytes, None, "GB", None, bar,
                   gigabytes < 2 if bar else None)
        )  # fmt: skip
    for size, run in runs.items():
        waste = 100 * (1 - run.value[1])
        records.append(
            Record(f"{size:,} prompts, unfilled", waste, 100 * (1 - theirs.value[1]), "%", None,
                   "under 3%", waste < 3)
        )  # fmt: skip
    report("data", records)


if __name__ == "__main__":
    main()
