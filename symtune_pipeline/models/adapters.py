"""LoRA adapters beside the linear layers of a model, whose own weights stay as they are.

This module knows nothing about what they are tuned on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from symtune_pipeline.errors import UserError, brief
from symtune_pipeline.sections import Lora

if TYPE_CHECKING:
    from peft import LoraModel
    from transformers import PreTrainedModel


def add_adapters(model: PreTrainedModel, lora: Lora, way_out: str) -> LoraModel:
    """Put float32 adapters into the model and freeze everything else.

    Raises UserError, which ends with the way out, for a class beside whose layers PEFT puts none.
    """
    from peft import LoraConfig, LoraModel
    from peft.tuners.tuners_utils import cast_adapter_dtype

    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules="all-linear",
    )
    with torch.device(model.device):  # which may be meta
        try:
            adapted = LoraModel(model, settings, "default")
        except ValueError as error:
            raise no_adapters(model, error, way_out) from error
        cast_adapter_dtype(model, "default")
    return adapted


def renew_adapters(adapted: LoraModel, seed: int) -> None:
    """Make the adapters as they are before any step, drawn by that seed."""
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(seed)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters("default", init_lora_weights=True)


def no_adapters(model: PreTrainedModel, error: Exception, way_out: str) -> UserError:
    """The sentence for a class that PEFT puts no adapters into, or that does not run with them."""
    return UserError(
        f"A model of class {type(model).__name__} takes no adapters ({brief(error)}); {way_out}."
    )
