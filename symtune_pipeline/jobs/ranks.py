"""The processes that share a job, and how they communicate.

Started once, a job is one rank. Started by torchrun, or where torch.distributed is already set up
(Ray Train), each process is a rank. This module knows nothing about what they do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from symtune_pipeline.errors import UserError
from symtune_pipeline.jobs.job import Say
from symtune_pipeline.jobs.on_one_machine import meeting

T = TypeVar("T")

# How long a rank waits for another one's word: it may be at work, and where one has died the launcher
# ends all.
WAIT = timedelta(days=7)
PATIENCE = 30  # seconds in which a launcher notices that a rank has died, and ends the others


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

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns on this rank; where it raises UserError on any, all raise the first."""
        done: list[T] = []
        error = None
        try:
            done.append(work())
        except UserError as raised:
            if self.count == 1:
                raise
            error = str(raised)
        errors = [each for each in self.all_gather(error) if each]
        if errors:
            raise UserError(errors[0])
        return done[0]

    def barrier(self, group: dist.ProcessGroup | None = None) -> None:
        """Wait until all ranks are here; without a group, in the one between steps."""
        if self.count > 1:
            dist.barrier(group=group or self.control_group)


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
        dist.new_group(backend="gloo", timeout=WAIT),
        dist.new_group(backend="gloo", timeout=WAIT),
    )
    if started:  # after an error the process ends, and others may not answer any more
        dist.destroy_process_group()


def work_as_rank(folder: Path, say: Say, work: Callable[[Ranks, Say], Path]) -> Path:
    """Work as one of the ranks on what is kept in a folder; only rank 0 speaks."""
    with _without_another(), joined() as ranks:
        if ranks.rank:
            return work(ranks, lambda _: None)
        with only_job(folder, say):
            return work(ranks, say)


@contextmanager
def _without_another() -> Iterator[None]:
    """Where another rank has died, wait for the launcher: it ends all, and says which has died and how.

    Raises UserError where it does not, as where the network is at fault.
    """
    try:
        yield
    except BaseException as error:  # torch's own of a checkpoint is no Exception
        if not _is_lost_connection(error):
            raise
        time.sleep(PATIENCE)
        raise UserError(
            "A rank of the job lost its connection to another one; start the job again, which goes on where"
            " it was."
        ) from error


def _is_lost_connection(error: BaseException) -> bool:
    """Whether another rank is gone; what else a backend complains of is this rank's own fault."""
    # Gloo's are plain RuntimeErrors with the place in its source; NCCL's have one class for every reason.
    said = ("gloo/transport", "ncclRemoteError")
    return isinstance(error, dist.DistNetworkError) or any(words in str(error) for words in said)


@contextmanager
def only_job(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock; it goes with the process, so a killed job never leaves it behind."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        say("waiting for another process that does the same")
        held = lock.acquire()
    with held:
        yield
