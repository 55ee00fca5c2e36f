"""Attention over packed sequences by the GPU's flash kernel for parts of several lengths.

A layer takes one call for what tokens see of their own part, one for what branches see of their root and
one for what twigs see of their stem, however many there are. What two calls give for a token is joined by
their log-sum-exps, as flash attention itself joins what it computes piece by piece.

Shapes: H heads, K key-value heads, T tokens, D head width, R rows of some tokens.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from symtune_pipeline.models.packing import Pack

# Fewer key-value heads than heads, which torch 2.11 takes without being told.
GROUPED: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
)


def runs_on(device: torch.device) -> bool:
    """Whether the device is one that the kernel runs on: an Ampere GPU or later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def takes(query_BHTD: torch.Tensor, key_BKTD: torch.Tensor, value_BKTD: torch.Tensor) -> bool:
    """Whether the kernel takes such tensors: half precision, heads of one common width."""
    width = query_BHTD.shape[-1]
    return (
        computed_in(query_BHTD).itemsize == 2
        and width % 8 == 0
        and width <= 256
        and key_BKTD.shape[-1] == value_BKTD.shape[-1] == width
    )


def attend(
    pack: Pack,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """What the tokens of a pack attend to [B, T, H, D], for tensors that `takes` takes."""
    if pack.seen and query_BHTD.requires_grad:
        raise ValueError("the kernel has no gradient of log-sum-exps, which join what branches see")
    bounds, longest = pack.runs
    attended, lse = attend_runs(bounds, longest, query_BHTD, key_BKTD, value_BKTD, scaling)
    query, key, value = map(_by_token, (query_BHTD, key_BKTD, value_BKTD))
    for parts in pack.seen:
        more, more_lse = _call(
            query[parts.rows_q], key[parts.rows_k], value[parts.rows_k],
            parts.bounds_q, parts.bounds_k, parts.longest_q, parts.longest_k, (-1, -1), scaling,
        )  # fmt: skip
        attended, lse = _joined(attended, lse, parts.rows_q, more, more_lse)
    return attended[None]


def attend_runs(
    bounds: torch.Tensor,
    longest: int,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each token attends to of those before it in its run [T, H, D], and log-sum-exps [H, T]."""
    query, key, value = map(_by_token, (query_BHTD, key_BKTD, value_BKTD))
    return _call(query, key, value, bounds, bounds, longest, longest, (-1, 0), scaling)


def _by_token(tensor_BHTD: torch.Tensor) -> torch.Tensor:
    """As the kernel takes it [T, H, D], in half precision: autocast does not know the kernel."""
    return tensor_BHTD[0].transpose(0, 1).to(computed_in(tensor_BHTD))


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
        return_aux=AuxRequest(lse=True), scale=scaling, window_size=window, **GROUPED,
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


def computed_in(tensor: torch.Tensor) -> torch.dtype:
    """The precision of an operation on the tensor, which autocast may lower."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
