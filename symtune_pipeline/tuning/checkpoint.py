"""Checkpoints of a job: model, optimiser and place in the data, as safetensors and JSON.

A checkpoint is written into a folder beside and renamed, then older ones go: a job killed at any
moment finds a whole one. This module knows nothing about what is trained.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


@dataclass
class State:
    """How far the job is: steps and tokens done, seconds spent, and the log's rows so far."""

    fingerprint: str
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    log: list[dict[str, float | None]] = field(default_factory=list)


def save_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: State
) -> None:
    """Write `folder`/step-<n> and remove older checkpoints."""
    final = folder / f"step-{state.step}"
    beside = folder / ".writing"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    # Parameters only: tied weights and buffers are rebuilt by the model itself.
    save_file(
        {name: p.detach().contiguous() for name, p in model.named_parameters()},
        beside / "model.safetensors",
    )
    moments = {
        f"{index}/{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if torch.is_tensor(value)
    }
    save_file(moments, beside / "optimizer.safetensors")
    (beside / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.rename(beside, final)
    for old in folder.glob("step-*"):
        if old != final:
            shutil.rmtree(old)


def load_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> State | None:
    """Restore the newest checkpoint of the same job in place; None where there is none."""
    for path in sorted(
        folder.glob("step-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True
    ):
        state = State(**json.loads((path / "state.json").read_text(encoding="utf-8")))
        if state.fingerprint != fingerprint:
            continue
        weights = load_file(path / "model.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(path / "optimizer.safetensors").items():
            index, name = key.split("/")
            moments.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return state
    return None
