"""Loads a causal model's folder, on the path that is right for its class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from symtune_pipeline.models.head import predict_in_float32
from symtune_pipeline.models.opening import open_model
from symtune_pipeline.models.proof import choose_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(folder: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """A causal model from a local folder, on the path that `proof.choose_path` finds right for it.

    On the device `meta` it has shapes only: no weights are read and nothing is proved. Raises UserError
    where `open_model` and `choose_path` do.
    """
    model = open_model(folder, dtype, device)
    if device != "meta":
        choose_path(model)
    return model


def load_scorer(folder: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """As `load_model`, of a model that is only asked: without dropout, and predicting in float32."""
    model = open_model(folder, dtype, device).eval()
    predict_in_float32(model)
    choose_path(model)
    return model  # type: ignore[no-any-return]
