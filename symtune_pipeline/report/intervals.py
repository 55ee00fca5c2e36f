"""Which interval a chart shows: over draws of exemplars where a mart has it, else over queries.

Queries of a context share its exemplars, so an interval over queries is too narrow.
"""

from __future__ import annotations

from typing import Any

import polars as pl

SPAN = ("accuracy", "low", "high")


def with_interval(mart: pl.DataFrame, of: str = "") -> pl.DataFrame:
    """The mart with the interval over draws of exemplars, where it has one, in place of that over queries.

    The column `interval` says which it is. `of` begins the names of the intervals' ends.
    """
    known = pl.col(f"{of}cluster_low").is_not_null()
    return mart.with_columns(
        pl.coalesce(f"{of}cluster_{end}", f"{of}{end}").alias(f"{of}{end}")
        for end in ("low", "high")
    ).with_columns(
        interval=pl.when(known).then(pl.lit("over draws")).otherwise(pl.lit("over queries"))
    )


def axis_title(quantity: str, rows: list[dict[str, Any]]) -> list[str]:
    """The title of an axis; its second line says what the intervals of the chart are."""
    return [quantity, f"95% interval {' or '.join(sorted({row['interval'] for row in rows}))}"]
