"""Answers of adapters that are tuned on a context's exemplars, beside those of a prompt that shows them.

Every context is asked in four ways (`ways`), without and with LoRA adapters that are tuned on its
exemplars. Each exemplar is a prompt of its own, without others before it, and its label is the target.
The adapters of a context are drawn by its number, so that no answer depends on the contexts before it.

After Dai et al., "Why can GPT learn in-context? Language models secretly perform gradient descent as
meta-optimizers" (2023), who compare what examples change in a prompt with what they change by tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from torch.nn.functional import cross_entropy

from symtune_pipeline.errors import UserError, is_out_of_memory
from symtune_pipeline.evaluation.asking import ALONE, Asking
from symtune_pipeline.evaluation.classification import trees_of
from symtune_pipeline.evaluation.predictions import by_context, ranked
from symtune_pipeline.evaluation.scorer import open_scorer, score
from symtune_pipeline.evaluation.ways import WAYS, in_all_ways
from symtune_pipeline.models.adapters import add_adapters, check_adapters, renew_adapters
from symtune_pipeline.models.opening import context_of, open_tokenizer
from symtune_pipeline.models.proof import attention_of
from symtune_pipeline.models.strings import target_logits
from symtune_pipeline.models.trees import Tree
from symtune_pipeline.prompts.tokens import SegmentTokenizer
from symtune_pipeline.sections import EvaluationConfig, Finetuned, Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Answers = list[list[float]]  # log-probabilities in nats, by query and label
Rows = list[dict[str, Any]]

ADAPTERS = Lora(rank=16, alpha=32, dropout=0.0)  # in full: the defaults are not in the code version
WITHOUT = "set evaluation.finetuned.steps to 0"
UNSEEN: dict[str, Any] = {"exemplars": [], "exemplar_targets": []}


def answer_in_all_ways(
    folder: Path,
    suite: pl.DataFrame,
    inputs: Sequence[str],
    config: EvaluationConfig,
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking = ALONE,
) -> pl.DataFrame:
    """Predictions of the model in a folder for the rows of `ways.in_all_ways`.

    They are as `predictions.ranked` has them. `inputs` are the inputs by example number. `progress` is told
    how many rows of `suite` are answered, and `asking` says who asks which contexts. Raises UserError for a
    model that several ranks hold together or that takes no adapters, where tuning them runs out of memory,
    and where `trees_of` and `score` do.
    """
    if asking.team:
        raise UserError(
            "Adapters are tuned on exemplars in a model that one rank holds; set"
            " evaluation.ranks_per_model to 1, or evaluation.finetuned.steps to 0."
        )
    model = open_scorer(folder, config.precision, asking)
    path = attention_of(model)
    rows = in_all_ways(suite)
    contexts, texts = by_context(rows, inputs)
    by_segment = SegmentTokenizer(open_tokenizer(folder), config.chat_template)
    limit = context_of(model.config)

    def trees(contexts: Sequence[Rows]) -> tuple[list[Tree], list[int]]:
        return trees_of(contexts, by_segment, texts, limit, channel=False)

    of_ways = contexts[:: len(WAYS)]
    shown, dropped = trees(of_ways)
    unshown, _ = trees([[row | UNSEEN for row in context] for context in of_ways])
    lessons = [_Lesson.of(trees(_exemplars(context))[0], context[0]) for context in of_ways]
    tuner = _Tuner(model, config.finetuned)

    def answer(number: int) -> list[Answers]:
        return tuner.answers(number, [unshown[number], shown[number]], lessons[number])

    def answered(done: int) -> None:
        progress(done * len(suite) // len(rows))

    answers = asking.all(
        range(len(of_ways)),
        answer,
        lambda number: len(WAYS) * (len(of_ways[number]) - 1),
        answered,
        path,
    )
    lost = [count for each in dropped for count in (0, each, 0, each)]
    return ranked(rows, [way for context in answers for way in context], lost, path)


def _exemplars(context: Rows) -> list[Rows]:
    """Each exemplar of a context as a query of its own, which is shown no other."""
    return [[context[0] | UNSEEN | {"query": example}] for example in context[0]["exemplars"]]


@dataclass(frozen=True)
class _Lesson:
    """Exemplars as strings one after another, each with its label at its end."""

    tokens: torch.Tensor
    lengths: list[int]
    targets: torch.Tensor  # the positions of the labels' tokens

    @classmethod
    def of(cls, trees: Sequence[Tree], row: dict[str, Any]) -> _Lesson:
        """From each exemplar as a query, and the labels that they are shown with."""
        tokens: list[int] = []
        lengths: list[int] = []
        targets: list[int] = []
        for tree, target in zip(trees, row["exemplar_targets"], strict=True):
            (query,) = tree.queries
            label = query.labels[target]
            string = [*tree.prefix, *query.tokens, *label]
            tokens += string
            lengths.append(len(string))
            targets += range(len(tokens) - len(label), len(tokens))
        return cls(torch.tensor(tokens), lengths, torch.tensor(targets))


class _Tuner:
    """A model with adapters, which are as new at the beginning of every context."""

    def __init__(self, model: PreTrainedModel, settings: Finetuned) -> None:
        self._model, self._settings = model, settings
        self._adapted = add_adapters(model, ADAPTERS, WITHOUT)
        check_adapters(model, "fp32", WITHOUT)  # in the weights' own precision

    def answers(self, number: int, trees: Sequence[Tree], lesson: _Lesson) -> list[Answers]:
        """The answers to the trees before and after tuning."""
        renew_adapters(self._adapted, number)
        before = score(self._model, trees)  # new adapters add nothing
        try:
            self._tune(lesson)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"Tuning adapters on {len(lesson.lengths)} exemplars runs out of memory; lower"
                " evaluation.exemplars_per_class, or set evaluation.finetuned.steps to 0."
            ) from error
        return [*before, *score(self._model, trees)]

    def _tune(self, lesson: _Lesson) -> None:
        labels = lesson.tokens[lesson.targets].to(self._model.device)
        weights = [each for each in self._model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=self._settings.learning_rate, weight_decay=0.0)
        for _ in range(self._settings.steps):
            logits = target_logits(self._model, lesson.tokens, lesson.lengths, lesson.targets)
            loss = cross_entropy(logits.float(), labels, reduction="sum") / len(lesson.lengths)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
