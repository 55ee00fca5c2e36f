"""Accuracy by setting of a model outside the graph: a served one, or somebody's folder.

The graph's own models are counted by the SQL marts. This module knows nothing about models.
"""

from __future__ import annotations

import polars as pl

from symtune_pipeline.sql.engine import engine

BY_SETTING = """
    SELECT
        setting,
        count(*) AS n,
        avg(correct::INTEGER) AS accuracy,
        wilson_low(count(*) FILTER (WHERE correct), count(*)) AS low,
        wilson_high(count(*) FILTER (WHERE correct), count(*)) AS high,
        avg(chance) AS chance,
        avg(calibrated_correct::INTEGER) AS calibrated,
        CASE WHEN count(calibrated_correct) > 0 THEN wilson_low(
            count(*) FILTER (WHERE calibrated_correct), count(calibrated_correct)
        ) END AS calibrated_low,
        CASE WHEN count(calibrated_correct) > 0 THEN wilson_high(
            count(*) FILTER (WHERE calibrated_correct), count(calibrated_correct)
        ) END AS calibrated_high,
        avg(channel_correct::INTEGER) AS channel,
        CASE WHEN count(channel_correct) > 0 THEN wilson_low(
            count(*) FILTER (WHERE channel_correct), count(channel_correct)
        ) END AS channel_low,
        CASE WHEN count(channel_correct) > 0 THEN wilson_high(
            count(*) FILTER (WHERE channel_correct), count(channel_correct)
        ) END AS channel_high
    FROM (SELECT *, row_number() OVER () AS number FROM outcomes)
    GROUP BY setting
    ORDER BY min(number)
"""


def by_setting(
    classification: pl.DataFrame, algorithmic: pl.DataFrame | None = None
) -> pl.DataFrame:
    """A row per setting, in the order of the predictions, with 95% Wilson intervals.

    Columns: setting (of the algorithmic suite after the benchmark's key), n, accuracy, low, high,
    chance, and the accuracy of calibrated choices, calibrated, calibrated_low and calibrated_high, and
    of channel choices, channel, channel_low and channel_high, which are null where there are none. Of
    the algorithmic suite these and chance are null.
    """
    choices = ["calibrated_correct", "channel_correct"]
    outcomes = classification.select("setting", "correct", "chance", *choices)
    if algorithmic is not None:
        of_benchmark = algorithmic.select(
            pl.format("{}, {}", "benchmark", "setting").alias("setting"),
            "correct",
            chance=pl.lit(None, pl.Float64),
            **dict.fromkeys(choices, pl.lit(None, pl.Boolean)),
        )
        outcomes = pl.concat([outcomes, of_benchmark])
    with engine() as database:
        accuracies: pl.DataFrame = database.register("outcomes", outcomes).sql(BY_SETTING).pl()
        return accuracies
