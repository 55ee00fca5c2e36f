"""Completes the algorithmic suite: greedy generation to the end of the line.

It runs with transformers' own attention: prompts of a batch are padded, not packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import torch
from transformers import GenerationConfig

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.asking import ALONE, BATCH, Asking
from symtune_pipeline.evaluation.predictions import generated
from symtune_pipeline.models.device import device_and_precision, fitting
from symtune_pipeline.models.generating import Batch, Generating, choose_generating, configured
from symtune_pipeline.models.lengths import narrowest_window, scaled_above
from symtune_pipeline.models.opening import (
    check_vocabulary,
    context_of,
    open_model,
    open_tokenizer,
    vocabulary,
)
from symtune_pipeline.prompts.text import algorithmic_prompt, render
from symtune_pipeline.prompts.tokens import SegmentTokenizer
from symtune_pipeline.sections import EvaluationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Concept = tuple[str | int, ...]

CONCEPT = ("benchmark", "setting", "concept", "context")  # whose queries have the same exemplars


def generate(
    folder: Path,
    suite: pl.DataFrame,
    config: EvaluationConfig,
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking = ALONE,
) -> pl.DataFrame:
    """The completions of the model in a folder; see `complete`."""
    device, precision = device_and_precision(config.precision)

    def opened() -> tuple[PreTrainedModel, Generating]:
        with fitting(folder):
            if asking.team is None:
                model = open_model(folder, precision, device, attention=None).eval()
            else:
                model = asking.team.open(folder, precision, attention=None)
            return model, choose_generating(model)

    model, way = asking.together(opened)
    tokenizer = open_tokenizer(folder)
    return complete(model, tokenizer, suite, way, progress, config.chat_template, asking)


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: pl.DataFrame,
    way: Generating,
    progress: Callable[[int], None] = lambda _: None,
    chat: bool = False,
    asking: Asking = ALONE,
) -> pl.DataFrame:
    """The completions of a model, as `predictions.generated` describes them.

    The model must attend with transformers' own attention, and `way` be what `choose_generating` finds
    right for it. `progress` is called with the number of completions done, and `asking` says who asks
    for which. With `chat`, prompts stand in the tokenizer's chat template. A batch that runs out of
    memory is tried again with fewer prompts. Raises UserError where one prompt alone runs out of memory
    or exceeds the model's context with its completion, for a token that the model does not know, and
    where `SegmentTokenizer` does.
    """
    prompts, longest = prompts_of(suite, SegmentTokenizer(tokenizer, chat))
    check_vocabulary(model, (token for prompt in prompts for token in prompt))
    limit = context_of(model.config)
    concepts = list(suite.select(CONCEPT).iter_rows())
    turns, size = in_turn(prompts, suite), BATCH if way.batched else 1
    batches = [turns[start : start + size] for start in range(0, len(turns), size)]

    def first_lines(batch: list[int]) -> list[str]:
        asked = [prompts[i] for i in batch], [concepts[i] for i in batch]
        return _first_lines(model, tokenizer, *asked, longest, limit, way)

    answer = (
        asking.team.answering(first_lines)
        if asking.team
        else _WithinMemory(first_lines, model.name_or_path)
    )
    lines: list[list[str]] = asking.all(batches, answer, len, progress, str(way))
    line_of = dict(zip(chain.from_iterable(batches), chain.from_iterable(lines), strict=True))
    return generated(suite, [line_of[i] for i in range(len(prompts))], str(way))


def prompts_of(suite: pl.DataFrame, by_segment: SegmentTokenizer) -> tuple[list[list[int]], int]:
    """The tokens of each prompt, and how many a completion has at most: those of the longest target."""
    rows = suite.iter_rows(named=True)
    texts = [render(algorithmic_prompt(row, by_segment.frame)) for row in rows]
    answers = [f"{by_segment.frame.label.filled(target)}\n" for target in suite["target"]]
    prompts, answered = (
        [by_segment.encoder.before + ids for ids in by_segment.encoder.ids(strings)]
        for strings in (texts, list(map(str.__add__, texts, answers)))
    )
    added = (len(whole) - len(prompt) for whole, prompt in zip(answered, prompts, strict=True))
    return prompts, max(added, default=0)


class _WithinMemory:
    """Answers batches of prompts, in smaller ones where memory has run out.

    Batches come in order of length, so that one is parted alike whichever came before it.
    """

    def __init__(self, first_lines: Callable[[list[int]], list[str]], name: str | None) -> None:
        self._first_lines, self._name, self._size = first_lines, name, BATCH

    def __call__(self, batch: list[int]) -> list[str]:
        """The first line that the model adds to each prompt, by number."""
        from accelerate.utils import find_executable_batch_size

        def in_parts(size: int) -> list[str]:
            self._size = size
            parts = (batch[start : start + size] for start in range(0, len(batch), size))
            return [line for part in parts for line in self._first_lines(part)]

        try:
            lines: list[str] = find_executable_batch_size(in_parts, self._size)()
        except RuntimeError as error:
            if "No executable batch size" not in str(error):
                raise
            raise UserError(
                f"Model {self._name} runs out of memory on one prompt of the algorithmic benchmarks; lower"
                " evaluation.algorithmic_shots or use a machine with more memory."
            ) from error
        return lines


def in_turn(prompts: list[list[int]], suite: pl.DataFrame) -> list[int]:
    """The prompts' numbers: a concept's side by side, and those of like length, for little padding."""
    concepts: list[Concept] = list(suite.select(CONCEPT).iter_rows())
    longest_of: dict[Concept, int] = {}
    for concept, prompt in zip(concepts, prompts, strict=True):
        longest_of[concept] = max(longest_of.get(concept, 0), len(prompt))
    return sorted(range(len(prompts)), key=lambda i: (longest_of[concepts[i]], concepts[i]))


def _first_lines(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    concepts: list[Concept],
    new_tokens: int,
    limit: int | None,
    way: Generating,
) -> list[str]:
    """The first line of text that the model adds to each prompt."""
    width = max(map(len, prompts))
    needed = width + new_tokens
    if limit is not None and needed > limit:
        raise UserError(
            f"A prompt of the algorithmic benchmarks has {needed} tokens with its completion, and the"
            f" model takes {limit}; lower evaluation.algorithmic_shots."
        )
    texts = continued(model, tokenizer, prompts, concepts, new_tokens, ["\n"], way)
    return list(map(first_line, texts))


def first_line(text: str) -> str:
    """A completion's first line of text, also where that starts on a line of its own."""
    return text.strip().split("\n")[0].strip()


def continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    groups: Sequence[object],
    new_tokens: int,
    stops: list[str],
    way: Generating,
) -> list[str]:
    """The text that the model adds to each prompt, greedily: to an end token, or past a stop string.

    Prompts of equal `groups` may share what they begin with; special tokens are left out of the text.
    """
    bound = scaled_above(model.config.get_text_config())
    if len(prompts) > 1 and bound and max(map(len, prompts)) + new_tokens > bound:
        # The longest row would scale the positions of all.
        alone = ([prompt] for prompt in prompts)
        return [
            continued(model, tokenizer, one, groups[:1], new_tokens, stops, way)[0] for one in alone
        ]
    ends = end_tokens(model.generation_config, model.config.get_text_config(), tokenizer)
    padding = tokenizer.pad_token_id
    if padding is None or padding >= vocabulary(model):
        padding = ends[0] if ends else 0  # whichever: the mask hides it
    batch = Batch.of(prompts, groups, padding, way.shared)
    config, longest = model.config.get_text_config(), batch.ids_ST.shape[1] + new_tokens
    if batch.beginning and longest > narrowest_window(config):
        # A window counts the padding between a beginning and the rest, and would lose what is before it.
        batch = Batch.of(prompts, groups, padding, shared=False)
    greedy = _greedy(new_tokens, stops, ends, padding, way.cached)
    with torch.inference_mode(), configured(model, greedy):
        found = batch.generate(model, tokenizer=tokenizer)
    # An end token need not be special to the tokenizer, which would then write it out.
    added = [
        list(takewhile(lambda token: token not in ends, row))
        for row in found[:, batch.ids_ST.shape[1] :].tolist()
    ]
    texts: list[str] = tokenizer.batch_decode(added, skip_special_tokens=True)
    return texts


def _greedy(
    new_tokens: int, stops: list[str], ends: list[int], padding: int, cached: bool
) -> GenerationConfig:
    """The likeliest token at every step, to a stop string or to one of the end tokens."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=new_tokens,
        stop_strings=stops or None,
        eos_token_id=ends or None,
        pad_token_id=padding,
        use_cache=cached,
    )


def end_tokens(*configurations: object) -> list[int]:
    """The tokens with which a model ends a text, as the first of these says: its files, its tokenizer."""
    for named in configurations:
        ends = getattr(named, "eos_token_id", None)
        if ends is not None:
            return list(ends) if isinstance(ends, list | tuple) else [ends]
    return []
