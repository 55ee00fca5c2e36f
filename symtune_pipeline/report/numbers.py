"""Results as single numbers with names, for whoever keeps a history of them."""

from __future__ import annotations

import polars as pl

from symtune_pipeline.report.tables import comparisons, setting_label, several_models
from symtune_pipeline.tables import ZERO_SHOT


def of_summary(summary: pl.DataFrame) -> dict[str, float]:
    """The accuracy of each variant and the gain in percentage points, of each setting.

    `summary` has a row per model, benchmark, setting and variant, with `accuracy` as a fraction and
    `gain` where it is known. Names say the model too where there are several.
    """
    several = several_models(summary)
    numbers: dict[str, float] = {}
    for pair in comparisons(summary):
        about = f"{pair.model}, " if several else ""
        about += setting_label(pair.benchmark, pair.setting)
        numbers |= {f"{about}: accuracy {name}": row["accuracy"] for name, row in pair.rows.items()}
        if pair.tuned.get("gain") is not None:
            numbers[f"{about}: gain in points"] = 100 * pair.tuned["gain"]
    return numbers


def of_predictions(predictions: pl.DataFrame) -> dict[str, float]:
    """The same of the predictions of one model's variants, which all answered the same queries."""
    keys = ["model", "benchmark", "setting"]
    predictions = predictions.filter(
        pl.col("setting") != ZERO_SHOT
    )  # which is no benchmark's setting
    summary = predictions.group_by(*keys, "variant").agg(accuracy=pl.col("correct").mean())
    untuned = summary.filter(pl.col("variant") == "untuned").select(*keys, untuned="accuracy")
    gains = pl.col("accuracy") - pl.col("untuned")
    return of_summary(summary.join(untuned, on=keys, how="left").with_columns(gain=gains))
