"""Loads a causal model from a folder, so that it attends as `attention` says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from symtune_pipeline.models.attention import NAME

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Its bars show the loading of weights; progress that matters is reported by our own lines.
logging.disable_progress_bar()


def load_model(folder: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """A causal model from a local folder of safetensors, ready for `attending`.

    On the device `meta` it has shapes only, and no weights are read.
    """
    if device == "meta":
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=NAME)  # type: ignore[no-any-return]
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=NAME,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model.to(torch.device(device))  # type: ignore[arg-type]
    return model
