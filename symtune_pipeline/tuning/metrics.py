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
from torch.nn import Embedding

from symtune_pipeline.catalog.gpus import all_gpus
from symtune_pipeline.models.sizing import Matrices, attention_width

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Row = dict[str, float | None]
# Names of GPUs that are slower than the catalogue's of their kind, or a part of one.
SLOWER = re.compile(r"\b(pcie|nvl|mig|grid)\b")
EXPERTS = re.compile(r"expert|moe$", re.IGNORECASE)  # in a module's name, or ending its class's


class Meter:
    """Speed and memory of steps of one model on `ranks` devices like this one."""

    def __init__(self, model: PreTrainedModel, ranks: int = 1) -> None:
        self._matrices = _matrices(model)
        # Of experts a token meets a few, and which is not counted here.
        self._peak = None if _has_experts(model) else peak_flops(_gpu_name(model.device))
        self._ranks = ranks

    def flops(self, lengths: Sequence[int], targets: int) -> float:
        """Floating-point operations that a step on prompts of these lengths needs, however done."""
        return self._matrices.flops(sum(lengths), sum(length**2 for length in lengths), targets)

    def row(self, lengths: Sequence[int], targets: int, seconds: float) -> Row:
        """The columns of speed and memory for a step that took `seconds`."""
        speed = self.flops(lengths, targets) / seconds
        return {
            "tokens_per_second": sum(lengths) / seconds,
            "targets_per_second": targets / seconds,
            "memory_gib": memory_bytes() / 2**30,
            "flop_utilisation": speed / (self._peak * self._ranks) if self._peak else None,
        }


def _matrices(model: PreTrainedModel) -> Matrices:
    lm_head = model.get_output_embeddings()
    parameters = [
        parameter
        for module in model.modules()
        if module is not lm_head and not isinstance(module, Embedding)  # whose rows are looked up
        for parameter in module.parameters(recurse=False)
        if parameter.dim() > 1
    ]
    return Matrices(
        layers=sum(p.numel() for p in parameters),
        layers_tuned=sum(p.numel() for p in parameters if p.requires_grad),
        lm_head=lm_head.weight.numel(),
        lm_head_tuned=lm_head.weight.numel() if lm_head.weight.requires_grad else 0,
        attention_width=attention_width(model.config),
    )


def _has_experts(model: PreTrainedModel) -> bool:
    return any(
        EXPERTS.search(name) or EXPERTS.search(type(module).__name__)
        for name, module in model.named_modules()
    )


def memory_bytes() -> int:
    """The most memory that this process has held: of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_flops(name: str) -> float | None:
    """A GPU's peak in dense bf16 by its name, in FLOP/s, or None where the catalogue lacks it."""
    if SLOWER.search(name.lower()):
        return None
    for gpu in all_gpus().values():
        if gpu.tflops and re.search(rf"\b{gpu.key}\b", name.lower()):
            return gpu.tflops * 1e12
    return None


def _gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
