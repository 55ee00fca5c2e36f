"""The pool of arbitrary symbols that stand in for labels, and how they are drawn.

The categories, ranges and the tuning/evaluation split are those of the paper's public symbol
generator (Wei et al. 2023). This module knows nothing about prompts but how a label stands in one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.nearness import Nearness
from symtune_pipeline.prompts.tokens import label_tokens
from symtune_pipeline.sections import SymbolsConfig
from symtune_pipeline.tables import CATEGORIES, TUNING_PER_CATEGORY, Category

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALL_PER_CATEGORY = 100_000
TRIES = 1_000  # rounds of drawing prompts again whose symbols clash
HARDLY_EVER = 20  # a chance of e^-20
CANDIDATES = 64  # of which the nearest or the farthest symbol is taken


def symbol_pool(config: SymbolsConfig, natural_labels: Collection[str]) -> pl.DataFrame:
    """Every symbol once: columns symbol, category, split ('tuning' or 'evaluation').

    Tuning: integers 0-9,999, letter combinations A-NTP, the 10,000 most frequent English words, or
    the part of them that `config` asks for. Evaluation, whatever is asked for tuning: integers
    10,000-99,999, combinations NTQ-EQXD, and the other words among the 100,000 most frequent. An
    evaluation symbol that differs from one of the 30,000 in case only is left out ('CATS' and
    'cats' are one to a case-insensitive reader), so that the splits are disjoint under case folding
    too. No symbol equals one of `natural_labels` in whatever case: 'positive' must never stand for
    the class negative.
    """
    candidates = _candidates()
    folded = pl.col("symbol").str.to_lowercase()
    first = candidates.filter(pl.col("rank") < TUNING_PER_CATEGORY)
    rest = candidates.filter(
        pl.col("rank") >= TUNING_PER_CATEGORY,
        ~folded.is_in(first.select(folded).to_series().implode()),
    )
    left_out = {label.lower() for label in natural_labels}
    if config.leave_out_offensive:
        left_out |= _offensive_words()
    allowed = ~folded.is_in(sorted(left_out))
    size = config.tuning_size or TUNING_PER_CATEGORY * len(config.categories)
    each, more = divmod(size, len(config.categories))
    tuning = [
        first.filter(allowed, category=category).head(each + (i < more))
        for i, category in enumerate(config.categories)
    ]
    return pl.concat(
        [
            pl.concat(tuning).with_columns(split=pl.lit("tuning")),
            rest.filter(allowed).with_columns(split=pl.lit("evaluation")),
        ]
    ).drop("rank")


def letters(number: int) -> str:
    """Bijective base 26 with the digits A-Z: 1 is 'A', 26 'Z', 27 'AA', 10,000 'NTP'."""
    text = ""
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("A") + digit) + text
    return text


def shared_token_sequences(
    pool: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, chat: bool = False
) -> list[str]:
    """Evaluation symbols that are, as token ids after a prompt, the same as a tuning symbol.

    A tokenizer that changes case or does not know a letter could bring that about; to such a model
    the symbol would not be new.
    """
    tuning, evaluation = (
        pool.filter(split=split)["symbol"].to_list() for split in ("tuning", "evaluation")
    )
    ids = [tuple(found) for found in label_tokens([*tuning, *evaluation], tokenizer, chat)]
    known = set(ids[: len(tuning)])
    with_ids = zip(evaluation, ids[len(tuning) :], strict=True)
    return [symbol for symbol, found in with_ids if found in known]


def symbol_tokens(
    pool: pl.DataFrame, tokenizers: Sequence[PreTrainedTokenizerBase], answer: bool = False
) -> list[list[list[int]]]:
    """The token ids of each tuning symbol in a prompt, by tokenizer; with `answer`, as that of a chat."""
    tuning = pool.filter(split="tuning")["symbol"].to_list()
    return [label_tokens(tuning, tokenizer, answer) for tokenizer in tokenizers]


def first_tokens(
    pool: pl.DataFrame, tokenizers: Sequence[PreTrainedTokenizerBase], chat: bool = False
) -> NDArray[np.int64]:
    """The first token id of each tuning symbol in a prompt: shape [tokenizers, symbols].

    It is -1 for a symbol that has no token. With `chat` further rows follow, in the same order: symbols
    of exemplars stand in the message, and those of the further rows are its answer.
    """
    tokens = symbol_tokens(pool, tokenizers)
    if chat:
        tokens += symbol_tokens(pool, tokenizers, answer=True)
    return np.array([[ids[0] if ids else -1 for ids in of_symbols] for of_symbols in tokens])


def in_both_splits(pool: pl.DataFrame) -> list[str]:
    """The symbols, in lower case, that are for tuning and for evaluation; there should be none."""
    splits = pool.group_by(pl.col("symbol").str.to_lowercase()).agg(pl.col("split").n_unique())
    return splits.filter(pl.col("split") > 1)["symbol"].sort().to_list()


class SymbolSampler:
    """Draws symbols of one split: the category first, each equally often, then uniformly inside it."""

    def __init__(
        self,
        pool: pl.DataFrame,
        split: str,
        first_tokens: NDArray[np.int64] | None = None,
        nearness: Nearness | None = None,
    ) -> None:
        """`pool` is of `tables.SYMBOL_POOL`; `split` is 'tuning' or 'evaluation'.

        With `first_tokens` [tokenizers, symbols of the split], symbols that are drawn together
        differ in their first token too. With `nearness`, which has a vector for each symbol of the split,
        the second and later symbols of a row are chosen by it among `CANDIDATES` drawn at random.
        """
        of_split = pool.filter(split=split)
        self.symbols = of_split["symbol"].to_numpy()
        rows = np.arange(len(of_split))
        categories = of_split["category"].to_numpy()
        by_category = [rows[categories == category] for category in CATEGORIES]
        self._rows = [rows for rows in by_category if len(rows)]
        self._distinct = [rows, *([] if first_tokens is None else first_tokens)]
        self._nearness = nearness
        # The chance that two symbols are the same, in what must differ most often.
        counts = [np.unique(values, return_counts=True)[1] for values in self._distinct]
        self._same = max(float(((count / len(rows)) ** 2).sum()) for count in counts)

    def draw(self, prompts: int, classes: int, rng: np.random.Generator) -> NDArray[np.object_]:
        """Symbols of shape [prompts, classes]; a row never holds the same symbol twice.

        A row in which two are the same is drawn again. Where so many classes hardly ever differ, only
        the later of two that are the same is.
        Raises UserError where the pool does not have enough symbols that differ.
        """
        drawn = self._draw_together(prompts, classes, rng)
        clash = np.arange(prompts)
        # Where two symbols are the same with a chance of p, c of them differ with about exp(-c²p / 2).
        one_by_one = classes**2 * self._same > 2 * HARDLY_EVER
        for _ in range(TRIES):
            again = self._repeats(drawn[clash])
            clash, again = clash[again.any(axis=1)], again[again.any(axis=1)]
            if not len(clash):
                return self.symbols[drawn]
            if one_by_one:
                rows = drawn[clash]
                rows[again] = self._draw_rows((int(again.sum()),), rng)
                drawn[clash] = rows
            else:
                drawn[clash] = self._draw_together(len(clash), classes, rng)
        differing = "" if len(self._distinct) == 1 else " that differ in their first token"
        way_out = " or switch mixture.distinct_first_token off" if differing else ""
        raise UserError(
            f"No {classes} symbols{differing} were found for a prompt in {TRIES:,} tries; name more"
            f" symbols.categories, raise symbols.tuning_size{way_out}."
        )

    def _draw_together(
        self, prompts: int, classes: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Symbols of shape [prompts, classes] that are as near or far as asked; some may be the same."""
        if self._nearness is None:
            return self._draw_rows((prompts, classes), rng)
        drawn = self._draw_rows((prompts, 1), rng)
        for _ in range(1, classes):
            candidates = self._draw_rows((prompts, CANDIDATES), rng)
            taken = np.zeros(candidates.shape, dtype=np.bool_)
            for values, column in product(self._distinct, drawn.T):
                taken |= values[candidates] == values[column][:, None]
            chosen = self._nearness.choose(drawn, candidates, taken)
            drawn = np.concatenate([drawn, chosen[:, None]], axis=1)
        return drawn

    def _draw_rows(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        category = rng.integers(len(self._rows), size=shape)
        share = rng.random(shape)
        drawn = np.empty(shape, dtype=np.int64)
        for i, rows in enumerate(self._rows):
            mine = category == i
            drawn[mine] = rows[(share[mine] * len(rows)).astype(np.int64)]
        return drawn

    def _repeats(self, drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which symbols of a row are the same as one before them, in what must differ."""
        repeats = np.zeros(drawn.shape, dtype=np.bool_)
        for values in self._distinct:
            of_drawn = values[drawn]
            order = of_drawn.argsort(axis=1, kind="stable")
            ordered = np.take_along_axis(of_drawn, order, axis=1)
            row, column = np.nonzero(ordered[:, 1:] == ordered[:, :-1])
            repeats[row, order[row, column + 1]] = True
        return repeats


def _candidates() -> pl.DataFrame:
    """The 100,000 symbols of each category in order: columns symbol, category, rank from 0."""
    from wordfreq import top_n_list

    # The list also holds numbers, abbreviations with points and words with accents.
    words = [
        w for w in top_n_list("en", 2 * ALL_PER_CATEGORY, "large") if w.isascii() and w.isalpha()
    ]
    by_category: dict[Category, list[str]] = {
        "integer": [str(i) for i in range(ALL_PER_CATEGORY)],
        "combination": [letters(i) for i in range(1, ALL_PER_CATEGORY + 1)],
        "word": words[:ALL_PER_CATEGORY],
    }
    return pl.concat(
        pl.DataFrame({"symbol": symbols, "category": category}).with_row_index("rank")
        for category, symbols in by_category.items()
    )


def _offensive_words() -> set[str]:
    from glin_profanity.data.dictionary import dictionary

    return {word.lower() for word in dictionary.get_words("english")}
