"""Where a model is evaluated, and in which precision."""

from __future__ import annotations

import torch


def device_and_precision() -> tuple[str, torch.dtype]:
    """A GPU and half precision where there is one, else the CPU and full precision.

    In full precision a model's log-probabilities do not depend on the kind of CPU.
    """
    return ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
