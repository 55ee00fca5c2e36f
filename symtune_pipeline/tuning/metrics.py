"""The numbers of a step, as a row of the log: speed, memory, use of the hardware, progress.

This module knows nothing about losses and optimisers.
"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from symtune_pipeline.catalog.gpus import all_gpus
from symtune_pipeline.tuning.trainable import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Row = dict[str, float | None]


class Meter:
    """Speed and memory of steps of one model on `ranks` devices like this one."""

    def __init__(self, model: PreTrainedModel, ranks: int = 1) -> None:
        inner = [p for layer in decoder_layers(model) for p in layer.parameters()]
        # What a token costs in multiply-adds, and the part of it whose weights are tuned.
        self._inner = sum(p.numel() for p in inner)
        self._tuned = sum(p.numel() for p in inner if p.requires_grad)
        head = model.get_output_embeddings().weight
        self._head, self._head_tuned = head.numel(), head.numel() * head.requires_grad
        config = model.config
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        self._attention = config.num_hidden_layers * config.num_attention_heads * width
        self._peak = peak_flops(_gpu_name(model.device))
        self._ranks = ranks

    def flops(self, lengths: Sequence[int], targets: int) -> float:
        """Floating-point operations that a step on prompts of these lengths needs.

        Two per weight and token forward and two for the inputs' gradients, two more for a tuned
        weight's own: 6·N·tokens where all are tuned. The LM head counts at targets only, and causal
        attention with the half of the scores that it keeps.
        """
        in_layers = sum(lengths) * (4 * self._inner + 2 * self._tuned)
        in_head = targets * (4 * self._head + 2 * self._head_tuned)
        in_attention = 6 * self._attention * sum(length**2 for length in lengths)
        return float(in_layers + in_head + in_attention)

    def row(self, lengths: Sequence[int], targets: int, seconds: float) -> Row:
        """The columns of speed and memory for a step that took `seconds`."""
        speed = self.flops(lengths, targets) / seconds
        return {
            "tokens_per_second": sum(lengths) / seconds,
            "targets_per_second": targets / seconds,
            "memory_gib": memory_bytes() / 2**30,
            "flop_utilisation": speed / (self._peak * self._ranks) if self._peak else None,
        }


def memory_bytes() -> int:
    """The most memory that this process has held: of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_flops(name: str) -> float | None:
    """A GPU's peak in dense bf16 by its name, in FLOP/s, or None where the catalogue lacks it."""
    for gpu in all_gpus().values():
        if gpu.tflops and re.search(rf"\b{gpu.key}\b", name.lower()):
            return gpu.tflops * 1e12
    return None


def _gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
