"""Scores a model on the classification suite: references to trees, log-probabilities to choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import polars as pl

from symtune_pipeline.evaluation.scorer import Query, Tree, score
from symtune_pipeline.packing import PieceTokenizer, Tokenizer
from symtune_pipeline.prompts import label_text, segments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXT = ("benchmark", "setting", "flipped_percent", "dataset", "context")


def predict(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    instructions: dict[str, str],
    progress: Callable[[int], None] = lambda _: None,
) -> pl.DataFrame:
    """One row per row of the suite, in its order: the suite's keys and

        target, choice    expected and chosen class
        correct           whether they are equal
        logprobs          log-probability of each label, in nats
        chance            1 / number of classes

    `inputs` are the inputs by example number, `instructions` by dataset.
    """
    pieces = PieceTokenizer(tokenizer)
    contexts = [list(rows) for _, rows in groupby(suite.iter_rows(named=True), key=lambda r: [r[c] for c in CONTEXT])]
    trees = [tree(rows, pieces, inputs, instructions) for rows in contexts]
    logprobs = [scores for found in score(model, trees, progress=progress) for scores in found]
    return suite.select(
        *CONTEXT, "query", "labels", pl.col("answer").alias("target"),
    ).with_columns(  # fmt: skip
        choice=pl.Series([row.index(max(row)) for row in logprobs], dtype=pl.UInt8),
        logprobs=pl.Series(logprobs, dtype=pl.List(pl.Float64)),
        chance=1.0 / pl.col("labels").list.len(),
    ).with_columns(correct=pl.col("choice") == pl.col("target"))


def tree(
    rows: Sequence[dict[str, object]], pieces: PieceTokenizer, inputs: Sequence[str], instructions: dict[str, str]
) -> Tree:
    """The rows of one context as a tree; composing is used only where it equals the whole string."""
    first = rows[0]
    labels: list[str] = first["labels"]  # type: ignore[assignment]
    shown = [labels[a] for a in first["exemplar_answers"]]  # type: ignore[attr-defined]
    exemplars = [inputs[e] for e in first["exemplars"]]  # type: ignore[attr-defined]
    instruction = instructions[str(first["dataset"])] if first["instruction"] else None
    prefix: list[int] = []
    queries = []
    for row in rows:
        prompt = segments(first["format"], [*exemplars, inputs[row["query"]]], shown, instruction)  # type: ignore[arg-type,index]
        ids = pieces.pieces(prompt)
        # The query's own pieces come last: [separator and input prefix], input, label prefix.
        own = 2
        prefix = [i for piece in ids[:-own] for i in piece]
        queries.append(
            Query([i for piece in ids[-own:] for i in piece], [pieces.piece(label_text(x)) for x in labels])
        )
    return Tree(prefix, queries)
