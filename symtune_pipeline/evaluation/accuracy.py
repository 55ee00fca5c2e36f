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
        avg(chance) AS chance
    FROM (SELECT *, row_number() OVER () AS place FROM answers)
    GROUP BY setting
    ORDER BY min(place)
"""


def by_setting(
    classification: pl.DataFrame, algorithmic: pl.DataFrame | None = None
) -> pl.DataFrame:
    """A row per setting, in the order of the predictions, with 95% Wilson intervals.

    Columns: setting (with the flipped percentage or the benchmark's name), n, accuracy, low, high,
    chance (null where it is not known).
    """
    flipped = pl.format("{}, {}% flipped", "setting", "flipped_percent")
    is_flipped = pl.col("flipped_percent") > 0
    answers = classification.select(
        pl.when(is_flipped).then(flipped).otherwise("setting").alias("setting"), "correct", "chance"
    )
    if algorithmic is not None:
        named = algorithmic.select(
            pl.format("{}, {}", "benchmark", "setting").alias("setting"),
            "correct",
            chance=pl.lit(None, pl.Float64),
        )
        answers = pl.concat([answers, named])
    with engine() as database:
        found: pl.DataFrame = database.register("answers", answers).sql(BY_SETTING).pl()
        return found
