"""A model whose parameters the ranks of a job share (FSDP2).

Each rank keeps a share of every parameter and takes a share of every step's blocks. This module knows
nothing about what is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from symtune_pipeline.jobs.ranks import Ranks
from symtune_pipeline.models.spreading import decoder_layers, fill
from symtune_pipeline.tuning.trainable import trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shard(
    ranks: Ranks, model: PreTrainedModel, values: PreTrainedModel | None, precision: str
) -> None:
    """Give this rank its share of every parameter; gradients will be summed over ranks.

    `model` is on the device `meta`, and rank 0 has its `values`. Trained shares are float32. In
    bf16 a layer is gathered and computed in it: autocast would keep copies of all layers, which
    no number of ranks makes smaller.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    gathered_in = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=gathered_in, reduce_dtype=torch.float32)
    for module in (*decoder_layers(model), model):
        sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
    fill(model, values, ranks.device)


def trained_weights(ranks: Ranks, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What was trained, by name; where there are several ranks, on rank 0 only."""
    if ranks.count == 1:
        return dict(trained(model))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return get_model_state_dict(model, options=options)  # type: ignore[return-value]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of which each rank may hold a part; a call for all ranks at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
