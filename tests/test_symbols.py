"""The pool of symbols and how symbols are drawn from it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from symtune_pipeline.symbols import SymbolSampler, letters, symbol_pool


def _of(pool: pl.DataFrame, split: str, category: str) -> list[str]:
    return pool.filter(split=split, category=category)["symbol"].to_list()


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "A"), (26, "Z"), (27, "AA"), (52, "AZ"), (53, "BA"), (702, "ZZ"), (703, "AAA"),
     (10_000, "NTP"), (10_001, "NTQ"), (100_000, "EQXD")],
)  # fmt: skip
def test_letter_combinations_count_in_bijective_base_26(number: int, text: str) -> None:
    assert letters(number) == text


def test_tuning_symbols_are_the_first_ten_thousand_of_each_category(symbols: pl.DataFrame) -> None:
    assert _of(symbols, "tuning", "integer") == [str(i) for i in range(10_000)]
    combinations = _of(symbols, "tuning", "combination")
    assert (combinations[0], combinations[-1], len(combinations)) == ("A", "NTP", 10_000)
    words = _of(symbols, "tuning", "word")
    assert {"the", "house", "and"} < set(words)
    assert len(words) == 10_000


def test_evaluation_symbols_are_the_rest(symbols: pl.DataFrame) -> None:
    assert _of(symbols, "evaluation", "integer") == [str(i) for i in range(10_000, 100_000)]
    combinations = _of(symbols, "evaluation", "combination")
    assert (combinations[0], combinations[-1]) == ("NTQ", "EQXD")
    assert {len(text) for text in combinations} == {3, 4}
    assert {"THE", "THF"} & set(combinations) == {"THF"}  # 'the' is a tuning word
    assert len(_of(symbols, "evaluation", "word")) > 80_000
    assert 290_000 < len(symbols) <= 300_000


def test_no_symbol_is_in_both_splits_whatever_its_case(symbols: pl.DataFrame) -> None:
    folded = symbols.with_columns(pl.col("symbol").str.to_lowercase())
    tuning, evaluation = (set(folded.filter(split=s)["symbol"]) for s in ("tuning", "evaluation"))
    assert tuning.isdisjoint(evaluation)
    assert symbols["symbol"].n_unique() == len(symbols)


def test_a_symbol_is_one_word_without_white_space(symbols: pl.DataFrame) -> None:
    assert symbols.filter(~pl.col("symbol").str.contains(r"^([0-9]+|[A-Za-z]+)$")).is_empty()


def test_the_pool_is_the_same_every_time(symbols: pl.DataFrame) -> None:
    assert symbol_pool().equals(symbols)


@pytest.mark.parametrize("split", ["tuning", "evaluation"])
def test_each_category_makes_a_third_of_the_draws(symbols: pl.DataFrame, split: str) -> None:
    from scipy.stats import chisquare

    drawn = SymbolSampler(symbols, split).draw(10_000, 3, np.random.default_rng(1)).ravel()
    found = pl.DataFrame({"symbol": drawn.tolist()}).join(symbols, on="symbol")
    assert set(found["split"]) == {split}
    assert chisquare(found["category"].value_counts()["count"].to_numpy()).pvalue > 1e-3


def test_symbols_of_a_category_are_drawn_uniformly(symbols: pl.DataFrame) -> None:
    from scipy.stats import chisquare

    drawn = SymbolSampler(symbols, "tuning").draw(10_000, 3, np.random.default_rng(2)).ravel()
    integers = np.array([int(symbol) for symbol in drawn if symbol.isdigit()])
    assert chisquare(np.bincount(integers // 1_000, minlength=10)).pvalue > 1e-3


def test_a_symbol_is_never_shared_by_two_classes() -> None:
    """With six symbols in all, four at random clash nearly always."""
    categories = ["integer", "combination", "word"]
    pool = pl.DataFrame(
        {"symbol": list("12ABcd"), "category": sorted(categories * 2, key=categories.index)}
    )
    drawn = SymbolSampler(pool.with_columns(split=pl.lit("tuning")), "tuning").draw(
        2_000, 4, np.random.default_rng(0)
    )
    assert drawn.shape == (2_000, 4)
    assert all(len(set(row)) == 4 for row in drawn)
    assert set(drawn.ravel()) == set("12ABcd")
