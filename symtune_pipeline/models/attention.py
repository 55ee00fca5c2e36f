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
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import dropout, pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from symtune_pipeline.models import kernel
from symtune_pipeline.models.packing import Pack, PackedSequence
from symtune_pipeline.models.plain import run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "symtune_packed"
SHAPE = 64  # roots of every length run as multiples of it: CPU kernels are kept per shape
# Up to so many tokens two products and a softmax take 0.4 to 0.6 of the time of PyTorch's CPU kernel in
# bf16, backward included (measured with AVX-512 and 9 heads of 64).
SHORT = 512
NOTHING = Pack((), torch.device("cpu"))

_packed: ContextVar[Pack] = ContextVar("packed")


@contextmanager
def attending(pack: Pack) -> Iterator[None]:
    """Within this context a model whose attention is `NAME` attends inside each sequence only."""
    token = _packed.set(pack)
    try:
        yield
    finally:
        _packed.reset(token)


def attending_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For torch's activation checkpointing: contexts of a layer's forward and of its repetition.

    The repetition runs during backward, after `attending` has ended and on CUDA in another thread.
    """
    return nullcontext(), attending(_packed.get(NOTHING))


def packed_logits(
    model: PreTrainedModel,
    tokens_T: torch.Tensor,
    positions_T: torch.Tensor,
    sequences: Sequence[PackedSequence],
    keep_N: torch.Tensor,
) -> torch.Tensor:
    """What a model whose attention is `NAME` predicts after the tokens `keep_N` of a pack [N, V]."""
    pack = Pack(sequences, tokens_T.device)
    with attending(pack):
        return run(
            model,
            keep_N,
            **_known_to_layers(model, pack),
            input_ids=tokens_T[None],
            position_ids=positions_T[None],
            # With it transformers makes nothing of positions that begin anew; `_mask` wants that.
            attention_mask=torch.ones_like(tokens_T)[None],
        )[0]


def _known_to_layers(model: PreTrainedModel, pack: Pack) -> dict[str, Any]:
    """transformers' names for the bounds of prompts, where the kernel needs nothing but them.

    They reach a layer as arguments, so that it is compiled as a whole.
    """
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature(model.forward).parameters.values())
    if not (takes_any and kernel.runs_on(pack.device)) or pack.seen:
        return {}
    bounds, longest = pack.runs
    torch._dynamo.mark_dynamic(bounds, 0)  # else compiled twice: for the first pack, and for any
    return {"cu_seq_lens_q": bounds, "max_length_q": longest}


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
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; returns [B, T, H, D].

    `attention_mask` is what `_mask` returned; raises ValueError for a class that made its own.
    """
    qkv = query_BHTD, key_BKTD, value_BKTD
    usual = not (softcap is not None or s_aux is not None or dropout or attention_mask is not None)
    if usual and cu_seq_lens_q is not None and max_length_q is not None and kernel.takes(*qkv):
        return kernel.attend_runs(cu_seq_lens_q, max_length_q, *qkv, scaling)[0][None], None
    found: tuple[torch.Tensor, None] = _attend_in_pack(
        module, *qkv, attention_mask, usual, scaling, dropout, softcap, s_aux
    )
    return found


# Its shapes are new in every block; what surrounds it is compiled once.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_in_pack(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    usual: bool,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> tuple[torch.Tensor, None]:
    """As `_attend`; `usual` is plain causal attention, without caps, sinks, dropout and windows."""
    pack = _packed.get()
    if attention_mask is not None and attention_mask.shape != (1, 1, pack.longest, pack.longest):
        raise ValueError(f"{type(module).__name__} makes an attention mask of its own")
    if usual and kernel.runs_on(pack.device) and kernel.takes(query_BHTD, key_BKTD, value_BKTD):
        return kernel.attend(pack, query_BHTD, key_BKTD, value_BKTD, scaling), None
    exact = softcap is not None or s_aux is not None
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
    attention: Callable[..., torch.Tensor] = (
        _softmax_attention if exact else scaled_dot_product_attention
    )
    # Fake tensors stand for those of any device (`sizing`), and nothing may be kept of them.
    on_cpu = query_BHTD.is_cpu and not isinstance(query_BHTD, FakeTensor)
    if usual and on_cpu and kernel.computed_in(query_BHTD) == torch.bfloat16:
        attention, options = _short_attention, {"scale": scaling}
    grid_PP = None if attention_mask is None else attention_mask[0, 0]
    qkv = (t.split(pack.lengths, dim=2) for t in (query_BHTD, key_BKTD, value_BKTD))
    attended = [
        output
        for sequence, masks, *own in zip(pack.sequences, pack.masks, *qkv, strict=True)
        for output in _attend_sequence(sequence, masks, grid_PP, attention, *own, **options)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _attend_sequence(
    sequence: PackedSequence,
    masks: Sequence[torch.Tensor],
    grid_PP: torch.Tensor | None,
    attention: Callable[..., torch.Tensor],
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
        attended = attention(query, key, value, is_causal=True, **options)
        yield attended[:, :, : sequence.root]
    else:
        yield attention(*root, attn_mask=grid_PP[: sequence.root, : sequence.root], **options)
    for visible, (query, key, value) in zip(masks, branches, strict=True):
        yield attention(
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


def _short_attention(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    *,
    scale: float | None,
    is_causal: bool = False,
    attn_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention as plain products, for short sequences on a CPU in bf16."""
    _, heads, length, width = query_BHTD.shape
    groups = key_BKTD.shape[1]
    if not is_causal or length > SHORT:
        return scaled_dot_product_attention(
            query_BHTD,
            key_BKTD,
            value_BKTD,
            attn_mask,
            0.0,
            is_causal,
            scale=scale,
            enable_gqa=True,
        )
    # Queries that share a key-value head are rows of one product.
    query = query_BHTD.reshape(groups, -1, width)
    hidden = _hidden(length, heads // groups, query.dtype).expand(groups, -1, -1)
    scale = width**-0.5 if scale is None else scale
    scores = torch.baddbmm(hidden, query, key_BKTD[0].transpose(1, 2), alpha=scale)
    return (scores.softmax(dim=2) @ value_BKTD[0]).view(1, heads, length, value_BKTD.shape[-1])


@lru_cache(maxsize=64)
def _hidden(length: int, repeats: int, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores: minus infinity for keys that come later [1, repeats * length, length]."""
    with torch.inference_mode(False):  # it may be kept for a pass that learns
        later = torch.full((length, length), float("-inf"), dtype=dtype).triu(1)
        return later.repeat(repeats, 1)[None]


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
    at = torch.arange(_packed.get().longest, device=device)
    grid_PP: torch.Tensor = mask_function(0, 0, at[:, None], at[None, :])
    return None if torch.equal(grid_PP, at[:, None] >= at) else grid_PP[None, None]


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
