"""The pool of symbols and how symbols are drawn from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.symbols import (
    SymbolSampler,
    first_tokens,
    letters,
    shared_token_sequences,
    symbol_pool,
)
from symtune_pipeline.sections import SymbolsConfig
from symtune_pipeline.tables import Category


def _toy(**symbols: str) -> pl.DataFrame:
    """A pool for tuning with one-character symbols by category."""
    frames = [
        pl.DataFrame({"symbol": list(text), "category": category, "split": "tuning"})
        for category, text in symbols.items()
    ]
    return pl.concat(frames)


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
    assert symbol_pool(SymbolsConfig(), []).equals(symbols)
    some = SymbolsConfig(tuning_size=999, leave_out_offensive=True)
    assert symbol_pool(some, ["yes"]).equals(symbol_pool(some, {"yes"}))


@pytest.mark.parametrize("category", ["integer", "combination", "word"])
def test_a_category_alone_tunes_and_the_evaluation_stays_what_it_is(
    category: Category, symbols: pl.DataFrame
) -> None:
    alone = symbol_pool(SymbolsConfig(categories=(category,)), [])
    assert _of(alone, "tuning", category) == _of(symbols, "tuning", category)
    assert alone.filter(split="tuning")["category"].unique().to_list() == [category]
    assert alone.filter(split="evaluation").equals(symbols.filter(split="evaluation"))
    drawn = SymbolSampler(alone, "tuning").draw(50, 3, np.random.default_rng(0))
    assert set(drawn.ravel()) <= set(_of(symbols, "tuning", category))


def test_a_smaller_pool_is_the_first_symbols_of_each_category(symbols: pl.DataFrame) -> None:
    small = symbol_pool(SymbolsConfig(tuning_size=200), [])
    sizes = {"integer": 67, "combination": 67, "word": 66}
    for category, size in sizes.items():
        first = _of(symbols, "tuning", category)[:size]
        assert _of(small, "tuning", category) == first
    assert small.filter(split="evaluation").equals(symbols.filter(split="evaluation"))


def test_a_natural_label_is_no_symbol_whatever_its_case(symbols: pl.DataFrame) -> None:
    labels = ["Positive", "world", "not entailment", "ELEPHANT", "12", "99999"]
    pool = symbol_pool(SymbolsConfig(), labels)
    gone = set(symbols["symbol"]) - set(pool["symbol"])
    assert {symbol.lower() for symbol in gone} == {
        label.lower() for label in labels if label != labels[2]
    }
    assert set(pool["symbol"]) < set(symbols["symbol"])


def test_offensive_words_can_be_left_out(symbols: pl.DataFrame) -> None:
    clean = symbol_pool(SymbolsConfig(leave_out_offensive=True), [])
    gone = set(symbols["symbol"]) - set(clean["symbol"])
    assert {"shit", "bitch", "ASS"} <= gone
    assert 100 < len(gone) < 1_000
    assert {"house", "CAT"} <= set(clean["symbol"])


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
    pool = _toy(integer="12", combination="AB", word="cd")
    drawn = SymbolSampler(pool, "tuning").draw(2_000, 4, np.random.default_rng(0))
    assert drawn.shape == (2_000, 4)
    assert all(len(set(row)) == 4 for row in drawn)
    assert set(drawn.ravel()) == set("12ABcd")


@pytest.mark.parametrize("classes", [257, 2_000, 20_000])
def test_hundreds_of_classes_have_a_symbol_each(classes: int, symbols: pl.DataFrame) -> None:
    """Of 2,000 symbols at random, some two are the same nearly always."""
    drawn = SymbolSampler(symbols, "tuning").draw(3, classes, np.random.default_rng(0))
    assert all(len(set(row)) == classes for row in drawn)
    found = pl.DataFrame({"symbol": drawn[0].tolist()}).join(symbols, on="symbol")
    counts = found["category"].value_counts()["count"]
    assert counts.min() > classes / 3 * 0.8  # type: ignore[operator]


@pytest.mark.parametrize("limited_by_tokens", [False, True])
def test_too_few_symbols_that_differ_are_one_sentence(limited_by_tokens: bool) -> None:
    pool = _toy(integer="123", word="abc" if limited_by_tokens else "")
    tokens = np.array([[7, 7, 7, 8, 8, 8]]) if limited_by_tokens else None
    with pytest.raises(UserError, match=r"^No 4 symbols .* symbols\.tuning_size.*\.$") as error:
        SymbolSampler(pool, "tuning", tokens).draw(3, 4, np.random.default_rng(0))
    assert ("mixture.distinct_first_token" in str(error.value)) == limited_by_tokens


def test_symbols_drawn_together_differ_in_their_first_token_under_every_tokenizer() -> None:
    pool = _toy(integer="1234", word="abcd")
    # Under the first tokenizer integers are one; under the second each pair of neighbours.
    tokens = np.array([[0, 0, 0, 0, 1, 2, 3, 4], [0, 0, 1, 1, 2, 2, 3, 3]])
    drawn = SymbolSampler(pool, "tuning", tokens).draw(500, 3, np.random.default_rng(0))
    number = {symbol: i for i, symbol in enumerate("1234abcd")}
    for row in drawn:
        for found in tokens[:, [number[symbol] for symbol in row]]:
            assert len(set(found)) == 3
    assert set(drawn.ravel()) == set(number)


def test_first_tokens_are_those_that_a_symbol_has_in_a_prompt(
    symbols: pl.DataFrame, tokenizer: Any
) -> None:
    found = first_tokens(symbols, [tokenizer, tokenizer])
    tuning = symbols.filter(split="tuning")["symbol"]
    assert found.shape == (2, len(tuning))
    for row in (0, 12_345, len(tuning) - 1):
        assert found[1, row] == tokenizer.encode(f" {tuning[row]}")[0]


def test_symbols_that_a_tokenizer_merges_are_found(tokenizer: Any) -> None:
    pool = pl.DataFrame(
        {
            "symbol": ["cat", "12", "dog", "CAT", "Cats", "99"],
            "split": ["tuning"] * 2 + ["evaluation"] * 4,
        }
    )
    assert shared_token_sequences(pool, tokenizer) == []
    from tokenizers import Tokenizer, normalizers
    from transformers import PreTrainedTokenizerFast

    folding = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    folding.normalizer = normalizers.Lowercase()
    small = PreTrainedTokenizerFast(tokenizer_object=folding)
    assert shared_token_sequences(pool, small) == ["CAT"]


@pytest.mark.slow
def test_the_pool_is_disjoint_in_the_tokens_of_a_byte_level_tokenizer(
    symbols: pl.DataFrame, tokenizer: Any
) -> None:
    assert shared_token_sequences(symbols, tokenizer) == []
