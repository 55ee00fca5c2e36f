"""A model that several ranks hold together, because it does not fit one.

With tensor parallelism each rank keeps and computes a share of every matrix, as the plan of the model's
class in transformers says. With FSDP2 each rank keeps a share and computes everything, gathering one layer
after another. This module knows nothing about what the model is asked or taught.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The dimensions by which transformers looks a mesh up; before them stand the models that are held.
MODELS, TENSOR = "models", "tp"
DIMENSIONS = (MODELS, "pp", "fsdp", TENSOR)


def mesh_of(device: str, ranks: int, together: int) -> DeviceMesh:
    """All ranks of a job, neighbours of which hold a model `together`; a call for all at once."""
    return init_device_mesh(device, (ranks // together, 1, 1, together), mesh_dim_names=DIMENSIONS)


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The repeated layers of a transformers model, in order."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def why_not_tensor_parallel(model: PreTrainedModel, ranks: int) -> str | None:
    """What keeps so many ranks from sharing the model's matrices; None where nothing is known to.

    A head is computed on one rank, so each takes equally many.
    """
    name = type(model).__name__
    if not model.tp_plan:
        return f"{name} has no plan for tensor parallelism"
    for layer in model.config.get_text_config().per_layer_config:
        for kind, words in (
            ("num_attention_heads", "attention heads"),
            ("num_key_value_heads", "key-value heads"),
        ):
            heads = getattr(layer, kind, None)
            if heads and heads % ranks:
                return f"{name} has {heads} {words}, which {ranks} ranks cannot share evenly"
    return None


def share_matrices(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Give this rank its share of a model on the device `meta`, by the plan of its class."""
    from transformers.distributed.configuration_utils import DistributedConfig
    from transformers.distributed.utils import TransformersDeviceMesh

    for name in model.all_tied_weights_keys:  # the plan names both, and cuts each
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        module.register_parameter(own, torch.nn.Parameter(module.get_parameter(own).clone()))
    config = DistributedConfig(tp_size=mesh[TENSOR].size(), tp_plan="auto")
    # Experts are cut like other matrices: the second mesh is for a way that is not asked for.
    type(model).maybe_distribute_model(model, config, TransformersDeviceMesh(mesh, mesh))


def share_layers(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Give this rank its share of every parameter of a model on the device `meta` (FSDP2)."""
    for module in (*decoder_layers(model), model):
        fully_shard(module, mesh=mesh[TENSOR])


def take_types(model: PreTrainedModel, types: Mapping[str, torch.dtype]) -> None:
    """Parameters of a model on `meta` as they are loaded: some stay float32 in any precision."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.data = parameter.data.to(types[name])


@torch.no_grad()
def fill(model: PreTrainedModel, values: PreTrainedModel | None, device: torch.device) -> None:
    """Fill the shares of all ranks of a job with the `values` that rank 0 has, on a CPU."""
    model.to_empty(device=device)
    whole = _tensors(values) if values else {}
    for name, share in _tensors(model).items():
        if values:
            full = whole[name].detach().to(device)
        else:
            full = torch.empty(share.shape, dtype=share.dtype, device=device)
        dist.broadcast(full, 0)
        if isinstance(share, DTensor):
            cut = distribute_tensor(full, share.device_mesh, share.placements, src_data_rank=None)
            share.to_local().copy_(cut.to_local())
        else:
            share.copy_(full)


def _tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; a state dict does not have all buffers."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    return tensors | dict(model.named_buffers(remove_duplicate=False))
