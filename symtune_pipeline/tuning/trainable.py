"""The model as the job tunes it: all of its weights, some, or LoRA adapters beside frozen ones.

This module knows nothing about steps, ranks or checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.adapters import add_adapters, check_adapters
from symtune_pipeline.models.attention import attending_again
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.opening import open_model
from symtune_pipeline.models.projections import put_back, train_only
from symtune_pipeline.models.spreading import decoder_layers
from symtune_pipeline.tuning.config import JobConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WITHOUT = "set tuning.lora.rank to 0, which tunes all of its weights"


def load_trainable(config: JobConfig, precision: str, device: str) -> PreTrainedModel:
    """The model in training mode; parameters that are tuned are float32 and require gradients.

    Raises UserError where `load_model` and `as_asked` do, and for a class that takes no adapters,
    where the job asks for them.
    """
    # Only weights that are tuned need a float32 master copy, as their steps are small.
    halved = config.lora is not None and precision == "bf16"
    model = load_model(config.model_folder, torch.bfloat16 if halved else torch.float32, device)
    if config.lora:
        add_adapters(model, config.lora, WITHOUT)
        if device != "meta":
            check_adapters(model, precision, WITHOUT)
    return as_asked(model, config)


def as_asked(model: PreTrainedModel, config: JobConfig) -> PreTrainedModel:
    """The model in training mode, with the job's settings of what is tuned, activations and compiling.

    Raises UserError for a class that has no activation checkpointing, where the job asks for it, and
    where `train_only` does.
    """
    train_only(model, config.trainable)
    if config.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise UserError(
                f"A model of class {type(model).__name__} has no activation checkpointing; set"
                " tuning.activation_checkpointing to false."
            )
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={
                "use_reentrant": False,
                "context_fn": attending_again,
            }
        )
    if config.compile:
        for layer in decoder_layers(model):
            layer.compile()
    model.train()
    return model


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that tuning changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def finished(config: JobConfig, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """An ordinary model in float32 on the CPU from the tuned weights by name; adapters are merged.

    The base is read again, because in bf16 what adapters add would be rounded away.
    """
    model = open_model(config.model_folder, torch.float32, "cpu")
    adapted = add_adapters(model, config.lora, WITHOUT) if config.lora else None
    put_back(model, config.trainable, weights)
    return adapted.merge_and_unload() if adapted else model  # type: ignore[return-value]
