"""Adafactor, for parameters that are whole and for those of which each rank holds a part."""

from __future__ import annotations

import math

import torch

from symtune_pipeline.tuning.parallel import whole


class Adafactor(torch.optim.Adafactor):
    """torch's Adafactor (Shazeer and Stern 2018) without weight decay, by means of squares.

    torch 2.13 takes a norm over each dimension and squares it in place: DTensor refuses that, and
    on a CPU a norm over columns takes longer than squaring the whole matrix.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; gradients are tensors or DTensors, like their parameters."""
        for group in self.param_groups:
            lists: list[list[torch.Tensor]] = [[] for _ in range(6)]
            self._init_group(group, *lists)
            for param, grad, row, column, variance, step in zip(*lists, strict=True):
                step += 1
                number = step.item()
                newest = number ** group["beta2_decay"]
                eps1 = group["eps"][0] or torch.finfo(param.dtype).eps
                size = max(group["eps"][1], _root_mean_square(param))
                rate = size * min(group["lr"], number**-0.5)
                squares = grad * grad
                if grad.dim() > 1:
                    row.lerp_(_mean(squares, -1), newest)
                    column.lerp_(_mean(squares, -2), newest)
                    squares.copy_(row / _mean(row, -2).clamp(min=eps1)).mul_(column)
                else:
                    squares.copy_(variance.lerp_(squares, newest))
                # The estimate took the place of the squares: more memory takes long to get.
                update = squares.clamp_(min=eps1 * eps1).rsqrt_().mul_(grad)
                param.add_(update, alpha=-rate / max(1.0, _root_mean_square(update) / group["d"]))


def _mean(values: torch.Tensor, dim: int) -> torch.Tensor:
    # Shards may differ in size, so that a mean of their means would be wrong.
    return values.sum(dim, keepdim=True) / values.size(dim)


def _root_mean_square(values: torch.Tensor) -> float:
    return whole(torch.linalg.vector_norm(values)).item() / math.sqrt(values.numel())
