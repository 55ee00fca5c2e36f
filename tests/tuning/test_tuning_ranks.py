"""Several ranks train what one does, and go on from each other's checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from test_tuning import cut_off
from tiny_models import HELD_OUT, save_tiny_model, tiny_job

from symtune_pipeline.sections import Lora
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.trainable import load_trainable

pytestmark = pytest.mark.slow


def run_on(ranks: int, config: JobConfig) -> None:
    """Run a job to its end."""
    assert on_ranks(ranks, config.output_folder.parent / "meeting", run_job, config, print) == (
        [None] * ranks
    )


def assert_equal(found: JobConfig, expected: JobConfig) -> None:
    """The same losses and weights, to rounding."""
    logs = [json.loads((c.output_folder / "model/log.json").read_text()) for c in (found, expected)]
    for row, other in zip(logs[0]["log"], logs[1]["log"], strict=True):
        for column in ("loss", "accuracy", "gradient_norm", "tokens"):
            assert row[column] == pytest.approx(other[column], rel=1e-4), column
    weights = [load_file(c.output_folder / "model/model.safetensors") for c in (found, expected)]
    for name, weight in weights[1].items():
        assert (weights[0][name] - weight).abs().max() < 1e-4


# Three blocks a step and two in the last: with two ranks, one of them often has none of its own.
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_two_ranks_train_what_one_does(optimizer: str, tmp_path: Path) -> None:
    one, two = (
        tiny_job(tmp_path / name, optimizer=optimizer, tokens_per_step=120, epochs=2)
        for name in ("one", "two")
    )
    run_job(one, print)
    run_on(2, two)
    assert_equal(two, one)


def test_two_ranks_train_a_model_that_cannot_be_packed(tmp_path: Path) -> None:
    """The rank that reads no weights is told to run prompt by prompt too."""
    one, two = (tiny_job(tmp_path / name, tokens_per_step=120) for name in ("one", "two"))
    for config in (one, two):
        save_tiny_model(config.model_folder, "lfm2", layer_types=["conv", "full_attention"])
    run_job(one, print)
    run_on(2, two)
    assert_equal(two, one)
    summaries = [json.loads((c.output_folder / "model/log.json").read_text()) for c in (one, two)]
    assert all(summary["attention"].startswith("plain (Lfm2ForCausalLM") for summary in summaries)


def test_two_ranks_train_a_tied_embedding_once(tmp_path: Path) -> None:
    one, two = (tiny_job(tmp_path / name, epochs=2) for name in ("one", "two"))
    for config in (one, two):
        save_tiny_model(config.model_folder, tie_word_embeddings=True)
    run_job(one, print)
    run_on(2, two)
    assert_equal(two, one)
    assert "lm_head.weight" not in load_file(two.output_folder / "model/model.safetensors")


@pytest.mark.parametrize("part", [{}, {"lora": Lora(rank=4)}, {"trainable": "value"}])
def test_a_rank_that_reads_no_weights_has_the_same_parameters(
    part: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_job(tmp_path, **part)
    save_tiny_model(config.model_folder, "phi3")
    read, empty = (load_trainable(config, "bf16", device) for device in ("cpu", "meta"))
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    kinds = [
        {name: (p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters()}
        for model in (read, empty)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("part", [{}, {"lora": Lora(rank=4)}, {"trainable": "value"}])
def test_two_ranks_in_bf16_train_what_one_does_to_its_precision(
    part: dict[str, Any], tmp_path: Path
) -> None:
    short = {"precision": "bf16", "steps": 4, "checkpoint_seconds": 1_000}
    one, two = (tiny_job(tmp_path / name, **short, **part) for name in ("one", "two"))
    for config in (one, two):  # whose values are a part of one matrix
        save_tiny_model(config.model_folder, "phi3")
    run_job(one, print)
    run_on(2, two)
    losses = [
        [row["loss"] for row in json.loads(path.read_text())["log"] if row.get("loss") is not None]
        for path in (c.output_folder / "model/log.json" for c in (two, one))
    ]
    assert len(losses[0]) > 2
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    weights, base = (
        load_file(folder / "model.safetensors")
        for folder in (two.output_folder / "model", two.model_folder)
    )
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    changed = {name for name in base if not torch.equal(base[name], weights[name])}
    assert len(changed) == (2 if "trainable" in part else 8 if "lora" in part else len(base))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_a_job_goes_on_with_another_number_of_ranks(
    before: int, after: int, tmp_path: Path
) -> None:
    undisturbed = tiny_job(tmp_path / "undisturbed", optimizer="adafactor")
    config = tiny_job(tmp_path / "changing", optimizer="adafactor")
    run_on(max(before, after), undisturbed)
    assert cut_off(config, lambda c: on_ranks(before, tmp_path / "meeting", run_job, c, print)[0])
    run_on(after, config)
    assert_equal(config, undisturbed)
    if before == after:
        weights = [c.output_folder / "model/model.safetensors" for c in (config, undisturbed)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_two_ranks_measure_what_one_does_and_keep_the_same_step(tmp_path: Path) -> None:
    one, two = (
        tiny_job(
            tmp_path / name, held_out=tmp_path / name / HELD_OUT, keep="best", learning_rate=0.02
        )
        for name in ("one", "two")
    )
    run_job(one, print)
    run_on(2, two)
    logs = [json.loads((c.output_folder / "model/log.json").read_text())["log"] for c in (one, two)]
    kept = [[row["step"] for row in log if row["kept"]] for log in logs]
    assert kept[0] == kept[1] != [10]
    measured = [[row for row in log if "symbol_accuracy" in row] for log in logs]
    assert len(measured[0]) == 5
    for row, other in zip(*measured, strict=True):
        for column in ("symbol_accuracy", "first_token_loss", "later_token_loss"):
            assert row[column] == pytest.approx(other[column], rel=1e-3), column
    weights = [load_file(c.output_folder / "model/model.safetensors") for c in (one, two)]
    for name, weight in weights[1].items():
        assert (weights[0][name] - weight).abs().max() < 1e-3


def run_on_a_machine_of_its_own(config: JobConfig) -> None:
    """The second machine takes longer to remove a folder."""
    if os.environ["LOCAL_RANK"] == "1":
        remove = shutil.rmtree
        shutil.rmtree = lambda *args, **options: (remove(*args, **options), time.sleep(0.1))
    os.environ["LOCAL_RANK"] = "0"
    run_job(config, print)


def test_machines_that_share_a_folder_do_not_remove_each_others_checkpoints(
    tmp_path: Path,
) -> None:
    config = tiny_job(tmp_path)
    assert on_ranks(2, tmp_path / "meeting", run_on_a_machine_of_its_own, config) == [None, None]
    assert (config.output_folder / "model/model.safetensors").exists()


def test_more_ranks_than_blocks_in_a_step_say_what_to_change(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, tokens_per_step=40)
    said = on_ranks(2, tmp_path / "meeting", run_job, config, print)
    assert (
        said
        == [
            "2 processes were started for steps of 1 blocks; start fewer, or set"
            " tuning.tokens_per_step to 80 or more."
        ]
        * 2
    )


@pytest.mark.slow
def test_a_job_under_torchrun_uses_all_ranks(tmp_path: Path) -> None:
    one, two = (tiny_job(tmp_path / name) for name in ("one", "two"))
    run_job(one, print)
    path = tmp_path / "job.json"
    path.write_text(two.model_dump_json(), encoding="utf-8")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    job = ["-m", "symtune_pipeline.tuning", "--config", str(path)]
    ended = subprocess.run(
        [sys.executable, "-m", *launcher, *job], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len([line for line in ended.stdout.splitlines() if "100%" in line]) == 1
    assert_equal(two, one)
