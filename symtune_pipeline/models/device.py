"""Where a model is evaluated, and in which precision."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def device_and_precision(asked: Precision = "auto") -> tuple[str, torch.dtype]:
    """A GPU where there is one, else the CPU; 'auto' is half precision on the first only.

    In full precision a model's log-probabilities do not depend on the kind of CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = device == "cuda" if asked == "auto" else asked == "bf16"
    return device, torch.bfloat16 if half else torch.float32
