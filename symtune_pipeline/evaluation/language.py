"""The loss of a model on plain texts: what tuning has cost of the language that it knew.

A text begins as the model's tokenizer begins one, and each of its tokens is predicted from those before
it. What stands before the text is not predicted, so the first token counts only where there is any.
This module knows nothing about prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from symtune_pipeline.evaluation.asking import ALONE, Asking
from symtune_pipeline.evaluation.scorer import open_scorer, score
from symtune_pipeline.models.opening import context_of, open_tokenizer
from symtune_pipeline.models.proof import attention_of
from symtune_pipeline.models.trees import Query, Tree
from symtune_pipeline.prompts.encoding import TextEncoder
from symtune_pipeline.sections import EvaluationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 1_024  # tokens of a text that are read
AT_A_TIME = 2_048  # tokens of a pass: every one reaches the LM head, whose output is large


def measure(
    folder: Path,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    config: EvaluationConfig,
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking = ALONE,
) -> pl.DataFrame:
    """The losses of the model in a folder; see `language_loss`."""
    model = open_scorer(folder, config.precision, asking)
    return language_loss(model, open_tokenizer(folder), suite, inputs, progress, asking)


def language_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking = ALONE,
) -> pl.DataFrame:
    """Of every text, how many of its tokens were predicted and their summed loss in nats.

    A row per row of `suite`, in its order, with the columns dataset, example, tokens, nats and path.
    `inputs` are the texts by example number, plain also for a model with a chat template; of a text
    above `LONGEST` tokens or the model's context its beginning is read. The model comes from
    `loading.load_model`; `asking` says who asks which. Raises UserError where `TextEncoder` or
    `scorer.score` does.
    """
    context = context_of(model.config)
    texts, first = texts_of(suite, inputs, TextEncoder(tokenizer), context)
    read = [text for text in texts if len(text) > first]
    trees = [Tree([], [Query(text[:first], [text[first:]])]) for text in read]
    scores = [queries[0][0] for queries in score(model, trees, AT_A_TIME, progress, asking)]
    return losses_of(suite, texts, first, scores, attention_of(model))


def texts_of(
    suite: pl.DataFrame, inputs: Sequence[str], encoder: TextEncoder, context: int | None
) -> tuple[list[list[int]], int]:
    """The tokens of each text as far as they are read, and the place of the first that is predicted.

    `context` are the tokens that the model takes.
    """
    longest = min(LONGEST, context or LONGEST)
    own = encoder.ids([inputs[example] for example in suite["example"]])
    return [(encoder.before + ids)[:longest] for ids in own], max(1, len(encoder.before))


def losses_of(
    suite: pl.DataFrame,
    texts: Sequence[Sequence[int]],
    first: int,
    scores: Sequence[float],
    path: str,
) -> pl.DataFrame:
    """The table of losses, from the log-probability of each text that has a token to predict."""
    found = iter(scores)
    return suite.select("dataset", "example").with_columns(
        tokens=pl.Series([max(0, len(text) - first) for text in texts], dtype=pl.UInt32),
        nats=pl.Series(
            [-next(found) if len(text) > first else 0.0 for text in texts], dtype=pl.Float64
        ),
        path=pl.lit(path),
    )
