"""The model that passes run, and the float32 weights that steps change.

On a CPU in bf16 they are two: passes run a copy in bf16, which no pass has to cast first. Its gradients are
added up in float32, and a step's changes, often smaller than bf16 can tell, are kept in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from symtune_pipeline.models.opening import open_model
from symtune_pipeline.models.proof import attention_of, set_path
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.trainable import as_asked

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Working:
    """What passes run, `model`, and what is `tuned`; the same object where there is no copy."""

    tuned: PreTrainedModel
    model: PreTrainedModel
    precision: str  # 'bf16': autocast lowers to it what the model computes

    def add_gradients(self) -> None:
        """Move the gradients of a pass to the tuned weights."""
        if self.model is self.tuned:
            return
        for weight, copy in zip(self.tuned.parameters(), self.model.parameters(), strict=True):
            if copy.grad is None:
                continue
            if weight.grad is None:
                weight.grad = copy.grad.float()
            else:
                weight.grad.add_(copy.grad)
            copy.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the copy the values of the tuned weights."""
        if self.model is not self.tuned:
            for weight, copy in zip(self.tuned.parameters(), self.model.parameters(), strict=True):
                copy.copy_(weight)


def working(model: PreTrainedModel, config: JobConfig, precision: str, ranks: int) -> Working:
    """For a job that so many ranks share; several keep no copy, and adapters need none."""
    if precision == "fp32" or model.device.type != "cpu" or ranks > 1 or config.lora:
        return Working(model, model, precision)
    copy = open_model(config.model_folder, torch.bfloat16, "cpu")
    set_path(copy, attention_of(model))
    both = Working(model, as_asked(copy, config), "fp32")
    both.refresh()  # a checkpoint may have been read into the tuned weights
    return both
