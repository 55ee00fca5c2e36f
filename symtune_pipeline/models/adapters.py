"""LoRA adapters beside the linear layers of a model, whose own weights stay as they are.

This module knows nothing about what they are tuned on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from symtune_pipeline.errors import UserError, brief, is_out_of_memory
from symtune_pipeline.models.strings import target_logits
from symtune_pipeline.models.trial import random_strings
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
            raise _no_adapters(model, error, way_out) from error
        cast_adapter_dtype(model, "default")
    return adapted


def renew_adapters(adapted: LoraModel, seed: int) -> None:
    """Make the adapters as they are before any step, drawn by that seed."""
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(seed)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters("default", init_lora_weights=True)


def check_adapters(model: PreTrainedModel, precision: str, way_out: str) -> None:
    """Raises UserError where a class does not run with adapters, which not all layers look through.

    The model is in evaluation mode afterwards: new adapters are in training mode, where dropout draws
    random numbers.
    """
    model.eval()
    string = random_strings(model)[0]
    bf16 = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16")
    try:
        with torch.no_grad(), bf16:
            target_logits(model, string, [len(string)], torch.arange(1, len(string)))
    except Exception as error:  # whatever a class may raise
        if is_out_of_memory(error):
            raise
        raise _no_adapters(model, error, way_out) from error


def _no_adapters(model: PreTrainedModel, error: Exception, way_out: str) -> UserError:
    return UserError(
        f"A model of class {type(model).__name__} takes no adapters ({brief(error)}); {way_out}."
    )
