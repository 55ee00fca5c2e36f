"""Where a model is evaluated, in which precision, and whether it fits there."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch

from symtune_pipeline.errors import memory_as

Precision = Literal["auto", "fp32", "bf16"]


def device_and_precision(asked: Precision = "auto") -> tuple[str, torch.dtype]:
    """A GPU where there is one, else the CPU; 'auto' is half precision on the first only.

    In full precision a model's log-probabilities do not depend on the kind of CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = device == "cuda" if asked == "auto" else asked == "bf16"
    return device, torch.bfloat16 if half else torch.float32


def fitting(folder: Path) -> AbstractContextManager[None]:
    """Raises UserError where memory runs out while the model in a folder is loaded within."""
    return memory_as(
        f"The model in {folder} does not fit into memory; set evaluation.precision to bf16, hold it"
        " on several GPUs (evaluation.ranks_per_model), or use a machine with more memory."
    )
