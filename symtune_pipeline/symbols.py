"""The pool of arbitrary symbols that stand in for labels, and how they are drawn.

The categories, ranges and the tuning/evaluation split are those of the paper's public symbol
generator (Wei et al. 2023). This module knows nothing about prompts.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

CATEGORIES = ("integer", "combination", "word")
TUNING_PER_CATEGORY = 10_000
ALL_PER_CATEGORY = 100_000


def symbol_pool() -> pl.DataFrame:
    """Every symbol once: columns symbol, category, split ('tuning' or 'evaluation').

    Tuning: integers 0-9,999, letter combinations A-NTP, the 10,000 most frequent English words.
    Evaluation: integers 10,000-99,999, combinations NTQ-EQXD, and the other words among the
    100,000 most frequent. An evaluation symbol that differs from a tuning symbol in case only is
    left out ('CATS' and 'cats' are one to a case-insensitive reader), so that the splits are
    disjoint under case folding too.
    """
    from wordfreq import top_n_list

    # The list also holds numbers, abbreviations with points and words with accents.
    words = [
        w for w in top_n_list("en", 2 * ALL_PER_CATEGORY, "large") if w.isascii() and w.isalpha()
    ]
    by_category = {
        "integer": [str(i) for i in range(ALL_PER_CATEGORY)],
        "combination": [letters(i) for i in range(1, ALL_PER_CATEGORY + 1)],
        "word": words[:ALL_PER_CATEGORY],
    }
    frames = [
        pl.DataFrame(
            {
                "symbol": symbols,
                "category": category,
                "split": ["tuning"] * TUNING_PER_CATEGORY
                + ["evaluation"] * (ALL_PER_CATEGORY - TUNING_PER_CATEGORY),
            }
        )
        for category, symbols in by_category.items()
    ]
    pool = pl.concat(frames)
    folded = pl.col("symbol").str.to_lowercase()
    tuning = pool.filter(split="tuning").select(folded).to_series()
    return pool.filter((pl.col("split") == "tuning") | ~folded.is_in(tuning.implode()))


def letters(number: int) -> str:
    """Bijective base 26 with the digits A-Z: 1 is 'A', 26 'Z', 27 'AA', 10,000 'NTP'."""
    text = ""
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("A") + digit) + text
    return text


class SymbolSampler:
    """Draws symbols of one split: the category first (a third each), then uniformly inside it."""

    def __init__(self, pool: pl.DataFrame, split: str) -> None:
        """`pool` as `symbol_pool` returns it; `split` is 'tuning' or 'evaluation'."""
        chosen = pool.filter(split=split)
        self.symbols = chosen["symbol"].to_numpy()
        rows = np.arange(len(chosen))
        categories = chosen["category"].to_numpy()
        self._rows = [rows[categories == category] for category in CATEGORIES]

    def draw(self, prompts: int, classes: int, rng: np.random.Generator) -> NDArray[np.object_]:
        """Symbols of shape [prompts, classes]; a row never holds the same symbol twice."""
        drawn = self._draw_rows((prompts, classes), rng)
        while (clash := _has_repeat(drawn)).any():
            drawn[clash] = self._draw_rows((int(clash.sum()), classes), rng)
        return self.symbols[drawn]

    def _draw_rows(self, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int64]:
        category = rng.integers(len(CATEGORIES), size=shape)
        place = rng.random(shape)
        drawn = np.empty(shape, dtype=np.int64)
        for i, rows in enumerate(self._rows):
            mine = category == i
            drawn[mine] = rows[(place[mine] * len(rows)).astype(np.int64)]
        return drawn


def _has_repeat(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    ordered = np.sort(rows, axis=1)
    repeats: NDArray[np.bool_] = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    return repeats
