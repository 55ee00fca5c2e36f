"""Adafactor for parameters of which each rank holds a part."""

from __future__ import annotations

import math

import torch

from symtune_pipeline.tuning.parallel import whole


class ShardedAdafactor(torch.optim.Adafactor):
    """torch's Adafactor, its formulas written without what DTensor cannot do.

    torch 2.13 squares a norm over the sharded dimension in place, which DTensor refuses. Sums take
    the place of means and norms because shards may differ in size. No weight decay.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; gradients are DTensors like their parameters."""
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
                    estimate = row @ column / _mean(row, -2).clamp(min=eps1)
                else:
                    variance.lerp_(squares, newest)
                    estimate = variance
                update = estimate.clamp(min=eps1 * eps1).rsqrt() * grad
                param.add_(update, alpha=-rate / max(1.0, _root_mean_square(update) / group["d"]))


def _mean(values: torch.Tensor, dim: int) -> torch.Tensor:
    return values.sum(dim, keepdim=True) / values.size(dim)


def _root_mean_square(values: torch.Tensor) -> float:
    return math.sqrt(whole((values * values).sum()).item() / values.numel())
