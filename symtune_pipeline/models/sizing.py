"""How large a model is while it is tuned or asked, counted on its real class without holding a weight.

Parameters are counted on the meta device. What the forward pass keeps for the backward pass is
counted on fake tensors, which have shapes but no data, for one and for two decoder layers; what it has
at once where nothing is kept, for one layer. This module knows nothing about machines.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from symtune_pipeline.errors import UserError, brief
from symtune_pipeline.sections import Trainable

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

PROBE_TOKENS = 512


@dataclass(frozen=True)
class Matrices:
    """How many numbers of matrices a token is multiplied with, and how many of them are tuned."""

    layers: int
    layers_tuned: int
    lm_head: int
    lm_head_tuned: int
    attention_width: int  # of all heads of all layers

    def flops(
        self, tokens: float, squares: float, targets: float, recomputed: bool = False
    ) -> float:
        """Floating-point operations of training on so many tokens and targets.

        `squares` is the sum of the squared lengths of the prompts. A number of a matrix costs two
        per token forward, two for the gradient of its input, and two for its own where it is tuned:
        6·N·tokens where all are. The LM head counts at targets only, and causal attention with the
        half of the scores that it keeps. `recomputed` layers cost their forward pass once more, as
        with activation checkpointing.
        """
        again = 2 if recomputed else 0
        in_layers = tokens * ((4 + again) * self.layers + 2 * self.layers_tuned)
        in_head = targets * (4 * self.lm_head + 2 * self.lm_head_tuned)
        in_attention = (6 + again) * self.attention_width * squares
        return float(in_layers + in_head + in_attention)


@dataclass(frozen=True)
class Sizes:
    """Counts of a model; bytes are per token of a block."""

    shapes: Sequence[tuple[int, ...]]  # of all parameters
    tuned: Sequence[tuple[int, ...]]  # of those that are tuned where no adapters are
    linear: Sequence[tuple[int, int]]  # of the decoder layers' matrices, [out, in]
    layers: int
    layer_parameters: int
    vocabulary: int
    width: int  # of the residual stream
    attention_width: int  # of all heads of all layers
    layer_bytes: float  # kept by a decoder layer for its backward pass
    other_bytes: float  # kept outside the layers, but for logits
    residual_bytes: float  # the input of a layer

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(map(prod, self.shapes))

    @property
    def layer_matrices(self) -> int:
        """Numbers in the decoder layers' matrices: each is multiplied with once per token."""
        return sum(map(prod, self.linear))

    @property
    def lm_head(self) -> int:
        """Numbers in the LM head, tied or not: multiplied with once per target."""
        return self.vocabulary * self.width

    def matrices(self, lora_rank: int | None) -> Matrices:
        """What is multiplied and tuned: everything, some projections, or adapters of that rank."""
        if lora_rank is None and self.tuned == self.shapes:
            both = self.layer_matrices, self.layer_matrices
            return Matrices(*both, self.lm_head, self.lm_head, self.attention_width)
        if lora_rank is None:
            both = self.layer_matrices, sum(prod(shape) for shape in self.tuned if len(shape) > 1)
            return Matrices(*both, self.lm_head, 0, self.attention_width)
        adapters = sum(map(prod, self.adapters(lora_rank)))
        both = self.layer_matrices + adapters, adapters
        return Matrices(*both, self.lm_head, 0, self.attention_width)

    def adapters(self, rank: int) -> list[tuple[int, int]]:
        """Shapes of LoRA adapters beside the decoder layers' matrices (Hu et al. 2021)."""
        return [shape for out, into in self.linear for shape in ((rank, into), (out, rank))]


def sizes_of(
    architecture: dict[str, Any], *, bf16: bool, halved: bool, trainable: Trainable = "all"
) -> Sizes:
    """Count a model of the catalogue of which `trainable` is tuned.

    `bf16` is the precision of its multiplications; `halved` weights are in that precision too when
    they are multiplied with, and so is the residual stream; others are fp32, which autocast copies.
    Raises UserError for a class that does not run on fake tensors, or not with so few layers, and where
    `train_only` does.
    """
    try:
        return _counted(architecture, bf16, halved, trainable)
    except UserError:
        raise
    except Exception as error:  # whatever a class may raise
        raise UserError(
            f"A model of type '{architecture['model_type']}' cannot be counted without its weights"
            f" ({brief(error)}); tune it for a few steps instead, whose log says what it takes."
        ) from error


def _counted(architecture: dict[str, Any], bf16: bool, halved: bool, trainable: Trainable) -> Sizes:
    import torch
    from torch.nn import Linear

    from symtune_pipeline.models.projections import train_only

    model = _skeleton(architecture, torch.float32, "meta")
    head = model.get_output_embeddings()
    one, two = (_kept_per_token(architecture, n, bf16, halved, trainable) for n in (1, 2))
    one_layer = _skeleton(architecture | {"num_hidden_layers": 1}, torch.float32, "meta")
    parameters = sum(p.numel() for p in model.parameters())
    layers = model.config.num_hidden_layers
    others = sum(p.numel() for p in one_layer.parameters())
    shapes = [tuple(p.shape) for p in model.parameters()]
    linear = [
        (m.out_features, m.in_features)
        for m in model.modules()
        if isinstance(m, Linear) and m is not head
    ]
    train_only(model, trainable)
    return Sizes(
        shapes=shapes,
        tuned=[tuple(p.shape) for p in model.parameters() if p.requires_grad],
        linear=linear,
        layers=layers,
        layer_parameters=(parameters - others) // (layers - 1),
        vocabulary=head.weight.shape[0],
        width=head.weight.shape[1],
        attention_width=attention_width(model.config),
        layer_bytes=two - one,
        other_bytes=one - (two - one),
        residual_bytes=head.weight.shape[1] * (2 if bf16 and halved else 4),
    )


@dataclass(frozen=True)
class Asked:
    """Counts of a model that answers; bytes are in the precision that it answers in."""

    parameters: int
    layers: int
    layer_parameters: int
    vocabulary: int
    lm_head: int  # numbers in it, tied or not
    number: int  # bytes of one
    token_bytes: float  # that a pass has at once, per token
    cache_bytes: int  # keys and values of all layers, per token
    why_not_cut: Callable[[int], str | None]  # by tensor parallelism, over so many ranks

    @property
    def weights(self) -> int:
        """Bytes of all."""
        return self.number * self.parameters

    @property
    def gathered(self) -> int:
        """Bytes that a rank has whole at once with FSDP2: two layers, and what lies outside layers."""
        outside = self.parameters - self.layers * self.layer_parameters
        return self.number * (2 * self.layer_parameters + outside)


def asked_sizes(architecture: dict[str, Any], *, bf16: bool) -> Asked:
    """Count a model that answers in bf16, or in fp32; raises UserError as `sizes_of` does."""
    try:
        return _asked(architecture, bf16)
    except Exception as error:  # whatever a class may raise
        raise UserError(
            f"A model of type '{architecture['model_type']}' cannot be counted without its weights"
            f" ({brief(error)}); set evaluation.ranks_per_model to a number."
        ) from error


def _asked(architecture: dict[str, Any], bf16: bool) -> Asked:
    import torch

    from symtune_pipeline.models.spreading import why_not_tensor_parallel

    model = _skeleton(architecture, torch.float32, "meta")
    one_layer = architecture | {"num_hidden_layers": 1}
    small = _skeleton(one_layer, torch.float32, "meta")
    parameters, others = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    config = model.config.get_text_config()
    layers = config.num_hidden_layers
    number = 2 if bf16 else 4
    few, many = (_at_once(one_layer, tokens, bf16) for tokens in (PROBE_TOKENS, 2 * PROBE_TOKENS))
    return Asked(
        parameters=parameters,
        layers=layers,
        layer_parameters=(parameters - others) // max(1, layers - 1),
        vocabulary=model.get_output_embeddings().weight.shape[0],
        lm_head=model.get_output_embeddings().weight.numel(),
        number=number,
        token_bytes=(many - few) / PROBE_TOKENS,
        cache_bytes=2 * number * _key_value_width(config),
        why_not_cut=partial(why_not_tensor_parallel, model),
    )


def _key_value_width(config: PretrainedConfig) -> int:
    """Numbers of all key heads of all layers."""
    width = 0
    for layer in config.per_layer_config:
        heads = getattr(layer, "num_attention_heads", 0)
        if heads:
            size = getattr(layer, "head_dim", None) or layer.hidden_size // heads
            width += (getattr(layer, "num_key_value_heads", None) or heads) * size
    return width


def _at_once(architecture: dict[str, Any], tokens: int, bf16: bool) -> int:
    """The most bytes that the tensors of a pass take at once, while no gradient is wanted."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from symtune_pipeline.models.attention import attending
    from symtune_pipeline.models.packing import Pack, PackedSequence

    prompts = [PackedSequence(PROBE_TOKENS)] * (tokens // PROBE_TOKENS)
    with FakeTensorMode():
        model = _skeleton(architecture, torch.bfloat16 if bf16 else torch.float32, "cpu").eval()
        pack = Pack(prompts, torch.device("cpu"))
        with torch.no_grad(), attending(pack), at_once(model.parameters()) as most:
            model(
                input_ids=torch.zeros(1, tokens, dtype=torch.long),
                position_ids=torch.arange(tokens)[None],
                logits_to_keep=torch.arange(1),
                use_cache=False,
            )
    return most()


@contextmanager
def at_once(before: Iterable[torch.Tensor] = ()) -> Iterator[Callable[[], int]]:
    """Gives the most bytes that the tensors made within it have taken at once, beside those `before`."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    now = most = 0
    # Of a storage the tensors that have it.
    holders = Counter(tensor.untyped_storage()._cdata for tensor in before)

    def gone(key: int, size: int) -> None:
        nonlocal now
        holders[key] -= 1
        if not holders[key]:
            now -= size

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal now, most
            made = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    key, size = storage._cdata, storage.nbytes()
                    now += 0 if holders[key] else size
                    holders[key] += 1
                    weakref.finalize(tensor, gone, key, size)
            most = max(most, now)
            return made

    with Watching():
        yield lambda: most


def attention_width(config: PretrainedConfig) -> int:
    """Numbers of all heads of all layers; 0 where no layer attends, as in a Mamba."""
    width = 0
    for layer in config.get_text_config().per_layer_config:
        heads = getattr(layer, "num_attention_heads", 0)
        if heads:
            width += heads * (getattr(layer, "head_dim", None) or layer.hidden_size // heads)
    return width


def _kept_per_token(
    architecture: dict[str, Any], layers: int, bf16: bool, halved: bool, trainable: Trainable
) -> float:
    """Bytes that a token more in the block makes the forward pass keep."""
    few, many = (
        _kept(architecture | {"num_hidden_layers": layers}, tokens, bf16, halved, trainable)
        for tokens in (PROBE_TOKENS, 2 * PROBE_TOKENS)
    )
    # The difference leaves out what does not grow with the block: bf16 copies of weights, logits.
    return (many - few) / PROBE_TOKENS


def _kept(
    architecture: dict[str, Any], tokens: int, bf16: bool, halved: bool, trainable: Trainable
) -> int:
    """Bytes that the forward pass of a block keeps for the backward pass, without the weights."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.autograd.graph import saved_tensors_hooks

    from symtune_pipeline.models.attention import attending
    from symtune_pipeline.models.packing import Pack, PackedSequence
    from symtune_pipeline.models.projections import train_only

    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    # Prompts of a length that every window of attention takes: what is kept grows with tokens alone.
    prompts = [PackedSequence(PROBE_TOKENS)] * (tokens // PROBE_TOKENS)
    with FakeTensorMode():
        model = _skeleton(architecture, torch.bfloat16 if bf16 and halved else torch.float32, "cpu")
        train_only(model, trainable)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            attending(Pack(prompts, torch.device("cpu"))),
            autocast,
        ):
            model(
                input_ids=torch.zeros(1, tokens, dtype=torch.long),
                position_ids=torch.arange(tokens)[None],
                logits_to_keep=torch.arange(1),
                use_cache=False,
            )
        for parameter in model.parameters():
            kept.pop(parameter.untyped_storage()._cdata, None)
        return sum(storage.nbytes() for storage in kept.values())


def _skeleton(architecture: dict[str, Any], dtype: torch.dtype, device: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from symtune_pipeline.models.attention import NAME

    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**architecture), attn_implementation=NAME, dtype=dtype
        ).train()
