"""What must hold of predictions: every query has one, and none is worse than guessing."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from symtune_pipeline.sql.statistics import wilson_high

# What tells the queries of a suite apart, where it has them.
KEYS = (
    "benchmark",
    "setting",
    "flipped_percent",
    "dataset",
    "concept",
    "context",
    "query",
    "example",
)


def not_predicted_once(
    suite: pl.DataFrame, predictions: pl.DataFrame, variants: Sequence[str]
) -> int:
    """How many queries a variant predicted never, several times, or without being asked."""
    keys = [name for name in KEYS if name in suite.columns and name in predictions.columns]
    expected = suite.select(keys).join(pl.DataFrame({"variant": variants}), how="cross")
    counted = [table.group_by(*keys, "variant").len() for table in (expected, predictions)]
    both = counted[0].join(counted[1], on=[*keys, "variant"], how="full", nulls_equal=True)
    return both.filter(~pl.col("len").eq_missing(pl.col("len_right"))).height


def below_chance(predictions: pl.DataFrame) -> list[str]:
    """A sentence for every variant and setting whose 95% Wilson interval ends below chance."""
    counts = (
        predictions.group_by("variant", "setting")
        .agg(pl.col("correct").sum(), pl.len().alias("n"), pl.col("chance").mean())
        .sort("variant", "setting")
    )
    return [
        f"{variant}, {setting}: {right / n:.2f} of {n:,} queries, below chance ({chance:.2f})"
        for variant, setting, right, n, chance in counts.rows()
        if wilson_high(right, n) < chance
    ]
