"""Predictions as tables: a suite's queries, and what a model made of each.

Both tables of `tables` hold the columns below and those of `of_model`. This module knows nothing
about models: log-probabilities and completions may come from anywhere. `path` says how the model was run.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from symtune_pipeline.tables import CLASS

RANKED = ("setting", "flipped_percent", "dataset", "context", "query", "labels", "target")
GENERATED = ("benchmark", "setting", "concept", "category", "context", "query", "target")


def ranked(
    suite: pl.DataFrame, logprobs: Sequence[Sequence[float]], dropped: Sequence[int], path: str
) -> pl.DataFrame:
    """Predictions on the classification suite from the log-probabilities of each row's labels.

    One row per row of the suite, in its order. The prediction is the label with the highest
    log-probability, in nats; `dropped` counts the exemplars left out, so that the longest prompt of
    the row's context fits the model. Chance is one over the number of labels.
    """
    return (
        suite.select(RANKED)
        .with_columns(
            prediction=pl.Series([row.index(max(row)) for row in logprobs], dtype=CLASS),
            logprobs=pl.Series(logprobs, dtype=pl.List(pl.Float64)),
            chance=1.0 / pl.col("labels").list.len(),
            dropped=pl.Series(dropped, dtype=pl.UInt32),
            path=pl.lit(path),
        )
        .with_columns(correct=pl.col("prediction") == pl.col("target"))
    )


def generated(suite: pl.DataFrame, completions: Sequence[str], path: str) -> pl.DataFrame:
    """Completions of the algorithmic suite, one per row in its order; right where they are the target."""
    return (
        suite.select(GENERATED)
        .with_columns(completion=pl.Series(completions, dtype=pl.String), path=pl.lit(path))
        .with_columns(correct=pl.col("completion") == pl.col("target"))
    )


def of_model(predictions: pl.DataFrame, model: str, variant: str) -> pl.DataFrame:
    """The predictions with whose they are: the columns `model` and `variant`."""
    return predictions.with_columns(model=pl.lit(model), variant=pl.lit(variant))


def paths(predictions: pl.DataFrame) -> dict[str, str]:
    """How each variant was run; nothing of a table that an earlier version has made."""
    if "path" not in predictions.columns:
        return {}
    return dict(predictions.select("variant", "path").unique(maintain_order=True).iter_rows())
