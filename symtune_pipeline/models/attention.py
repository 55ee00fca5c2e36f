"""Attention over packed sequences: several lie one after another in what a model sees as one.

Tuning packs the prompts of a block, scoring packs contexts with their queries and labels; both need
attention to stay inside a sequence. transformers lets a caller name an attention function, so any of
its decoder models can run with this one. This module knows nothing about prompts.

Shapes: B batch (always 1), H heads, K key-value heads, T tokens, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from symtune_pipeline.errors import UserError

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


_packed: ContextVar[Sequence[PackedSequence]] = ContextVar("packed")


@contextmanager
def attending(sequences: Sequence[PackedSequence]) -> Iterator[None]:
    """Within this context a model of `loading.load_model` attends inside each sequence only."""
    token = _packed.set(sequences)
    try:
        yield
    finally:
        _packed.reset(token)


def attending_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For torch's activation checkpointing: contexts of a layer's forward and of its repetition.

    The repetition runs during backward, after `attending` has ended and on CUDA in another thread.
    """
    return nullcontext(), attending(_packed.get())


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
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; returns [B, T, H, D]."""
    for name in ("softcap", "s_aux"):
        if unused.get(name) is not None:
            raise UserError(
                f"Model class {type(module).__name__} uses the attention option '{name}', which"
                " symbol tuning cannot pack; choose another model."
            )
    sequences = _packed.get()
    window = unused.get("sliding_window")
    longest = max(s.root + max(map(len, s.branches), default=0) for s in sequences)
    if window is not None and longest > window:
        raise UserError(
            f"A prompt of {longest} tokens exceeds the model's attention window of {window}; lower"
            " tuning.block_tokens or the number of exemplars."
        )
    if not dropout and _one_kernel_does(sequences, query_BHTD):
        return _attend_roots(sequences, query_BHTD, key_BKTD, value_BKTD, scaling), None
    grouped = query_BHTD.is_cpu  # CUDA's kernels for float32 and for masks know no groups of heads
    if not grouped:  # then K is H from here on
        groups = query_BHTD.shape[1] // key_BKTD.shape[1]
        key_BKTD = key_BKTD.repeat_interleave(groups, dim=1)
        value_BKTD = value_BKTD.repeat_interleave(groups, dim=1)
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": grouped}
    lengths = [sum(sequence.lengths) for sequence in sequences]
    qkv = (t.split(lengths, dim=2) for t in (query_BHTD, key_BKTD, value_BKTD))
    attended = [
        output
        for sequence, *own in zip(sequences, *qkv, strict=True)
        for output in _attend_sequence(sequence, *own, **options)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


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
    # What a causal root is filled up with at its end is seen by none of its tokens.
    query, key, value = (pad(t, (0, 0, 0, -sequence.root % SHAPE)) for t in root)
    attended = scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    yield attended[:, :, : sequence.root]
    for visible, (query, key, value) in zip(sequence.branches, branches, strict=True):
        yield scaled_dot_product_attention(
            query,
            torch.cat([root_key, key], dim=2),
            torch.cat([root_value, value], dim=2),
            attn_mask=visible,
            **options,
        )


def _no_mask(*_: Any, **__: Any) -> None:
    """The packed sequences say who sees whom, so transformers need not build a mask."""


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _no_mask)
