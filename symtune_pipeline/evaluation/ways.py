"""Four ways to ask a query, by what is done with the exemplars of its context.

| way | exemplars in the prompt | adapters tuned on the exemplars |
| --- | --- | --- |
| zero-shot | no | no |
| in context | yes | no |
| fine-tuned | no | yes |
| both | yes | yes |

This module knows nothing about models.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from symtune_pipeline.tables import SETTINGS

WAYS: Final = ("zero-shot", "in context", "fine-tuned", "both")
UNINSTRUCTED: Final = "|".join(s.name for s in SETTINGS if not s.instructed)
ASKED: Final = rf"^({UNINSTRUCTED})(, k = [0-9]+)?$"


def in_all_ways(suite: pl.DataFrame) -> pl.DataFrame:
    """The rows of a classification suite that are asked so, once for every way; settings end with it.

    These are the in-context queries without an instruction and without noise; of several numbers of
    exemplars, the largest. The rows of a context in one way are neighbours, and the ways follow one another.
    """
    asked = suite.filter(pl.col("setting").str.contains(ASKED), benchmark="icl")
    shown = pl.col("exemplars").list.len()
    asked = asked.filter(shown == shown.max().over("dataset", "context"))
    numbered = asked.with_columns(
        context_number=pl.struct("setting", "dataset", "context").rle_id()
    ).with_row_index("row_number")
    ways = pl.DataFrame({"way": WAYS}).with_row_index("way_number")
    return (
        numbered.join(ways, how="cross")
        .sort("context_number", "way_number", "row_number")
        .with_columns(setting=pl.format("{}: {}", "setting", "way"))
        .select(suite.columns)
    )
