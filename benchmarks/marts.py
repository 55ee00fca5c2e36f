"""The project's SQL over what is kept of an experiment, or of a part of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import polars as pl

from benchmarks.common import ROOT
from benchmarks.kept import Kept
from symtune_pipeline.report.tables import Row, rank
from symtune_pipeline.sql.engine import run_model
from symtune_pipeline.sql.model import SqlModel, load_models
from symtune_pipeline.tables import BENCHMARKS, SETTINGS, SOURCES

Measure = Literal["accuracy", "calibrated"]
MEASURES: dict[Measure, str] = {"accuracy": "", "calibrated": ", calibrated"}


def only(kept: Kept, benchmarks: str = "", datasets: str = "", k: str = "") -> Kept:
    """The outcomes of these benchmarks and datasets alone, and of so many exemplars of each class.

    Algorithmic benchmarks have no datasets and no classes, and are left out where those are asked for.
    """
    outcomes = kept.outcomes
    if benchmarks:
        outcomes = outcomes.filter(pl.col("benchmark").is_in(benchmarks.split(",")))
    if datasets:
        outcomes = outcomes.filter(pl.col("dataset").is_in(datasets.split(",")))
    if k:
        end = f", k = {k}"
        asked = outcomes.filter(pl.col("setting").str.ends_with(end))
        outcomes = asked.with_columns(pl.col("setting").str.strip_suffix(end))
    return replace(kept, outcomes=outcomes)


def mart(name: str, kept: Kept) -> pl.DataFrame:
    """The table of a SQL model over what is kept."""
    tables = {
        "int_outcomes": kept.outcomes,
        "eval_language": kept.language,
        "catalog_variants": kept.variants,
    }
    sql = sql_models()[name]
    with TemporaryDirectory() as folder:
        out = Path(folder) / "mart.parquet"
        run_model(sql, {table: tables[table] for table in sql.depends_on}, {}, out)
        return pl.read_parquet(out)


@cache
def sql_models() -> dict[str, SqlModel]:
    """The project's SQL models by name."""
    return load_models(ROOT / "dbt_like_sql", SOURCES)


def untuned_rows(kept: Kept) -> dict[tuple[str, str, str], Row]:
    """The untuned model's accuracy over all datasets, by benchmark, setting and measure."""
    alone = replace(kept, outcomes=kept.outcomes.filter(variant="untuned"))
    rows = mart("int_scores", alone).filter(level="all")
    return {(r["benchmark"], r["setting"], r["measure"]): r for r in rows.iter_rows(named=True)}


def seeds_of_recipes(kept: Kept) -> dict[str, list[str]]:
    """The variants of each recipe, which differ in their seeds alone."""
    seeds: dict[str, list[str]] = {}
    for variant, recipe in kept.facts["recipes"].items():
        seeds.setdefault(recipe, []).append(variant)
    return seeds


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows in reading order: by benchmark, setting and measure."""
    return rows.sort(
        rank("benchmark", tuple(BENCHMARKS)),
        rank("setting", tuple(setting.name for setting in SETTINGS)),
        "setting",
        rank("measure", tuple(MEASURES)),
        maintain_order=True,
    )
