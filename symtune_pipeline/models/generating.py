"""How a model continues texts as it predicts them: in batches, one by one, with or without a cache.

In a batch, prompts are padded at their start. What the prompts of a group begin with alike may run once for
all of them: its cache is copied, and padding stands between it and what each prompt adds. Which of these is
right for a model is found by trying; this module knows nothing about packing.

Shapes: S prompts, G groups of them, T tokens of the longest, P tokens of the longest beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from symtune_pipeline.errors import UserError, is_out_of_memory
from symtune_pipeline.models.trial import (
    NOT_FINITE,
    class_name,
    is_unmoved,
    random_strings,
    run_alone,
    same_to_rounding,
)
from symtune_pipeline.prompts.tokens import shared_beginning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = list[int]

NEW = 3  # tokens that are generated in a trial


@dataclass(frozen=True)
class Generating:
    """How a model continues texts as it predicts each whole string alone."""

    batched: bool = True  # prompts padded at their start; else one by one
    cached: bool = True
    shared: bool = False  # what the prompts of a group begin with alike runs once

    def __str__(self) -> str:
        words = ["in batches" if self.batched else "one by one"]
        words += ["beginnings shared"] * self.shared + ["no cache"] * (not self.cached)
        return ", ".join(words)


@dataclass(frozen=True)
class Batch:
    """Prompts as rows of one length, and what groups of them begin with alike."""

    ids_ST: torch.Tensor
    mask_ST: torch.Tensor
    group_S: torch.Tensor
    beginning: int  # P; 0 where nothing is shared

    @classmethod
    def of(
        cls, prompts: Sequence[Tokens], groups: Sequence[object], padding: int, shared: bool
    ) -> Batch:
        """Pad with the token `padding`; prompts whose `groups` are equal share where they begin alike."""
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        group_of = [numbers[group] for group in groups]
        own: list[list[Tokens]] = [[] for _ in numbers]
        for prompt, group in zip(prompts, group_of, strict=True):
            own[group].append(prompt[:-1])  # something is left to each
        alike = [shared_beginning(those) if shared else 0 for those in own]
        if not all(alike):
            alike = [0] * len(own)
        ends = [alike[group] for group in group_of]
        parts = [
            [prompt[:end] for prompt, end in zip(prompts, ends, strict=True)],
            [prompt[end:] for prompt, end in zip(prompts, ends, strict=True)],
        ]
        masks = [[[1] * len(row) for row in rows] for rows in parts]
        return cls(
            torch.cat([_padded(rows, padding) for rows in parts], dim=1),
            torch.cat([_padded(rows, 0) for rows in masks], dim=1),
            torch.tensor(group_of),
            max(ends),
        )

    def generate(self, model: Any, **options: Any) -> Any:
        """What transformers' generate returns with such options."""
        if self.beginning:
            options["past_key_values"] = self._beginnings(model)
        return model.generate(
            input_ids=self.ids_ST.to(model.device),
            attention_mask=self.mask_ST.to(model.device),
            **options,
        )

    def _beginnings(self, model: Any) -> Any:
        """A cache of what the groups begin with, copied for every prompt."""
        first_G = torch.stack(
            [(self.group_S == group).nonzero()[0, 0] for group in self.group_S.unique()]
        )
        mask_GP = self.mask_ST[first_G, : self.beginning].to(model.device)
        # The model as a whole, where it need not predict: with FSDP2 its parts do not run without it.
        spares = "logits_to_keep" in signature(model.forward).parameters
        cache = (partial(model, logits_to_keep=1) if spares else model.base_model)(
            input_ids=self.ids_ST[first_G, : self.beginning].to(model.device),
            attention_mask=mask_GP,
            position_ids=(mask_GP.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
        ).past_key_values
        cache.batch_select_indices(self.group_S.to(model.device))
        return cache


def _padded(rows: Sequence[Tokens], filler: int) -> torch.Tensor:
    """Rows of one length, filled up at their start."""
    return pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows],
        batch_first=True,
        padding_value=filler,
        padding_side="left",
    )


def choose_generating(model: PreTrainedModel) -> Generating:
    """The fastest way of generating that is right for a model, found as the path for scoring is.

    Raises UserError for a class that transformers' generate does not continue as it predicts, and for
    weights that predict no number.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        strings = random_strings(model)
        if any(run_alone(model, string).isnan().any() for string in strings):
            raise UserError(NOT_FINITE.format(model.name_or_path))
        for shared in (True, False):
            if _continues(model, strings, Generating(shared=shared)):
                return Generating(shared=shared)
        for cached in (True, False):
            way = Generating(batched=False, cached=cached)
            if all(_continues(model, [string], way) for string in strings):
                return way
    raise UserError(
        f"A model of class {class_name(model)} is not continued by transformers' generate as it"
        " predicts whole texts; take another model."
    )


def _continues(model: PreTrainedModel, strings: list[torch.Tensor], way: Generating) -> bool:
    """Whether a batch is continued as each whole string alone."""
    rows = [string.tolist() for string in strings]
    groups = [0, 0, 1][: len(rows)]
    try:
        made, padded = (
            _generated(model, Batch.of(rows, groups, padding, way.shared), way.cached)
            for padding in (0, 1)
        )
    except Exception as error:  # whatever a class may raise that does not know padding or a cache
        if is_out_of_memory(error):
            raise
        return False
    found, other = (
        torch.stack(each.logits, dim=1).float().log_softmax(dim=-1) for each in (made, padded)
    )
    if model.dtype.itemsize < 4 and not is_unmoved(found[:, 0], other[:, 0]):
        return False
    for row, string in enumerate(strings):
        whole = torch.cat([string.to(model.device), made.sequences[row, -NEW:]])
        expected = run_alone(model, whole)[len(string) - 1 : -1]
        if not same_to_rounding(found[row].to(expected.device), expected, model.dtype):
            return False
    return True


def _generated(model: Any, batch: Batch, cached: bool) -> Any:
    greedy = GenerationConfig(
        use_cache=cached,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        eos_token_id=model.generation_config.eos_token_id,  # which ends a text, so nothing follows it
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    with configured(model, greedy):
        return batch.generate(model)


@contextmanager
def configured(model: Any, config: GenerationConfig) -> Iterator[None]:
    """The model generates as `config` says, and by nothing of its own.

    Given to `generate` as an argument, a configuration would be filled up from the model's own, of
    which generation_config.json may ask for beams, a repetition penalty, forced tokens and others.
    """
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own
