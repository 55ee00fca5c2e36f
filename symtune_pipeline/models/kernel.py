"""Attention over packed sequences by the GPU's flash kernel for parts of several lengths.

A layer takes one call for what tokens see of their own part, one for what branches see of their root and
one for what twigs see of their stem, however many there are. What two calls give for a token is joined by
their log-sum-exps, as flash attention itself joins what it computes piece by piece.

Shapes: H heads, K key-value heads, T tokens, D head width, R rows of some tokens.
"""

from __future__ import annotations

import torch
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from symtune_pipeline.models.packing import Pack


def takes(query_BHTD: torch.Tensor, value_BKTD: torch.Tensor) -> bool:
    """Whether the kernel runs here: half precision, an Ampere GPU or later, heads of a common width."""
    width = query_BHTD.shape[-1]
    return (
        query_BHTD.is_cuda
        and _computed_in(query_BHTD).itemsize == 2
        and torch.cuda.get_device_capability(query_BHTD.device) >= (8, 0)
        and width % 8 == 0
        and width <= 256
        and value_BKTD.shape[-1] == width
    )


def attend(
    pack: Pack,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """What the tokens of a pack attend to [B, T, H, D], for tensors that `takes` takes."""
    query, key, value = (
        tensor[0].transpose(0, 1).to(_computed_in(query_BHTD))  # autocast does not know the kernel
        for tensor in (query_BHTD, key_BKTD, value_BKTD)
    )
    bounds, longest = pack.runs
    causal = (-1, 0)
    attended, lse = _call(query, key, value, bounds, bounds, longest, longest, causal, scaling)
    for parts in pack.seen:
        more, more_lse = _call(
            query[parts.rows_q], key[parts.rows_k], value[parts.rows_k],
            parts.bounds_q, parts.bounds_k, parts.longest_q, parts.longest_k, (-1, -1), scaling,
        )  # fmt: skip
        attended, lse = _joined(attended, lse, parts.rows_q, more, more_lse)
    return attended[None]


def _call(
    query_THD: torch.Tensor,
    key_TKD: torch.Tensor,
    value_TKD: torch.Tensor,
    bounds_q: torch.Tensor,
    bounds_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    window: tuple[int, int],
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each query attends to [T, H, D], and the log-sum-exp of its scores [H, T]."""
    attended, lse = varlen_attn(
        query_THD, key_TKD, value_TKD, bounds_q, bounds_k, longest_q, longest_k,
        return_aux=AuxRequest(lse=True), scale=scaling, window_size=window, enable_gqa=True,
    )  # fmt: skip
    return attended, lse


def _joined(
    attended_THD: torch.Tensor,
    lse_HT: torch.Tensor,
    rows_R: torch.Tensor,
    more_RHD: torch.Tensor,
    more_lse_HR: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the keys of both, of which the second has those of some tokens only."""
    share_RH1 = torch.sigmoid(more_lse_HR - lse_HT[:, rows_R]).T[..., None]
    both_RHD = torch.lerp(attended_THD[rows_R].float(), more_RHD.float(), share_RH1)
    both_lse_HR = torch.logaddexp(lse_HT[:, rows_R], more_lse_HR)
    return (
        attended_THD.index_copy(0, rows_R, both_RHD.to(attended_THD.dtype)),
        lse_HT.index_copy(1, rows_R, both_lse_HR),
    )


def _computed_in(tensor: torch.Tensor) -> torch.dtype:
    """The precision of an operation on the tensor, which autocast may lower."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
