"""Scores a model on the classification suite: references to trees, log-probabilities to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.asking import ALONE, Asking
from symtune_pipeline.evaluation.predictions import by_context, ranked
from symtune_pipeline.evaluation.scorer import open_scorer, score
from symtune_pipeline.models.opening import open_tokenizer
from symtune_pipeline.models.proof import attention_of
from symtune_pipeline.models.trees import Query, Tree
from symtune_pipeline.prompts.text import classification_prompt
from symtune_pipeline.prompts.tokens import (
    Asked,
    SegmentTokenizer,
    asked_within,
    longest,
    shared_beginning,
)
from symtune_pipeline.sections import EvaluationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAMED = 10  # labels at most, in an error


def classify(
    folder: Path,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    config: EvaluationConfig,
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking = ALONE,
) -> pl.DataFrame:
    """The predictions of the model in a folder; see `predict`."""
    model = open_scorer(folder, config.precision, asking)
    tokenizer = open_tokenizer(folder)
    return predict(model, tokenizer, suite, inputs, progress, config.chat_template, asking)


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
    chat: bool = False,
    asking: Asking = ALONE,
) -> pl.DataFrame:
    """The predictions of a model, as `predictions.ranked` describes them.

    `inputs` are the inputs by example number. In every context one more query is asked, which has no
    content; it branches from what the others share, and so costs little. The model comes from
    `loading.load_model`. `progress` is called with the number of queries done, and `asking` says who
    asks which. With `chat`, prompts stand in the tokenizer's chat template. Raises UserError for a
    prompt that does not fit with one exemplar per class, for labels that are the same tokens or none,
    and where `SegmentTokenizer` or `scorer.score` does.
    """
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    trees, dropped = context_trees(tokenizer, suite, inputs, limit, chat)
    queries = sum(len(tree.queries) for tree in trees)

    def asked(done: int) -> None:
        progress(done * len(suite) // queries)

    answers = score(model, trees, progress=asked, asking=asking)
    return ranked(suite, answers, dropped, attention_of(model))


def context_trees(
    tokenizer: PreTrainedTokenizerBase,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    limit: int | None,
    chat: bool,
) -> tuple[list[Tree], list[int]]:
    """Each context as a model of so many tokens reads it, and how many exemplars it loses for that.

    Raises UserError as `predict`.
    """
    by_segment = SegmentTokenizer(tokenizer, chat)
    contexts, texts = by_context(suite, inputs)
    fitted = [_tree(rows, by_segment, texts, limit) for rows in contexts]
    return [tree for tree, _ in fitted], [left_out for _, left_out in fitted]


def _tree(
    rows: Sequence[dict[str, Any]],
    by_segment: SegmentTokenizer,
    inputs: Sequence[str],
    limit: int | None,
) -> tuple[Tree, int]:
    """The rows of one context, and how many exemplars they lose to stay within `limit` tokens.

    The tree's prefix is the tokens that the rows share; its queries are what each of them adds.
    """
    asked, dropped = asked_within(rows, lambda row: _asked(row, by_segment, inputs), limit)
    if limit is not None and longest(asked) > limit:
        raise UserError(
            f"Context {rows[0]['context']} of dataset '{rows[0]['dataset']}' has a prompt of"
            f" {longest(asked)} tokens with one exemplar per class, and the model takes {limit}; leave the"
            " dataset out."
        )
    shared = shared_beginning([prompt[:-1] for prompt, _ in asked])
    queries = [Query(prompt[shared:], labels) for prompt, labels in asked]
    return Tree(asked[0][0][:shared], queries), dropped


def _asked(row: dict[str, Any], by_segment: SegmentTokenizer, inputs: Sequence[str]) -> Asked:
    """A row's prompt and labels; labels that are no tokens or the same ones are a UserError."""
    asked = classification_prompt(row, inputs, by_segment.frame)
    prompt, labels = by_segment.continuations(asked, row["labels"])
    if not prompt or not all(labels) or len(set(map(tuple, labels))) < len(labels):
        more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
        raise UserError(
            f"The labels {', '.join(map(repr, row['labels'][:NAMED]))}{more} of dataset"
            f" '{row['dataset']}' are the same tokens or none for this model; rename them or leave the"
            " dataset out."
        )
    return prompt, labels
