"""What must hold of predictions: every query answered, and no worse than guessing."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from symtune_pipeline.sql.statistics import wilson_high

# What tells the queries of a suite apart, where it has them.
KEYS = ("benchmark", "setting", "flipped_percent", "dataset", "concept", "context", "query")


def not_answered_once(suite: pl.DataFrame, predictions: pl.DataFrame, models: Sequence[str]) -> int:
    """How many queries a model answered never or several times, or answered without being asked."""
    keys = [name for name in KEYS if name in suite.columns and name in predictions.columns]
    asked = suite.select(keys).join(pl.DataFrame({"model": models}), how="cross")
    counted = [table.group_by(*keys, "model").len() for table in (asked, predictions)]
    both = counted[0].join(counted[1], on=[*keys, "model"], how="full", nulls_equal=True)
    return both.filter(~pl.col("len").eq_missing(pl.col("len_right"))).height


def below_chance(predictions: pl.DataFrame) -> list[str]:
    """A sentence for every model and setting whose 95% Wilson interval ends below chance."""
    counts = (
        predictions.group_by("model", "setting")
        .agg(pl.col("correct").sum(), pl.len().alias("n"), pl.col("chance").mean())
        .sort("model", "setting")
    )
    return [
        f"{model}, {setting}: {right / n:.2f} of {n:,} queries, below chance ({chance:.2f})"
        for model, setting, right, n, chance in counts.rows()
        if wilson_high(right, n) < chance
    ]
