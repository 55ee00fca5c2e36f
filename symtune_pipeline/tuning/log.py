"""The log of a job as rows by step, and what can be read from them without the model.

A row holds the columns of `tables.TUNING_LOG` that were measured, and for each dataset of the held-out
prompts three of its own, such as 'symbol_accuracy/rte'. This module knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from symtune_pipeline.tables import TUNING_LOG_BY_SET

ACCURACY_OF, CHANCE_OF, QUERIES_OF = "symbol_accuracy/", "symbol_chance/", "symbol_queries/"


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of no values."""
    found = list(values)
    return sum(found) / len(found) if found else None


def is_best(row: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no step before had a higher symbol accuracy; the untuned model is no step."""
    steps = [other for other in before if other["step"] and "symbol_accuracy" in other]
    return all(row["symbol_accuracy"] >= other["symbol_accuracy"] for other in steps)


def by_set(rows: Sequence[Mapping[str, float | None]]) -> pl.DataFrame:
    """The symbol accuracy of each dataset at each measured step, as `tables.TUNING_LOG_BY_SET`."""
    found = [
        {
            "step": row["step"],
            "dataset": name.removeprefix(ACCURACY_OF),
            "queries": row[name.replace(ACCURACY_OF, QUERIES_OF, 1)],
            "symbol_accuracy": value,
            "symbol_chance": row[name.replace(ACCURACY_OF, CHANCE_OF, 1)],
        }
        for row in rows
        for name, value in row.items()
        if name.startswith(ACCURACY_OF)
    ]
    return TUNING_LOG_BY_SET.frame(found)
