"""Channel choices: which label makes a query's text the most probable, rather than the other way round.

Every exemplar stands with its label before its input, then a label, and what is summed are the
log-probabilities of the query's tokens after it. A context is one tree: its exemplars, the labels that
branch from them, and the inputs of all queries after each label. This module knows nothing about models.

Source: Min et al., "Noisy channel language model prompting for few-shot text classification" (2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.trees import Query, Tokens, Tree
from symtune_pipeline.prompts.text import channel_prompt
from symtune_pipeline.prompts.tokens import Asked, SegmentTokenizer, shared_beginning

TOGETHER = 1_024  # tokens of the inputs after one label, at most; all of them reach the LM head


def asked_by_channel(
    rows: Sequence[dict[str, Any]], by_segment: SegmentTokenizer, inputs: Sequence[str]
) -> list[Asked]:
    """Of the rows of one context, label by label, each row's prompt and the tokens of its input.

    Raises UserError for an input without tokens, which no label makes more probable than another.
    """
    queries = [inputs[row["query"]] for row in rows]
    asked = []
    for label in rows[0]["labels"]:
        prompt = channel_prompt(rows[0], inputs, label, by_segment.frame)
        asked += by_segment.continuation_of_each(prompt, queries)
    for number, (prompt_tokens, (text,)) in enumerate(asked):
        if not prompt_tokens or not text:
            query = rows[number % len(rows)]["query"]
            raise UserError(
                f"The input of example {query} of dataset '{rows[0]['dataset']}' is no token for this model,"
                " so that it has no probability after a label; set evaluation.channel to false or leave"
                " the dataset out."
            )
    return asked


def channel_tree(asked: Sequence[Asked]) -> Tree:
    """The tree of what `asked_by_channel` found: its queries are labels, and its labels are inputs."""
    shared = shared_beginning([prompt[:-1] for prompt, _ in asked])
    queries = []
    for prompt, alike in groupby(asked, key=itemgetter(0)):
        texts = [text for _, (text,) in alike]
        queries += [Query(prompt[shared:], some) for some in _parts(texts)]
    return Tree(asked[0][0][:shared], queries)


def by_row(scores: Sequence[Sequence[float]], rows: int) -> list[list[float]]:
    """What a channel tree scored, by row and label."""
    by_label = [score for of_query in scores for score in of_query]
    return [by_label[row::rows] for row in range(rows)]


def _parts(texts: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """Neighbouring texts, up to `TOGETHER` tokens in one part, or one text above that."""
    part: list[Tokens] = []
    for text in texts:
        if part and sum(map(len, part)) + len(text) > TOGETHER:
            yield part
            part = []
        part.append(text)
    yield part
