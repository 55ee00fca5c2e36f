"""Predictions as tables: a suite's queries, and what a model made of each.

Both tables of `tables` hold the columns below and those of `of_model`. This module knows nothing
about models: log-probabilities and completions may come from anywhere. `path` says how the model was run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.tables import CLASS

if TYPE_CHECKING:
    import torch

RANKED = ("setting", "flipped_percent", "dataset", "context", "query", "labels", "target")
GENERATED = ("benchmark", "setting", "concept", "category", "context", "query", "target")


CONTENT_FREE = "N/A"  # the query of Zhao et al. that says nothing
CONTEXT = ("benchmark", "setting", "flipped_percent", "dataset", "context")


def by_context(
    suite: pl.DataFrame, inputs: Sequence[str]
) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """By context its rows, then one more whose query has no content; and the inputs with that query's.

    The rows of a context are neighbours in a classification suite and share all but query and target.
    `inputs` are by example number.
    """
    grouped = groupby(suite.iter_rows(named=True), key=lambda row: [row[name] for name in CONTEXT])
    contexts = [list(rows) for _, rows in grouped]
    content_free = {"query": len(inputs)}
    return [[*rows, rows[0] | content_free] for rows in contexts], [*inputs, CONTENT_FREE]


def ranked(
    suite: pl.DataFrame,
    answers: Sequence[Sequence[Sequence[float]]],
    dropped: Sequence[int],
    path: str,
    channel: Sequence[Sequence[Sequence[float]]] | None = None,
) -> pl.DataFrame:
    """Predictions on the classification suite from the log-probabilities of labels, in nats.

    `answers` are those of each context as `by_context` gives them: by query the labels', the content-free
    query last. `dropped` counts the exemplars left out of a context, so that its longest prompt fits
    the model. One row per row of the suite, in its order. The prediction is the label with the highest
    log-probability, and the calibrated one as `calibrated` has it. `channel` are the log-probabilities
    of each query's input after each label, by context; the channel choice is the label with the highest,
    and null where they are None. Chance is one over the number of labels.
    """
    counted = zip(answers, dropped, strict=True)
    rows = [
        (of_query, last, calibrated(of_query, last), count)
        for (*of_queries, last), count in counted
        for of_query in of_queries
    ]
    logprobs, content_free, choices, left_out = zip(*rows, strict=True) if rows else ((),) * 4
    after: list[Sequence[float] | None] = [None] * len(suite)
    if channel is not None:
        after = [of_query for of_context in channel for of_query in of_context]
    return (
        suite.select(RANKED)
        .with_columns(
            prediction=pl.Series([row.index(max(row)) for row in logprobs], dtype=CLASS),
            logprobs=pl.Series(logprobs, dtype=pl.List(pl.Float64)),
            content_free=pl.Series(content_free, dtype=pl.List(pl.Float64)),
            calibrated=pl.Series(choices, dtype=CLASS),
            channel=pl.Series([row and row.index(max(row)) for row in after], dtype=CLASS),
            channel_logprobs=pl.Series(after, dtype=pl.List(pl.Float64)),
            chance=1.0 / pl.col("labels").list.len(),
            dropped=pl.Series(left_out, dtype=pl.UInt32),
            path=pl.lit(path),
        )
        .with_columns(
            correct=pl.col("prediction") == pl.col("target"),
            calibrated_correct=pl.col("calibrated") == pl.col("target"),
            channel_correct=pl.col("channel") == pl.col("target"),
        )
    )


def calibrated(logprobs: Sequence[float], content_free: Sequence[float]) -> int:
    """The label whose probability a query raises most over what it is after one without content.

    Contextual calibration: the arg max of p(label | query) / p(label | content-free query), each
    normalised over the labels, which scales all quotients alike and so moves no arg max. Source: Zhao
    et al., "Calibrate before use: improving few-shot performance of language models" (2021).
    """
    gains = [after - before for after, before in zip(logprobs, content_free, strict=True)]
    return gains.index(max(gains))


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


def run_on(
    predictions: pl.DataFrame, device: str, precision: torch.dtype, ranks: int
) -> pl.DataFrame:
    """The predictions with what ran the model at the end of their `path`.

    As in `packed, bf16 on cuda, torch 2.13.0, transformers 5.17.0`. `ranks` is how many hold the model
    together. Log-probabilities depend on all of these.
    """
    together = f" by {ranks} ranks together" if ranks > 1 else ""
    number = "fp32" if precision.itemsize == 4 else "bf16"
    held = f", {number} on {device}{together}, {', '.join(packages())}"
    return predictions.with_columns(pl.col("path") + held)


def packages() -> list[str]:
    """The packages that compute a model's predictions, with their versions."""
    return [f"{name} {version(name).split('+')[0]}" for name in ("torch", "transformers")]


def ran_otherwise(tables: Mapping[str, pl.DataFrame], asked: Sequence[str]) -> list[str]:
    """The variants that other hardware or packages answered than those just `asked`.

    Their log-probabilities differ by rounding or more, so a comparison would not be of the models alone.
    """
    ran = {variant: _what_ran(table) for variant, table in tables.items()}
    now = {ran[variant] for variant in asked} - {None}
    return [v for v, by in ran.items() if v not in asked and now and by and by not in now]


def _what_ran(predictions: pl.DataFrame) -> str | None:
    """What `run_on` has added; None of no predictions, and of a model that a server holds."""
    found = predictions["path"].head(1).str.extract(r", ((?:fp32|bf16) on \w+.*)$")
    return found[0] if len(found) else None


def paths(predictions: pl.DataFrame) -> dict[str, str]:
    """How each variant was run; nothing of a table that an earlier version has made."""
    if "path" not in predictions.columns:
        return {}
    return dict(predictions.select("variant", "path").unique(maintain_order=True).iter_rows())
