"""How much there is to tune on: counted from the blocks of a mixture, or estimated from settings and sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import polars as pl

from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import scan_table
from symtune_pipeline.prompts.mixture import sets_to_draw
from symtune_pipeline.prompts.targets import LEAST_KIND
from symtune_pipeline.sections import LossName
from symtune_pipeline.sources.lengths import example_tokens

TOKENS_PER_TARGET = 8  # for estimates


@dataclass(frozen=True)
class Workload:
    """The mixture as blocks."""

    source: str
    tokens: int
    blocks: int
    targets: int
    most_targets: int  # of a block
    prompt_tokens: float  # length of the prompt that a token is in, on average


def packed_workload(blocks: Path, model: str, loss: LossName) -> Workload:
    """The blocks that were packed for a model, with what the loss trains on."""
    trained_on = pl.col("target_kinds").list.eval(pl.element() >= LEAST_KIND[loss])
    lengths = pl.col("sequence_lengths").list.explode().cast(pl.Float64)
    sums = (
        scan_table(blocks)
        .select(
            tokens=lengths.sum(),
            squares=(lengths**2).sum(),
            blocks=pl.len(),
            targets=trained_on.list.sum().sum(),
            most=trained_on.list.sum().max(),
        )
        .collect()
        .row(0, named=True)
    )
    return Workload(
        f"packed for {model}",
        int(sums["tokens"]),
        sums["blocks"],
        sums["targets"],
        sums["most"],
        sums["squares"] / sums["tokens"],
    )


def estimated_workload(
    experiment: Experiment, source: str, lengths: Mapping[str, float] | None = None
) -> Workload:
    """What the settings and the sets let expect; `source` says that it is an estimate.

    `lengths` are the mean characters of the inputs of sets where known; else generated sets are drawn.
    """
    mixture, tuning, known = experiment.mixture, experiment.tuning, lengths or {}
    tuning_sets = {entry.key: entry for entry in experiment.datasets() if entry.role == "tuning"}
    keys = sets_to_draw(tuning_sets, mixture, experiment.seed, experiment.left_out())
    sets = [tuning_sets[key] for key in keys]
    k, count = sum(mixture.exemplars_per_class) / 2, max(len(sets), 1)
    exemplars = sum(k * len(entry.labels) for entry in sets) / count
    prompt_tokens = (
        sum(
            (k * len(entry.labels) + 1) * example_tokens(entry, known.get(entry.key))
            for entry in sets
        )
        / count
    )
    tokens = round(mixture.prompts * prompt_tokens)
    share = TOKENS_PER_TARGET * (1 if tuning.loss == "all_labels" else exemplars + 1)
    return Workload(
        source,
        tokens,
        ceil(tokens / tuning.block_tokens),
        round(tokens / share),
        round(tuning.block_tokens / share),
        prompt_tokens,
    )
