"""Tuning in bf16 on a CPU: passes run a copy of the model, steps change weights in float32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_tuning import cut_off, weights
from tiny_models import random_blocks, save_tiny_model, tiny_job
from torch.nn.functional import cosine_similarity

from symtune_pipeline.models.loading import load_model
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.step import Block, block_loss


def losses(config: JobConfig) -> list[float]:
    log = json.loads((run_job(config, print) / "log.json").read_text(encoding="utf-8"))["log"]
    return [row["loss"] for row in log]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_fifty_losses_in_bf16_are_those_in_fp32(optimizer: str, tmp_path: Path) -> None:
    full, half = (
        losses(tiny_job(tmp_path / name, precision=name, optimizer=optimizer, epochs=5))
        for name in ("fp32", "bf16")
    )
    assert len(full) == 50
    assert full[-1] < full[0] - 0.1
    assert half == pytest.approx(full, abs=0.02)
    assert half != full


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_job_in_bf16_that_was_cut_off_ends_in_the_same_bytes(
    optimizer: str, tmp_path: Path
) -> None:
    whole, resumed = (
        tiny_job(tmp_path / name, precision="bf16", optimizer=optimizer)
        for name in ("whole", "resumed")
    )
    run_job(whole, print)
    assert cut_off(resumed)
    run_job(resumed, print)
    assert weights(whole) == weights(resumed)


def test_steps_that_bf16_cannot_tell_are_taken(tmp_path: Path) -> None:
    """Beside a weight of 0.02 bf16 knows nothing of a change below 0.00004."""
    config = tiny_job(tmp_path, precision="bf16", learning_rate=1e-6, warmup_steps=0)
    run_job(config, print)
    before = load_file(config.model_folder / "model.safetensors")
    after = load_file(config.output_folder / "model" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert after[name].dtype == torch.float32
    assert (after[name] != before[name]).float().mean() > 0.9
    assert (after[name] - before[name]).abs().max() < 4e-5


@pytest.mark.parametrize("options", [{"activation_checkpointing": True}, {"compile": True}])
def test_the_copy_runs_as_the_job_asks(options: dict[str, bool], tmp_path: Path) -> None:
    plain, asked = (
        losses(tiny_job(tmp_path / name, precision="bf16", **chosen))
        for name, chosen in (("plain", {}), ("asked", options))
    )
    assert asked == pytest.approx(plain, abs=0.01)


@pytest.mark.parametrize("length", [24, 500, 700])
def test_attention_in_bf16_is_that_in_fp32_to_its_precision(length: int, tmp_path: Path) -> None:
    """Short prompts and those for which PyTorch's kernel is the faster one."""
    folder = save_tiny_model(tmp_path, initializer_range=0.05, max_position_embeddings=1_024)
    (row,) = random_blocks(count=1, prompts=2, length=length).rows(named=True)
    block = Block.from_row(row, "all_labels", len(row["tokens"]) + 7)

    def found(dtype: torch.dtype) -> tuple[float, torch.Tensor]:
        model = load_model(folder, dtype, "cpu")
        loss, _ = block_loss(model, block, "fp32")
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.item(), torch.cat(grads).float()

    full, half = found(torch.float32), found(torch.bfloat16)
    assert half[0] == pytest.approx(full[0], rel=0.01)
    assert cosine_similarity(full[1], half[1], dim=0) > 0.99
