"""The processes that share a job, and how they communicate.

Started once, a job is one rank. Started by torchrun, or where torch.distributed is already set up
(Ray Train), each process is a rank: it keeps a share of every parameter (FSDP2) and takes a share
of every step's blocks. This module knows nothing about what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from symtune_pipeline.tuning.on_one_machine import meeting
from symtune_pipeline.tuning.trainable import decoder_layers, trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the job; all methods but `share_of` are collective."""

    rank: int = 0
    count: int = 1
    local: int = 0  # among those on this machine
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    # Groups on the CPU: for small values between steps, and for the thread that writes checkpoints.
    control_group: dist.ProcessGroup | None = None
    checkpoint_group: dist.ProcessGroup | None = None

    def shard(self, model: PreTrainedModel, values: PreTrainedModel | None, precision: str) -> None:
        """Give this rank its share of every parameter; gradients will be summed over ranks.

        `model` is on the device `meta`, and rank 0 has its `values`. Trained shares are float32. In
        bf16 a layer is gathered and computed in it: autocast would keep copies of all layers, which
        no number of ranks makes smaller.
        """
        mesh = init_device_mesh(self.device.type, (self.count,))
        gathered_in = torch.bfloat16 if precision == "bf16" else None
        policy = MixedPrecisionPolicy(param_dtype=gathered_in, reduce_dtype=torch.float32)
        for module in (*decoder_layers(model), model):
            sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
        model.to_empty(device=self.device)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, values.state_dict() if values else {}, options=options)
        for name, buffer in model.named_buffers():  # a state dict does not have them all
            if values:
                buffer.copy_(values.get_buffer(name))
            dist.broadcast(buffer, 0)

    def share_of(self, blocks: int) -> range:
        """This rank's block numbers; each rank has equally many, so some are beyond the last."""
        return range(self.rank, -(-blocks // self.count) * self.count, self.count)

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """`values` summed over the ranks, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def broadcast(self, compute: Callable[[], T]) -> T:
        """The small value that rank 0 computes; other ranks do not call `compute`."""
        values = [compute()] if self.rank == 0 else [None]
        if self.count > 1:
            dist.broadcast_object_list(values, group=self.control_group)
        return values[0]  # type: ignore[return-value]

    def all_gather(self, value: T, group: dist.ProcessGroup | None = None) -> list[T]:
        """The small values of all ranks, by rank; without a group, in the one between steps."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value, group=group or self.control_group)
        return values

    def barrier(self, group: dist.ProcessGroup | None = None) -> None:
        """Wait until all ranks are here; without a group, in the one between steps."""
        if self.count > 1:
            dist.barrier(group=group or self.control_group)

    def trained_weights(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """What was trained, by name; where there are several ranks, on rank 0 only."""
        if self.count == 1:
            return dict(trained(model))
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=True
        )
        return get_model_state_dict(model, options=options)  # type: ignore[return-value]


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that were started together."""
    cuda = torch.cuda.is_available()
    started = dist.is_torchelastic_launched() and not dist.is_initialized()
    if not (started or dist.is_initialized()):
        yield Ranks(device=torch.device("cuda" if cuda else "cpu"))
        return
    local = dist.get_node_local_rank()
    if cuda:
        torch.cuda.set_device(local)
    if started:
        dist.init_process_group("nccl" if cuda else "gloo", **meeting())
    yield Ranks(
        dist.get_rank(),
        dist.get_world_size(),
        local,
        torch.device("cuda", local) if cuda else torch.device("cpu"),
        dist.new_group(backend="gloo"),
        dist.new_group(backend="gloo"),
    )
    if started:  # after an error the process ends, and others may not answer any more
        dist.destroy_process_group()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of which each rank may hold a part; a call for all ranks at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
