"""Checkpoints of a job: model, optimiser, random states and position in the data.

    <folder>/step-<n>/shard-<rank>-….safetensors   each rank's shard
    <folder>/step-<n>/state.json                   the rest, with every SHA-256, sealed by its own; last

torch.distributed.checkpoint writes and reads the tensors, on any number of ranks. A step continues
once they are copied; a thread writes. A job killed at any moment finds a whole checkpoint: one with
a `state.json` whose files match. This module knows nothing about what is trained.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from symtune_pipeline.files import checksums, sealed, sha256, unsealed, write_text
from symtune_pipeline.jobs.ranks import ALONE, Ranks
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.tuning.limits import disk_space
from symtune_pipeline.tuning.trainable import trained

STATE = "state.json"
OTHER = "it is of other settings, inputs or code"
# It says so whenever a job has one rank.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")
FILE_BYTES = 128 << 20  # the library assembles a file in memory before it writes it


@dataclass
class State:
    """How far the job is: steps and tokens done, seconds spent, and the log's rows so far.

    `best` is the step whose checkpoint stays until the end; 0: there is none. It is one like others, so that
    a job goes on from any of them with the best one that its log knows.
    """

    fingerprint: str
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: int = 0
    log: list[dict[str, float | None]] = field(default_factory=list)


class Checkpoints:
    """The newest `keep` checkpoints of a job and its best, in `folder` and in a bucket if one is given.

    Ranks on other machines may have the same folder or one of their own; in the second case only
    the bucket survives a change of machines. All ranks call every method together.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        say: Callable[[str], None],
        ranks: Ranks = ALONE,
        bucket: Bucket | None = None,
    ) -> None:
        self._folder, self._keep, self._say = folder, keep, say
        self._ranks, self._bucket = ranks, bucket
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing the last one."""
        return self._written is not None and not self._written.done()

    def wait(self) -> None:
        """Wait for the last one; raises UserError where the disk is full or the bucket refuses."""
        if self._written is not None:
            self._written.result()

    def save(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
        """Copy everything and begin to write it; waits for the last one before, as `wait` does."""
        self.wait()
        copies = BlockingAsyncStager().stage(_tensors(model, optimizer))
        self._written = self._thread.submit(self._write, copies, asdict(state), _random_states())

    def load(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
    ) -> State | None:
        """Restore the newest whole checkpoint of the same job in place; None where there is none.

        Those that are newer and of no use are removed, with a line for each.
        """
        for step in self._ranks.broadcast(self._steps):
            path = self._folder / f"step-{step}"
            faults = self._ranks.all_gather(self._fault(path, fingerprint))
            if not any(faults):
                return self._read(path, model, optimizer)
            self._say(f"tuning: {path} is passed over: {next(filter(None, faults))}")
            self._remove(path.name)
        return None

    def restore_best(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: State
    ) -> bool:
        """Restore the best checkpoint; False where it is not whole, and a line says so."""
        path = self._folder / f"step-{state.best}"
        found = self._ranks.all_gather(self._fault(path, state.fingerprint))
        faults = list(filter(None, found))
        if faults:
            self._say(
                f"tuning: {path}, the best, is passed over, and the last step's weights are kept:"
                f" {faults[0]}"
            )
        else:
            self._read(path, model, optimizer)
        return not faults

    def remove(self) -> None:
        """Remove all of them, of a job that is finished; for rank 0 alone."""
        for step in self._steps():
            self._remove(f"step-{step}")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _steps(self) -> list[int]:
        """Steps of the checkpoints that were written to their end, newest first."""
        ends = {
            str(path.relative_to(self._folder)) for path in self._folder.glob(f"step-*/{STATE}")
        }
        if self._bucket:
            keys = self._bucket.keys()
            ends |= {key for key in keys if key.endswith(f"/{STATE}")}
        return sorted((int(end.split("/")[0].split("-")[1]) for end in ends), reverse=True)

    def _fault(self, path: Path, fingerprint: str) -> str | None:
        """What is wrong with a checkpoint on this machine, which its first rank finds out."""
        if self._ranks.local:
            return None
        fault = _fault_in(path, fingerprint)
        if self._bucket and fault not in (None, OTHER):
            # What is damaged or lacking here may be whole there.
            self._bucket.download_folder(path.name, path)
            fault = _fault_in(path, fingerprint)
        return fault

    def _read(self, path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
        state_dict_loader.load(
            _tensors(model, optimizer),
            storage_reader=HuggingFaceStorageReader(str(path)),
            process_group=self._ranks.checkpoint_group,
            no_dist=self._ranks.count == 1,
        )
        kept = unsealed((path / STATE).read_bytes())
        if self._ranks.rank < len(kept["random"]):  # else it is of fewer ranks
            _restore_random_states(kept["random"][self._ranks.rank])
        return State(**kept["state"])

    def _write(
        self, tensors: dict[str, torch.Tensor], state: dict[str, Any], random: dict[str, str]
    ) -> None:
        """What the thread does; the ranks' threads communicate in a group of their own."""
        ranks, group, name = self._ranks, self._ranks.checkpoint_group, f"step-{state['step']}"
        path = self._folder / name
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        with disk_space(self._folder, needed):
            if ranks.local == 0:
                shutil.rmtree(path, ignore_errors=True)  # an earlier start was killed in it
            # Machines may share the folder: one makes it when none can remove it any more.
            ranks.barrier(group)
            path.mkdir(parents=True, exist_ok=True)
            writer = HuggingFaceStorageWriter(str(path), _files(tensors), save_distributed=True)
            state_dict_saver.save(
                tensors, storage_writer=writer, process_group=group, no_dist=ranks.count == 1
            )
            shards = path.glob(f"shard-{ranks.rank + 1:05d}-*")
            own = {shard.name: sha256(shard) for shard in shards}
            gathered = ranks.all_gather((own, random), group)
            end = {
                "state": state,
                "files": {name: digest for files, _ in gathered for name, digest in files.items()},
                "random": [random for _, random in gathered],
            }
            if self._bucket and ranks.local == 0:
                self._bucket.upload_folder(path, name)
            ranks.barrier(group)
            if ranks.local == 0:
                write_text(path / STATE, sealed(end))
        if self._bucket and ranks.rank == 0:
            self._bucket.write_text(f"{name}/{STATE}", sealed(end))
        if ranks.local == 0:
            whole = [f"step-{step}" for step in self._steps()]
            present = {*whole, *(folder.name for folder in self._folder.glob("step-*"))}
            for old in present.difference(whole[: self._keep], {f"step-{state['best']}"}):
                self._remove(old)

    def _remove(self, name: str) -> None:
        if self._ranks.local == 0:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        if self._bucket and self._ranks.rank == 0:
            self._bucket.remove_folder(name)


def _fault_in(path: Path, fingerprint: str) -> str | None:
    """What is wrong with the checkpoint of a folder; None for a whole one of the same job."""
    try:
        kept = unsealed((path / STATE).read_bytes())
        if kept["state"]["fingerprint"] != fingerprint:
            return OTHER
        found = checksums(path)
        del found[STATE]
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"it is not whole ({type(error).__name__})"
    # The library reads whatever shards lie there.
    return None if found == kept["files"] else "its files are not those of its checksums"


def _tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What training changes, by name; the optimiser gets its moments first where it has none."""
    # Parameters only: tied weights and buffers are rebuilt by the model itself.
    parameters = {f"model.{name}": parameter.detach() for name, parameter in trained(model).items()}
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    moments: dict[str, Any] = dict(get_optimizer_state_dict(model, optimizer, options=flat))
    tensors = {f"optimizer.{name}": value for name, value in moments.items()}
    return parameters | {name: t for name, t in tensors.items() if isinstance(t, torch.Tensor)}


def _files(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """The number of the file that each tensor goes to."""
    numbers, size = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + size // FILE_BYTES
        size += tensor.numel() * tensor.element_size()
    return numbers


def _random_states() -> dict[str, str]:
    """The states of torch's generators on this rank, in hexadecimal."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {device: state.numpy().tobytes().hex() for device, state in states.items()}


def _restore_random_states(states: dict[str, str]) -> None:
    setters = {"cpu": torch.set_rng_state, "cuda": torch.cuda.set_rng_state}
    for device, state in states.items():
        setters[device](torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8))
