"""The checks beside the assets: columns, symbols, predictions."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from symtune_pipeline.evaluation.checks import below_chance, not_answered_once
from symtune_pipeline.prompts.symbols import in_both_splits
from symtune_pipeline.tables import misfit

SUITE = pl.DataFrame(
    {
        "benchmark": "icl",
        "setting": ["a", "a", "b"],
        "dataset": "d",
        "context": [0, 0, 0],
        "query": [1, 2, 1],
    }
)
ANSWERS = pl.concat(
    [SUITE.drop("benchmark").with_columns(model=pl.lit(model)) for model in ("untuned", "tuned")]
)


def wrong(answers: pl.DataFrame) -> int:
    return not_answered_once(SUITE, answers, ["tuned", "untuned"])


def test_every_query_is_answered_once_by_every_model() -> None:
    assert wrong(ANSWERS) == 0
    assert wrong(ANSWERS.head(5)) == 1
    assert wrong(pl.concat([ANSWERS, ANSWERS.head(2)])) == 2
    assert wrong(ANSWERS.filter(model="tuned")) == 3


def test_an_answer_to_a_query_that_was_not_asked_is_wrong() -> None:
    other = ANSWERS.head(1).with_columns(query=pl.lit(9, pl.Int64))
    assert wrong(pl.concat([ANSWERS, other])) == 1


@pytest.mark.parametrize(("right", "told"), [(10, 1), (45, 0), (90, 0)])
def test_a_model_is_below_chance_when_its_whole_interval_is(right: int, told: int) -> None:
    correct = [True] * right + [False] * (100 - right)
    predictions = pl.DataFrame(
        {"model": "tuned", "setting": "symbols", "correct": correct, "chance": 0.5}
    )
    assert len(below_chance(predictions)) == told


def test_a_symbol_of_both_splits_is_found_whatever_its_case() -> None:
    pool = pl.DataFrame(
        {"symbol": ["foo", "FOO", "bar"], "split": ["tuning", "evaluation", "evaluation"]}
    )
    assert in_both_splits(pool) == ["foo"]
    assert in_both_splits(pool.filter(pl.col("symbol") != "FOO")) == []


def test_no_symbol_of_the_pool_is_in_both_splits(symbols: pl.DataFrame) -> None:
    assert in_both_splits(symbols) == []


def test_a_table_with_other_columns_than_its_schema_says_is_found(tmp_path: Path) -> None:
    table = pl.DataFrame({"symbol": ["a"], "category": ["word"], "split": ["tuning"]})
    path = tmp_path / "pool.parquet"
    table.write_parquet(path)
    assert misfit(path, "symbol_pool") is None
    table.drop("split").write_parquet(path)
    assert "split" in str(misfit(path, "symbol_pool"))
    table.with_columns(split=1).write_parquet(path)
    assert "split" in str(misfit(path, "symbol_pool"))
