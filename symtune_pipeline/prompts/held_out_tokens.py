"""Held-out prompts as tokens of a model: what the queries of a prompt share, and what each adds.

This module knows nothing about how they were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.prompts.text import classification_prompt
from symtune_pipeline.prompts.tokens import (
    Asked,
    SegmentTokenizer,
    asked_within,
    longest,
    one_begins_another,
    shared_beginning,
)
from symtune_pipeline.tables import PACKED_HELD_OUT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def packed_held_out(
    rows: pl.DataFrame,
    inputs: pl.Series,
    tokenizer: PreTrainedTokenizerBase,
    most_tokens: int,
    chat: bool = False,
) -> pl.DataFrame:
    """Rows of `tables.HELD_OUT_PROMPTS` as one of `tables.PACKED_HELD_OUT` for each prompt.

    `inputs` are by example number. As in a block, a prompt above `most_tokens` with one of its queries
    loses exemplars, evenly by class. One that is too long even so, or two symbols of which are the
    same tokens or none, is left out: it could not be measured on.
    """
    by_segment = SegmentTokenizer(tokenizer, chat)
    grouped = groupby(rows.iter_rows(named=True), key=lambda row: row["prompt"])
    packed = [_packed(list(of_prompt), by_segment, inputs, most_tokens) for _, of_prompt in grouped]
    return PACKED_HELD_OUT.frame([prompt for prompt in packed if prompt])


def _packed(
    rows: Sequence[dict[str, Any]], by_segment: SegmentTokenizer, inputs: pl.Series, most: int
) -> dict[str, object] | None:

    def ask(rows: list[dict[str, Any]]) -> list[Asked]:
        plain = ({**row, "instruction": None} for row in rows)
        return [
            by_segment.continuations(
                classification_prompt(row, inputs, by_segment.frame), row["labels"]
            )
            for row in plain
        ]

    asked, _ = asked_within(rows, ask, most)
    if longest(asked) > most or not all(
        tokens and _told_apart(symbols) for tokens, symbols in asked
    ):
        return None
    shared = shared_beginning([prompt[:-1] for prompt, _ in asked])
    return {
        "prompt": rows[0]["prompt"],
        "dataset": rows[0]["dataset"],
        "tokens": asked[0][0][:shared],
        "query_tokens": [prompt[shared:] for prompt, _ in asked],
        "symbol_tokens": [symbols for _, symbols in asked],
        "targets": [row["target"] for row in rows],
    }


def _told_apart(symbols: Sequence[list[int]]) -> bool:
    return all(symbols) and not one_begins_another(symbols)
