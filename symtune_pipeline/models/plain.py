"""The plain path: what a model predicts in strings that share nothing, each in a row of its own.

It is right for every causal class, whatever its layers do: a token depends on those before it, so what
fills a row up at its end is seen by none of them. This module knows nothing about prompts.

Shapes: S strings, T tokens of the longest, U positions asked for in any string, N those of one, V
vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def logits_alone(
    model: PreTrainedModel, strings: Sequence[torch.Tensor], keep: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """What the model predicts after the tokens `keep` of each string [N, V]; one pass for all."""
    last = max(map(len, strings))
    rows_ST = pad_sequence(
        # A repeated last token is one that the model knows, and no sign for padding.
        [torch.cat([string, string[-1:].expand(last - len(string))]) for string in strings],
        batch_first=True,
    )
    kept_U = torch.cat(list(keep)).unique()
    logits_SUV = run(model, kept_U.to(model.device), input_ids=rows_ST.to(model.device))
    return [
        logits_SUV[row, torch.searchsorted(kept_U, wanted).to(model.device)]
        for row, wanted in enumerate(keep)
    ]


def run(
    model: PreTrainedModel, keep: torch.Tensor | None = None, **inputs: torch.Tensor
) -> torch.Tensor:
    """Logits after the tokens `keep` of every row (None: all), computed without a cache."""
    known = inspect.signature(model.forward).parameters
    options: dict[str, Any] = dict(inputs)
    if "use_cache" in known:
        options["use_cache"] = False
    if keep is None:
        return model(**options).logits  # type: ignore[no-any-return]
    if "logits_to_keep" in known:
        return model(**options, logits_to_keep=keep).logits  # type: ignore[no-any-return]
    return model(**options).logits[:, keep]  # type: ignore[no-any-return]
