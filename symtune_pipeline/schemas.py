"""The columns of every table that crosses a boundary, declared once and enforced on writing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from symtune_pipeline.errors import UserError

if TYPE_CHECKING:
    from pandera.polars import DataFrameSchema


@cache
def schemas() -> dict[str, DataFrameSchema]:
    """The schemas by the name of their table."""
    from pandera.polars import Check, Column, DataFrameSchema

    def text(*allowed: str) -> Column:
        return Column(pl.String, Check.isin(allowed) if allowed else None)

    def number(dtype: type[pl.DataType], least: float = 0) -> Column:
        return Column(dtype, Check.ge(least))

    prediction = {
        "partition": text(),
        "model": text("pretrained", "untuned", "tuned", "endpoint", "incoming"),
        "setting": text(),
        "context": number(pl.UInt32),
        "query": number(pl.UInt32),
        "correct": Column(pl.Boolean),
    }
    tables = {
        "raw_examples": {
            "example_id": Column(pl.String, unique=True),
            "dataset": text(),
            "task_type": text(),
            "split": text("train", "test"),
            "input": text(),
            "label": text(),
            "label_id": number(pl.Int64),
        },
        "symbol_pool": {
            "symbol": Column(pl.String, unique=True),
            "category": text("integer", "combination", "word"),
            "split": text("tuning", "evaluation"),
        },
        "mixture": {
            "prompt": Column(pl.UInt32, unique=True),
            "dataset": text(),
            "format": number(pl.UInt8),
            "examples": Column(pl.List(pl.UInt32)),
            "answers": Column(pl.List(pl.UInt8)),
            "labels": Column(pl.List(pl.String)),
            "instructed": Column(pl.Boolean),
        },
        "packed_mixture": {
            "block": Column(pl.UInt32, unique=True),
            "tokens": Column(pl.List(pl.Int32)),
            "prompt_lengths": Column(pl.List(pl.UInt32)),
            "target_places": Column(pl.List(pl.UInt32)),
            "target_kinds": Column(pl.List(pl.UInt8)),
        },
        "classification_predictions": prediction
        | {
            "dataset": text(),
            "flipped_percent": number(pl.Int32),
            "labels": Column(pl.List(pl.String)),
            "target": number(pl.UInt8),
            "choice": number(pl.UInt8),
            "logprobs": Column(pl.List(pl.Float64)),
            "chance": Column(pl.Float64, Check.in_range(0, 1)),
            "dropped": number(pl.UInt32),
        },
        "algorithmic_predictions": prediction
        | {
            "benchmark": text("list_functions", "turing_concepts"),
            "concept": text(),
            "category": text(),
            "expected": text(),
            "answer": text(),
        },
    }
    return {
        name: DataFrameSchema(columns, strict=True, name=name) for name, columns in tables.items()
    }


def checked(table: pl.DataFrame, schema: str) -> pl.DataFrame:
    """`table` itself where it fits the schema; raises UserError naming the first breach otherwise."""
    from pandera.errors import SchemaError

    try:
        schemas()[schema].validate(table)
    except SchemaError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"A table breaks its schema '{schema}': {reason}.") from error
    return table


def misfit(path: Path, schema: str) -> str | None:
    """How the columns of a Parquet file differ from the schema; None where they do not.

    It reads the file's footer only: the values were checked before they were written.
    """
    from pandera.errors import SchemaError

    try:
        schemas()[schema].validate(pl.scan_parquet(path))
    except SchemaError as error:
        return str(error).splitlines()[0]
    return None
