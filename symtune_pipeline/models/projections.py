"""The projections of attention: of queries, keys, values and outputs, and those of values alone.

They are known by the names that transformers gives them. Where values share a matrix with queries and
keys, the rows that make values become a layer of their own, so that they can be trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.pytorch_utils import Conv1D

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.trial import class_name
from symtune_pipeline.sections import Trainable

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# An attention module has a layer of one of these names; the others are its remaining projections.
LEADING = ("q_proj", "c_attn", "kv_b_proj", "query_key_value", "qkv_proj", "Wqkv")
LATENT = ("q_a_proj", "q_b_proj", "q_gate_proj", "kv_a_proj_with_mqa")
PROJECTIONS = (
    *(*LEADING, *LATENT, "k_proj", "v_proj", "o_proj", "out_proj", "dense", "c_proj", "Wo"),
)
# Types of models with one matrix for all three: queries, keys and values one after another, or the
# queries, key and value of each key-value head together.
ONE_AFTER_ANOTHER = ("gpt2", "openai-gpt", "mpt", "phi3")
HEAD_BY_HEAD = ("bloom", "falcon", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "persimmon")


@dataclass(frozen=True)
class Fused:
    """A layer that makes queries, keys and values, and which of its outputs are values, [R]."""

    layer: torch.nn.Module
    rows: torch.Tensor

    def part(self, name: str) -> torch.Tensor:
        """Its weight as [outputs, inputs] or its bias as [outputs]: a view of the parameter."""
        tensor = self.layer.get_parameter(name).detach()
        return tensor.T if isinstance(self.layer, Conv1D) and name == "weight" else tensor


class Divided(torch.nn.Module):
    """A fused layer as two: `value` makes the values and `others` the rest, with the outputs in order."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        weight = fused.part("weight")
        outputs = torch.arange(len(weight))
        rest = outputs[~torch.isin(outputs, fused.rows)]
        self.others, self.value = _layer(fused, rest), _layer(fused, fused.rows)
        self.order: torch.Tensor
        order = torch.cat([rest, fused.rows]).argsort().to(weight.device)
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., outputs], as the fused layer."""
        return torch.cat([self.others(x), self.value(x)], dim=-1).index_select(-1, self.order)


def train_only(model: PreTrainedModel, which: Trainable) -> None:
    """Freeze all but the projections that `which` names, weights and biases; 'all' changes nothing.

    For 'value', fused layers are divided. Raises UserError for a class whose projections are not known.
    """
    if which == "all":
        return
    chosen = _attention(model) if which == "attention" else _values(model)
    model.requires_grad_(False)
    for layer in chosen:
        layer.requires_grad_(True)


@torch.no_grad()
def put_back(model: PreTrainedModel, which: Trainable, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a model the `weights`, by name, of one of which `train_only` let `which` be trained.

    Every parameter that was trained must be there; what else is there is left out.
    """
    fused = _fused(model)
    train_only(model, which)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(weights[name])
    for name, whole in fused.items():
        divided = model.get_submodule(name)
        if isinstance(divided, Divided):
            for part, values in divided.value.named_parameters():
                whole.part(part)[whole.rows] = values
            model.set_submodule(name, whole.layer)


def _attention_modules(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """By name; raises UserError where there is none."""
    found = {
        name: module
        for name, module in model.named_modules()
        if any(getattr(module, leading, None) is not None for leading in LEADING)
    }
    if not found:
        raise UserError(
            f"A model of class {class_name(model)} has no projections of attention of a known name;"
            " set tuning.trainable to all."
        )
    return found


def _attention(model: PreTrainedModel) -> list[torch.nn.Module]:
    return [
        layer
        for module in _attention_modules(model).values()
        for name, child in module.named_children()
        if name in PROJECTIONS
        for layer in child.modules()
        if isinstance(layer, (torch.nn.Linear, Conv1D))
    ]


def _values(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The layers that make values alone, of every attention module; fused ones are divided."""
    fused, chosen = _fused(model), []
    for name, module in _attention_modules(model).items():
        own = [f"{name}.{child}" for child in LEADING if f"{name}.{child}" in fused]
        if isinstance(layer := getattr(module, "v_proj", None), torch.nn.Module):
            chosen.append(layer)
        elif own:
            divided = Divided(fused[own[0]])
            model.set_submodule(own[0], divided)
            chosen.append(divided.value)
        else:
            raise UserError(
                f"The values of a model of class {class_name(model)} have no projection that can be"
                f" told from others (first: {name}); set tuning.trainable to attention or all."
            )
    return chosen


def _fused(model: PreTrainedModel) -> dict[str, Fused]:
    """The layers, by name, that make queries, keys and values at once and whose outputs are known."""
    config = model.config.get_text_config()
    if config.model_type not in (*ONE_AFTER_ANOTHER, *HEAD_BY_HEAD):
        return {}
    heads, values = config.num_attention_heads, _value_heads(config)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = values if config.model_type in HEAD_BY_HEAD else 1
    outputs = torch.arange((heads + 2 * values) * size).reshape(groups, -1)
    rows = outputs[:, -values * size // groups :].flatten()
    return {
        name: fused
        for name, layer in model.named_modules()
        if name.rpartition(".")[2] in LEADING and isinstance(layer, (torch.nn.Linear, Conv1D))
        for fused in [Fused(layer, rows)]
        if len(fused.part("weight")) == outputs.numel()
    }


def _value_heads(config: PretrainedConfig) -> int:
    kind, heads = config.model_type, config.num_attention_heads
    if kind == "phi3":
        return int(config.num_key_value_heads)
    if kind == "falcon" and config.new_decoder_architecture:
        return int(config.num_kv_heads)
    return 1 if kind in ("falcon", "gpt_bigcode") and config.multi_query else int(heads)


def _layer(fused: Fused, rows: torch.Tensor) -> torch.nn.Linear:
    """A layer of some of the outputs."""
    weight = fused.part("weight")
    bias = getattr(fused.layer, "bias", None) is not None
    layer = torch.nn.Linear(weight.shape[1], len(rows), bias, device="meta")
    for part, _ in list(layer.named_parameters()):
        values = fused.part(part)
        own = values[rows.to(values.device)].contiguous()
        layer.register_parameter(part, torch.nn.Parameter(own))
    return layer
