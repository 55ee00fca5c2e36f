"""Attention over packed sequences: several lie one after another in what a model sees as one.

Tuning packs the prompts of a block, scoring packs contexts with their queries and labels; both need
attention to stay inside a sequence. transformers lets a caller name an attention function, so many of
its decoder models can run with this one; `proof` finds out which. This module knows nothing about prompts.

Shapes: B batch (always 1), H heads, K key-value heads, T tokens, D head width, P positions, V vocabulary,
N tokens whose logits are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import dropout, pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from symtune_pipeline.models.plain import run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "symtune_packed"
SHAPE = 64  # roots of every length run as multiples of it: CPU kernels are kept per shape


@dataclass(frozen=True)
class PackedSequence:
    """A causal root of so many tokens, then branches that see the root and themselves.

    A branch is its mask: which tokens its own ones see, of the root and its own [own, root + own].
    """

    root: int
    branches: Sequence[torch.Tensor] = ()

    @property
    def lengths(self) -> list[int]:
        """Tokens of the root and of each branch."""
        return [self.root, *map(len, self.branches)]


def branch(root: int, stem: int, twigs: Sequence[int]) -> torch.Tensor:
    """The mask of a branch: a stem of so many tokens, and twigs that see it but not each other."""
    size = stem + sum(twigs)
    visible = np.zeros((size, root + size), dtype=np.bool_)
    visible[:, :root] = True
    own = visible[:, root:]
    own[:stem, :stem] = np.tri(stem, dtype=np.bool_)
    own[stem:, :stem] = True
    start = stem
    for twig in twigs:
        end = start + twig
        own[start:end, start:end] = np.tri(twig, dtype=np.bool_)
        start = end
    return torch.from_numpy(visible)


_packed: ContextVar[Sequence[PackedSequence]] = ContextVar("packed")


@contextmanager
def attending(sequences: Sequence[PackedSequence]) -> Iterator[None]:
    """Within this context a model whose attention is `NAME` attends inside each sequence only."""
    token = _packed.set(sequences)
    try:
        yield
    finally:
        _packed.reset(token)


def attending_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For torch's activation checkpointing: contexts of a layer's forward and of its repetition.

    The repetition runs during backward, after `attending` has ended and on CUDA in another thread.
    """
    return nullcontext(), attending(_packed.get([]))


def packed_logits(
    model: PreTrainedModel,
    tokens_T: torch.Tensor,
    positions_T: torch.Tensor,
    sequences: Sequence[PackedSequence],
    keep_N: torch.Tensor,
) -> torch.Tensor:
    """What a model whose attention is `NAME` predicts after the tokens `keep_N` of a pack [N, V]."""
    with attending(sequences):
        return run(
            model,
            keep_N,
            input_ids=tokens_T[None],
            position_ids=positions_T[None],
            # With it transformers makes nothing of positions that begin anew; `_mask` wants that.
            attention_mask=torch.ones_like(tokens_T)[None],
        )[0]


# Its shapes are new in every block; what surrounds it is compiled once.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; returns [B, T, H, D].

    `attention_mask` is what `_mask` returned; raises ValueError for a class that made its own.
    """
    sequences = _packed.get()
    if attention_mask is not None and attention_mask.shape != (1, 1, *[_longest(sequences)] * 2):
        raise ValueError(f"{type(module).__name__} makes an attention mask of its own")
    exact = softcap is not None or s_aux is not None
    if not (exact or dropout or attention_mask is not None) and _one_kernel_does(
        sequences, query_BHTD
    ):
        return _attend_roots(sequences, query_BHTD, key_BKTD, value_BKTD, scaling), None
    grouped = query_BHTD.is_cpu and not exact  # CUDA's kernels for float32 and masks know no groups
    if not grouped:  # then K is H from here on
        groups = query_BHTD.shape[1] // key_BKTD.shape[1]
        key_BKTD = key_BKTD.repeat_interleave(groups, dim=1)
        value_BKTD = value_BKTD.repeat_interleave(groups, dim=1)
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    if exact:
        options |= {"softcap": softcap, "sinks_H": s_aux}
    else:
        options["enable_gqa"] = grouped
    kernel = _softmax_attention if exact else scaled_dot_product_attention
    grid_PP = None if attention_mask is None else attention_mask[0, 0]
    lengths = [sum(sequence.lengths) for sequence in sequences]
    qkv = (t.split(lengths, dim=2) for t in (query_BHTD, key_BKTD, value_BKTD))
    attended = [
        output
        for sequence, *own in zip(sequences, *qkv, strict=True)
        for output in _attend_sequence(sequence, grid_PP, kernel, *own, **options)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _longest(sequences: Sequence[PackedSequence]) -> int:
    """A bound of the positions in the sequences."""
    return max(s.root + max(map(len, s.branches), default=0) for s in sequences)


def _one_kernel_does(sequences: Sequence[PackedSequence], query_BHTD: torch.Tensor) -> bool:
    """Whether flash attention runs here: half precision, an Ampere GPU or later, no branches."""
    width = query_BHTD.shape[-1]
    return (
        query_BHTD.is_cuda
        and _computed_in(query_BHTD).itemsize == 2
        and torch.cuda.get_device_capability(query_BHTD.device) >= (8, 0)
        and width % 8 == 0
        and width <= 256
        and not any(sequence.branches for sequence in sequences)
    )


def _computed_in(tensor: torch.Tensor) -> torch.dtype:
    """The precision of an operation on the tensor, which autocast may lower."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def _attend_roots(
    sequences: Sequence[PackedSequence],
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Sequences without branches in one call of the kernel for several lengths; [B, T, H, D]."""
    lengths = tuple(sequence.root for sequence in sequences)
    bounds = _bounds(lengths, query_BHTD.device)
    query, key, value = (
        tensor[0].transpose(0, 1).to(_computed_in(query_BHTD))  # autocast does not know the kernel
        for tensor in (query_BHTD, key_BKTD, value_BKTD)
    )
    attended = varlen_attn(
        query,
        key,
        value,
        bounds,
        bounds,
        max(lengths),
        max(lengths),
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=True,
    )
    assert isinstance(attended, torch.Tensor)  # a tuple only where more is asked for
    return attended[None]


@lru_cache(maxsize=1)  # once for all layers: a copy to the GPU waits for what it computes
def _bounds(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _attend_sequence(
    sequence: PackedSequence,
    grid_PP: torch.Tensor | None,
    kernel: Callable[..., torch.Tensor],
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    **options: Any,
) -> Iterator[torch.Tensor]:
    """The root's output and each branch's: branches do not see each other, so they run apart."""
    root, *branches = zip(
        *(t.split(sequence.lengths, dim=2) for t in (query_BHTD, key_BKTD, value_BKTD)), strict=True
    )
    _, root_key, root_value = root
    if grid_PP is None:
        # What a causal root is filled up with at its end is seen by none of its tokens.
        query, key, value = (pad(t, (0, 0, 0, -sequence.root % SHAPE)) for t in root)
        attended = kernel(query, key, value, is_causal=True, **options)
        yield attended[:, :, : sequence.root]
    else:
        yield kernel(*root, attn_mask=grid_PP[: sequence.root, : sequence.root], **options)
    for visible, (query, key, value) in zip(sequence.branches, branches, strict=True):
        yield kernel(
            query,
            torch.cat([root_key, key], dim=2),
            torch.cat([root_value, value], dim=2),
            attn_mask=visible if grid_PP is None else _within(visible, sequence.root, grid_PP),
            **options,
        )


def _within(visible: torch.Tensor, root: int, grid_PP: torch.Tensor) -> torch.Tensor:
    """A branch's mask, without what `grid_PP` hides from its tokens' positions."""
    own = visible.sum(dim=1) - 1  # a token sees all that is before it in its string, and itself
    keys = torch.cat([torch.arange(root, device=own.device), own])
    return visible & grid_PP[own[:, None], keys]


def _softmax_attention(
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    *,
    softcap: float | None,
    sinks_H: torch.Tensor | None,
    scale: float | None,
    dropout_p: float,
    is_causal: bool = False,
    attn_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention with capped scores (Gemma 2) or sinks (gpt-oss), for which PyTorch has no kernel."""
    scale = query_BHTD.shape[-1] ** -0.5 if scale is None else scale
    scores = query_BHTD @ key_BHTD.transpose(2, 3) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if is_causal:
        attn_mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    if sinks_H is not None:  # a score that every token has beside those of the keys
        sinks = sinks_H.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], dim=3)
    weights = scores.softmax(dim=3, dtype=torch.float32).to(value_BHTD.dtype)
    return dropout(weights[..., : key_BHTD.shape[2]], dropout_p) @ value_BHTD


def _mask(
    *,
    mask_function: Callable[..., Any],
    attention_mask: torch.Tensor | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> torch.Tensor | None:
    """transformers' mask interface: which positions of a sequence see which [1, 1, P, P].

    Windows and chunks come with `mask_function`; None where every position sees all before it. Without
    the mask of ones that `packed_logits` gives, nothing is known of windows.
    """
    if attention_mask is None or mask_function == causal_mask_function:
        return None
    at = torch.arange(_longest(_packed.get()), device=device)
    grid_PP: torch.Tensor = mask_function(0, 0, at[:, None], at[None, :])
    return None if torch.equal(grid_PP, at[:, None] >= at) else grid_PP[None, None]


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
