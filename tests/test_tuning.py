"""The fine-tune job: what it trains on, and that it may be killed at any moment."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from models import random_blocks, reference_logprobs, reference_model, save_tiny_model, tiny_job

from symtune_pipeline.attention import load_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import LossName
from symtune_pipeline.storage import sha256
from symtune_pipeline.tuning.checkpoint import State, load_checkpoint, save_checkpoint
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import make_optimizer, run_job, train
from symtune_pipeline.tuning.order import step_plan
from symtune_pipeline.tuning.step import Block, block_loss


def start(config: JobConfig) -> subprocess.Popen[str]:
    """The job as a launcher starts it."""
    config.output_folder.mkdir(parents=True, exist_ok=True)
    path = config.output_folder / "job.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "symtune_pipeline.tuning", "--config", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(config: JobConfig) -> tuple[int, list[str]]:
    """The job's exit status and its lines."""
    job = start(config)
    output, _ = job.communicate()
    return job.returncode, output.splitlines()


def weights(config: JobConfig) -> str:
    return sha256(config.output_folder / "model" / "model.safetensors")


# --- the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gpt2"])
@pytest.mark.parametrize(("loss", "kinds"), [("all_labels", {1, 2}), ("final_label", {2})])
def test_the_loss_of_a_block_is_that_of_its_prompts_run_alone(
    loss: LossName, kinds: set[int], architecture: str, tmp_path: Path
) -> None:
    save_tiny_model(tmp_path, architecture)
    (row,) = random_blocks(count=1, prompts=4, length=24).rows(named=True)
    packed = load_model(tmp_path, torch.float32, "cpu").eval()
    found, right = block_loss(packed, Block.from_row(row, loss, len(row["tokens"]) + 7), "fp32")
    found.backward()

    alone = reference_model(tmp_path)
    expected = torch.zeros(())
    best = 0
    start = 0
    for length in row["prompt_lengths"]:
        tokens = row["tokens"][start : start + length]
        logprobs = reference_logprobs(alone, tokens)
        best_tokens = alone(input_ids=torch.tensor([tokens])).logits[0].argmax(dim=-1).tolist()
        for place, kind in zip(row["target_places"], row["target_kinds"], strict=True):
            if start <= place < start + length and kind in kinds:
                expected = expected - logprobs[place - start - 1]
                best += best_tokens[place - start - 1] == tokens[place - start]
        start += length
    expected.backward()

    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    assert int(right.sum()) == best
    plain = dict(alone.named_parameters())
    for name, parameter in packed.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name].grad, atol=1e-4, rtol=1e-4)


def test_the_first_label_of_a_class_is_never_a_target() -> None:
    (row,) = random_blocks(count=1, prompts=3, length=20).rows(named=True)
    places = {kind: set(_places(row, kind)) for kind in (0, 1, 2)}
    assert (
        set(Block.from_row(row, "all_labels", len(row["tokens"])).targets.tolist())
        == places[1] | places[2]
    )
    assert set(Block.from_row(row, "final_label", len(row["tokens"])).targets.tolist()) == places[2]


def _places(row: dict[str, list[int]], kind: int) -> list[int]:
    return [p for p, k in zip(row["target_places"], row["target_kinds"], strict=True) if k == kind]


def test_a_block_without_a_target_is_a_user_error() -> None:
    (row,) = random_blocks(count=1, prompts=1, length=20).rows(named=True)
    row["target_kinds"] = [0] * len(row["target_kinds"])
    with pytest.raises(UserError, match="Block 0 has no token that loss 'all_labels' trains on"):
        Block.from_row(row, "all_labels", len(row["tokens"]))


def test_every_epoch_takes_every_block_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, epochs=2)
    blocks = pl.read_parquet(config.blocks)
    order = [block for step in step_plan(len(blocks), config) for block in step]
    first, second = order[:20], order[20:]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_tuning_lowers_the_loss(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, epochs=15, checkpoint_seconds=1_000)
    log = json.loads((run_job(config, print) / "log.json").read_text())["log"]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert [row["step"] for row in log] == list(range(1, 151))


# --- interruptions ------------------------------------------------------------------------------


def test_a_job_killed_at_a_random_moment_ends_in_the_same_weights(tmp_path: Path) -> None:
    undisturbed = tiny_job(tmp_path / "undisturbed", epochs=15, checkpoint_seconds=1_000)
    killed = tiny_job(tmp_path / "killed", epochs=15)
    assert finish(undisturbed)[0] == 0

    checkpoints = killed.output_folder / "checkpoints"
    job = start(killed)
    while not list(checkpoints.glob("step-*")):
        assert job.poll() is None
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.3))
    job.kill()
    job.communicate()
    assert job.returncode == -9  # so it had not finished by itself
    assert not (killed.output_folder / "model").exists()

    status, lines = finish(killed)
    assert status == 0
    assert lines[0].startswith("tuning: going on from step ")
    assert weights(killed) == weights(undisturbed)
    assert [path.name for path in killed.output_folder.iterdir() if path.is_dir()] == ["model"]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_checkpoint_holds_all_that_the_optimizer_knows(optimizer: str, tmp_path: Path) -> None:
    config = tiny_job(tmp_path, optimizer=optimizer)

    def state_dict(stop_at: int | None) -> dict[str, torch.Tensor]:
        model = load_model(config.model_folder, torch.float32, "cpu").train()
        chosen = make_optimizer(model, config)
        folder = tmp_path / f"checkpoints-{stop_at}"

        def save(state: State) -> None:
            if state.step == stop_at:
                save_checkpoint(folder, model, chosen, state)
                raise InterruptedError

        try:
            train(model, chosen, config, State("same"), "fp32", save, print)
        except InterruptedError:
            model = load_model(config.model_folder, torch.float32, "cpu").train()
            chosen = make_optimizer(model, config)
            state = load_checkpoint(folder, model, chosen, "same")
            assert state is not None
            train(model, chosen, config, state, "fp32", lambda _: None, print)
        return model.state_dict()

    whole, resumed = state_dict(None), state_dict(4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_another_job_is_not_taken(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    model = load_model(config.model_folder, torch.float32, "cpu")
    optimizer = make_optimizer(model, config)
    save_checkpoint(tmp_path / "checkpoints", model, optimizer, State(config.fingerprint(), step=3))
    other = config.model_copy(update={"learning_rate": 2e-3})
    assert load_checkpoint(tmp_path / "checkpoints", model, optimizer, other.fingerprint()) is None


def test_a_finished_job_returns_at_once(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    result = run_job(config, print)
    made = weights(config)
    config.blocks.unlink()  # nothing is read again
    assert run_job(config, print) == result
    assert weights(config) == made


def test_the_result_of_another_job_is_replaced(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    run_job(config, print)
    made = weights(config)
    run_job(config.model_copy(update={"learning_rate": 2e-3}), print)
    assert weights(config) != made


def test_a_result_that_was_half_removed_is_made_again(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    result = run_job(config, print)
    made = weights(config)
    (result / "log.json").unlink()
    run_job(config, print)
    assert weights(config) == made


# --- bad input ----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_in_one_sentence_and_nothing_half_written(
    tmp_path: Path,
) -> None:
    config = tiny_job(tmp_path, learning_rate=1e30, warmup_steps=0)
    status, lines = finish(config)
    assert status == 2
    assert lines[-1].startswith("Tuning stopped at step ")
    assert "lower tuning.learning_rate" in lines[-1]
    assert {path.name for path in config.output_folder.iterdir()} <= {
        "job.json",
        "lock",
        "checkpoints",
    }


@pytest.mark.parametrize("content", [None, "{", '{"seed": 0}'])
def test_a_bad_job_file_ends_in_one_sentence(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    if content is not None:
        path.write_text(content)
    command = [sys.executable, "-m", "symtune_pipeline.tuning", "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "")
    (line,) = ended.stdout.splitlines()
    assert line.startswith(f"Job file {path} cannot be used (")
