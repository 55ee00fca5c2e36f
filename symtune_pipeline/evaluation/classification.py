"""Scores a model on the classification suite: references to trees, log-probabilities to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.asking import ALONE, Asking
from symtune_pipeline.evaluation.channel import asked_by_channel, by_row, channel_tree
from symtune_pipeline.evaluation.predictions import by_context, ranked
from symtune_pipeline.evaluation.scorer import open_scorer, score
from symtune_pipeline.models.opening import context_of, open_tokenizer
from symtune_pipeline.models.proof import attention_of
from symtune_pipeline.models.trees import Query, Tree
from symtune_pipeline.prompts.text import classification_prompt
from symtune_pipeline.prompts.tokens import (
    Asked,
    SegmentTokenizer,
    asked_within,
    longest,
    one_begins_another,
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
    chat, channel = config.chat_template, config.channel
    return predict(model, tokenizer, suite, inputs, progress, chat, asking, channel)


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
    chat: bool = False,
    asking: Asking = ALONE,
    channel: bool = False,
) -> pl.DataFrame:
    """The predictions of a model, as `predictions.ranked` describes them.

    `inputs` are the inputs by example number. In every context one more query is asked, which has no
    content; it branches from what the others share, and so costs little. The model comes from
    `loading.load_model`. `progress` is called with the number of queries done, and `asking` says who
    asks which. With `chat`, prompts stand in the tokenizer's chat template; with `channel`, inputs are
    also scored after labels. Raises UserError for a prompt that does not fit with one exemplar per
    class, for labels that cannot be told apart by tokens, and where `SegmentTokenizer`,
    `asked_by_channel` or `scorer.score` does.
    """
    limit = context_of(model.config)
    contexts, texts = by_context(suite, inputs)
    by_segment = SegmentTokenizer(tokenizer, chat)
    trees, dropped = trees_of(contexts, by_segment, texts, limit, channel)
    queries = sum(len(tree.queries) for tree in trees)

    def asked(done: int) -> None:
        progress(done * len(suite) // queries)

    answers = score(model, trees, progress=asked, asking=asking)
    return predictions_of(suite, contexts, answers, dropped, attention_of(model), channel)


def trees_of(
    contexts: Sequence[Sequence[dict[str, Any]]],
    by_segment: SegmentTokenizer,
    inputs: Sequence[str],
    limit: int | None,
    channel: bool,
) -> tuple[list[Tree], list[int]]:
    """The trees of all contexts, and how many exemplars each lost to stay within `limit` tokens.

    With `channel` a context has two trees, one after the other: `predictions_of` takes their answers.
    """
    fitted = [_trees(rows, by_segment, inputs, limit, channel) for rows in contexts]
    return [tree for trees, _ in fitted for tree in trees], [left_out for _, left_out in fitted]


def predictions_of(
    suite: pl.DataFrame,
    contexts: Sequence[Sequence[dict[str, Any]]],
    answers: Sequence[Sequence[Sequence[float]]],
    dropped: Sequence[int],
    path: str,
    channel: bool,
) -> pl.DataFrame:
    """The predictions from the answers to the trees of `trees_of`."""
    if not channel:
        return ranked(suite, answers, dropped, path)
    after_labels = [
        by_row(of_tree, len(rows) - 1)
        for of_tree, rows in zip(answers[1::2], contexts, strict=True)
    ]
    return ranked(suite, answers[::2], dropped, path, after_labels)


def _trees(
    rows: Sequence[dict[str, Any]],
    by_segment: SegmentTokenizer,
    inputs: Sequence[str],
    limit: int | None,
    channel: bool,
) -> tuple[list[Tree], int]:
    """The rows of one context, and how many exemplars they lose to stay within `limit` tokens.

    A tree's prefix is the tokens that the rows share; its queries are what each of them adds. With
    `channel` a second tree follows, which shows the same exemplars.
    """

    def ask(rows: list[dict[str, Any]]) -> list[Asked]:
        direct = [_asked(row, by_segment, inputs) for row in rows]
        # The last row has no content, whose probability says nothing.
        return direct + (asked_by_channel(rows[:-1], by_segment, inputs) if channel else [])

    asked, dropped = asked_within(rows, ask, limit)
    if limit is not None and longest(asked) > limit:
        raise UserError(
            f"Context {rows[0]['context']} of dataset '{rows[0]['dataset']}' has a prompt of"
            f" {longest(asked)} tokens with one exemplar per class, and the model takes {limit}; leave the"
            " dataset out."
        )
    direct, after_labels = asked[: len(rows)], asked[len(rows) :]
    shared = shared_beginning([prompt[:-1] for prompt, _ in direct])
    queries = [Query(prompt[shared:], labels) for prompt, labels in direct]
    tree = Tree(direct[0][0][:shared], queries)
    return [tree, channel_tree(after_labels)] if channel else [tree], dropped


def _asked(row: dict[str, Any], by_segment: SegmentTokenizer, inputs: Sequence[str]) -> Asked:
    """A row's prompt and labels; labels that cannot be told apart by tokens are a UserError."""
    asked = classification_prompt(row, inputs, by_segment.frame)
    prompt, labels = by_segment.continuations(asked, row["labels"])
    if not prompt or not all(labels) or one_begins_another(labels):
        more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
        raise UserError(
            f"The labels {', '.join(map(repr, row['labels'][:NAMED]))}{more} of dataset"
            f" '{row['dataset']}' are the same tokens, no tokens, or the first tokens of another label for"
            " this model; rename them or leave the dataset out."
        )
    return prompt, labels
