"""The kernel for parts of several lengths, as a loop that runs anywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from symtune_pipeline.models import kernel


def varlen_loop(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds_q: torch.Tensor,
    bounds_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As torch.nn.attention.varlen.varlen_attn: [T, H, D] and the log-sum-exps [H, T]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scale = scale or query.shape[-1] ** -0.5
    outputs, totals = [], []
    lengths = [(bounds.diff()).tolist() for bounds in (bounds_q, bounds_k)]
    assert max(lengths[0]) <= longest_q and max(lengths[1]) <= longest_k
    for q, k, v in zip(
        query.split(lengths[0]), key.split(lengths[1]), value.split(lengths[1]), strict=True
    ):
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if window_size == (-1, 0):
            scores = scores.masked_fill(~torch.ones(scores.shape[1:]).tril().bool(), -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
        totals.append(scores.logsumexp(-1))
    return torch.cat(outputs), torch.cat(totals, dim=1)


def take_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let models take the kernel's way on this CPU; returns a list that grows with every call."""
    calls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(calls))
        return varlen_loop(*arguments, **options)

    monkeypatch.setattr(kernel, "varlen_attn", counted)
    monkeypatch.setattr(kernel, "takes", lambda *_: True)
    monkeypatch.setattr(kernel, "runs_on", lambda _: True)
    return calls
