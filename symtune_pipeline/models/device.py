"""Where a model is evaluated, in which precision, and whether it fits there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from symtune_pipeline.errors import UserError, is_out_of_memory

Precision = Literal["auto", "fp32", "bf16"]


def device_and_precision(asked: Precision = "auto") -> tuple[str, torch.dtype]:
    """A GPU where there is one, else the CPU; 'auto' is half precision on the first only.

    In full precision a model's log-probabilities do not depend on the kind of CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = device == "cuda" if asked == "auto" else asked == "bf16"
    return device, torch.bfloat16 if half else torch.float32


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Raises UserError where memory runs out while the model in a folder is loaded within."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"The model in {folder} does not fit into memory; set evaluation.precision to bf16, or use a"
            " machine with more memory."
        ) from error
