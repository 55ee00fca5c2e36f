"""How a model continues texts as it predicts them: in batches, one by one, with or without a cache.

Found by trying; it knows nothing about packing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from symtune_pipeline.errors import UserError, is_out_of_memory
from symtune_pipeline.models.trial import is_unmoved, random_strings, run_alone, same_to_rounding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEW = 3  # tokens that are generated in a trial


@dataclass(frozen=True)
class Generating:
    """How a model continues texts as it predicts each whole string alone."""

    batched: bool = True  # prompts padded at their start; else one by one
    cached: bool = True

    def __str__(self) -> str:
        return ("in batches" if self.batched else "one by one") + (
            "" if self.cached else ", no cache"
        )


def choose_generating(model: PreTrainedModel) -> Generating:
    """The fastest way of generating that is right for a model, found as the path for scoring is.

    Raises UserError for a class that transformers' generate does not continue as it predicts.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        strings = random_strings(model)
        if _continues(model, strings, cached=True):
            return Generating()
        for cached in (True, False):
            if all(_continues(model, [string], cached) for string in strings):
                return Generating(batched=False, cached=cached)
    raise UserError(
        f"A model of class {type(model).__name__} is not continued by transformers' generate as it"
        " predicts whole texts; take another model."
    )


def _continues(model: PreTrainedModel, strings: list[torch.Tensor], cached: bool) -> bool:
    """Whether a batch, padded at the start, is continued as each whole string alone."""
    longest = max(map(len, strings))
    ids = torch.stack([pad(string, (longest - len(string), 0)) for string in strings])
    mask = torch.stack([pad(torch.ones_like(s), (longest - len(s), 0)) for s in strings])
    try:
        made = _generated(model, ids, mask, cached)
        padded = _generated(model, ids.where(mask == 1, 1), mask, cached)
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
        whole = torch.cat([string.to(model.device), made.sequences[row, longest:]])
        expected = run_alone(model, whole)[len(string) - 1 : -1]
        if not same_to_rounding(found[row].to(expected.device), expected, model.dtype):
            return False
    return True


def _generated(model: Any, ids: torch.Tensor, mask: torch.Tensor, cached: bool) -> Any:
    return model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        use_cache=cached,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
