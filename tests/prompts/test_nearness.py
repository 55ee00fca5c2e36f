"""Symbols of a prompt that are near to or far from each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from symtune_pipeline.prompts.nearness import Nearness
from symtune_pipeline.prompts.symbols import SymbolSampler

CLASSES = 4


@pytest.fixture(scope="module")
def vectors(symbols: pl.DataFrame) -> list[NDArray[np.float32]]:
    """Of two models: vectors of each tuning symbol around a middle that is far from 0."""
    size = len(symbols.filter(split="tuning"))
    rng = np.random.default_rng(0)
    return [
        rng.normal(loc, 1, (size, width)).astype(np.float32) for loc, width in ((5, 6), (-9, 11))
    ]


def likeness(
    drawn: NDArray[np.object_], pool: pl.DataFrame, by_model: list[NDArray[np.float32]]
) -> float:
    """The mean cosine of all pairs of a row, after each model's mean is taken away."""
    number = {symbol: i for i, symbol in enumerate(pool.filter(split="tuning")["symbol"])}
    found = []
    for vectors in by_model:
        centred = vectors - vectors.mean(axis=0)
        for row in drawn:
            for left, right in combinations([centred[number[symbol]] for symbol in row], 2):
                found.append(left @ right / np.linalg.norm(left) / np.linalg.norm(right))
    return float(np.mean(found))


def draw(
    pool: pl.DataFrame, nearness: Nearness | None, prompts: int = 1_200
) -> NDArray[np.object_]:
    sampler = SymbolSampler(pool, "tuning", nearness=nearness)
    return sampler.draw(prompts, CLASSES, np.random.default_rng(3))


def test_symbols_of_a_prompt_are_nearer_or_farther_than_by_chance(
    symbols: pl.DataFrame, vectors: list[NDArray[np.float32]]
) -> None:
    found = {
        way: draw(symbols, None if way is None else Nearness.of_models(vectors, way))
        for way in (True, False, None)
    }
    near, far, by_chance = (likeness(drawn, symbols, vectors) for drawn in found.values())
    assert near > 0.3 and far < -0.1 and abs(by_chance) < 0.01
    for drawn in found.values():
        assert all(len(set(row)) == CLASSES for row in drawn)
    again = draw(symbols, Nearness.of_models(vectors, near=True))
    assert again.tolist() == found[True].tolist()


def test_the_first_symbol_of_a_prompt_is_one_of_all(
    symbols: pl.DataFrame, vectors: list[NDArray[np.float32]]
) -> None:
    """Each kind is as often the first as without."""
    first = draw(symbols, Nearness.of_models(vectors, near=True), 6_000)[:, 0]
    kinds = pl.DataFrame({"symbol": first}).join(symbols, on="symbol")["category"].value_counts()
    assert kinds["count"].min() > 1_800 and len(kinds) == 3


@pytest.mark.parametrize("near", [True, False])
def test_the_choice_is_the_most_or_least_alike_that_is_not_taken(near: bool) -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0], [-0.9, -0.2]], np.float32)
    nearness = Nearness(vectors, near)
    drawn, candidates = np.array([[0], [0]]), np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
    taken = np.zeros((2, 4), np.bool_)
    taken[1, [0, 2]] = True
    assert nearness.choose(drawn, candidates, taken).tolist() == ([1, 2] if near else [3, 4])


def test_a_pool_that_is_hardly_larger_than_the_prompt_still_gives_symbols_that_differ() -> None:
    pool = pl.DataFrame({"symbol": list("abcdefgh"), "category": "word", "split": "tuning"})
    vectors = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    for way in (True, False):
        nearness = Nearness.of_models([vectors], way)
        drawn = SymbolSampler(pool, "tuning", nearness=nearness).draw(
            300, 8, np.random.default_rng(0)
        )
        assert all(set(row) == set("abcdefgh") for row in drawn)


def test_a_symbol_that_is_the_mean_of_all_is_as_near_as_far() -> None:
    vectors = np.array([[1, 1], [-1, -1], [0, 0]], np.float32)
    assert Nearness.of_models([vectors], near=True).vectors[2].tolist() == [0, 0]
