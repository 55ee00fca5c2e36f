"""The asset `symbol_pool`."""

from pathlib import Path

import dagster as dg
import polars as pl

from assets.step import Check, Step, Verdict, asset
from resources.store import Metadata
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.prompts.symbols import in_both_splits
from symtune_pipeline.prompts.symbols import symbol_pool as make_pool
from symtune_pipeline.tables import SYMBOL_POOL


def _natural_labels(experiment: Experiment) -> list[str]:
    return [label for entry in experiment.datasets() for label in entry.labels.values()]


def _disjoint(step: Step) -> Verdict:
    shared = in_both_splits(step.artifacts.read_table(step.key("symbol_pool")))
    return Verdict(
        not shared,
        f"Symbols in both splits: {', '.join(shared[:5]) or 'none'}.",
        {"symbols": dg.MetadataValue.int(len(shared))},
    )


DISJOINT = Check(
    "symbols_disjoint",
    "No symbol is both for tuning and for evaluation, even if case is ignored.",
    _disjoint,
)


def _settings(experiment: Experiment) -> object:
    """Which symbols stand together in a prompt changes nothing here."""
    symbols = experiment.symbols.model_copy(update={"spread": "random"})
    return symbols, _natural_labels(experiment)


@asset(
    group="mixture",
    kinds={"parquet"},
    settings=_settings,
    tables=[SYMBOL_POOL],
    checks=[DISJOINT],
)
def symbol_pool(step: Step, folder: Path) -> Metadata:
    """About 295,000 arbitrary symbols: integers, letter combinations and words. Each is for tuning or
    for evaluation, never both. None is a label of a dataset."""
    pool = make_pool(step.experiment.symbols, _natural_labels(step.experiment))
    SYMBOL_POOL.write(pool, folder)
    counts = pool.group_by("category", "split").len("symbols").sort("category", "split")
    return {"symbols": dg.MetadataValue.md(_markdown(counts))}


def _markdown(counts: pl.DataFrame) -> str:
    lines = ["| category | split | symbols |", "| --- | --- | ---: |"]
    rows = [f"| {category} | {split} | {count:,} |" for category, split, count in counts.rows()]
    return "\n".join(lines + rows)
