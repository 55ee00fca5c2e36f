"""The checks beside the assets: columns, symbols, predictions."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from symtune_pipeline.evaluation.checks import below_chance, not_predicted_once
from symtune_pipeline.prompts.symbols import in_both_splits
from symtune_pipeline.tables import CLASSIFICATION_PREDICTIONS, CLASSIFICATION_SUITE, SYMBOL_POOL

ROW = {
    "benchmark": "icl",
    "dataset": "d",
    "context": 0,
    "flipped_percent": 0,
    "labels": ["a", "b"],
    "target": 0,
}
SUITE = CLASSIFICATION_SUITE.frame(
    [ROW | {"setting": name, "query": query} for name, query in (("a", 1), ("a", 2), ("b", 1))]
)
PREDICTIONS = CLASSIFICATION_PREDICTIONS.frame(
    [
        {name: value for name, value in row.items() if name in CLASSIFICATION_PREDICTIONS.columns}
        | {"variant": variant}
        for variant in ("untuned", "tuned")
        for row in SUITE.iter_rows(named=True)
    ]
)


def wrong(predictions: pl.DataFrame) -> int:
    return not_predicted_once(SUITE, predictions, ["tuned", "untuned"])


def test_every_query_is_answered_once_by_every_variant() -> None:
    assert wrong(PREDICTIONS) == 0
    assert wrong(PREDICTIONS.head(5)) == 1
    assert wrong(pl.concat([PREDICTIONS, PREDICTIONS.head(2)])) == 2
    assert wrong(PREDICTIONS.filter(variant="tuned")) == 3


def test_a_prediction_for_a_query_that_was_not_asked_is_wrong() -> None:
    other = PREDICTIONS.head(1).with_columns(query=pl.lit(9, pl.UInt32))
    assert wrong(pl.concat([PREDICTIONS, other])) == 1


@pytest.mark.parametrize(("right", "below"), [(10, 1), (45, 0), (90, 0)])
def test_a_variant_is_below_chance_when_its_whole_interval_is(right: int, below: int) -> None:
    predictions = CLASSIFICATION_PREDICTIONS.frame(
        [
            {"variant": "tuned", "setting": "symbols", "correct": i < right, "chance": 0.5}
            for i in range(100)
        ]
    )
    assert len(below_chance(predictions)) == below


def test_a_symbol_of_both_splits_is_found_whatever_its_case() -> None:
    pool = pl.DataFrame(
        {"symbol": ["foo", "FOO", "bar"], "split": ["tuning", "evaluation", "evaluation"]}
    )
    assert in_both_splits(pool) == ["foo"]
    assert in_both_splits(pool.filter(pl.col("symbol") != "FOO")) == []


def test_no_symbol_of_the_pool_is_in_both_splits(symbols: pl.DataFrame) -> None:
    assert in_both_splits(symbols) == []


def test_a_table_with_other_columns_than_its_contract_says_is_noticed(tmp_path: Path) -> None:
    table = SYMBOL_POOL.frame({"symbol": ["a"], "category": ["word"], "split": ["tuning"]})
    SYMBOL_POOL.write(table, tmp_path)
    assert SYMBOL_POOL.misfit(tmp_path) is None
    for other in (table.drop("split"), table.with_columns(split=1)):
        other.write_parquet(tmp_path / SYMBOL_POOL.file)
        assert "split" in str(SYMBOL_POOL.misfit(tmp_path))
