"""The fine-tune job: what it trains on, and that it may be killed at any moment."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import Signals
from threading import Thread
from typing import Any

import polars as pl
import pytest
import torch
from ranks import forked
from tiny_models import (
    random_blocks,
    reference_logprobs,
    reference_model,
    save_tiny_model,
    tiny_job,
)

from symtune_pipeline.errors import JobLost, UserError
from symtune_pipeline.files import sha256
from symtune_pipeline.jobs import ranks
from symtune_pipeline.jobs.ranks import only_job, work_as_rank
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.sections import LossName
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.tuning.checkpoint import Checkpoints, State
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.optimizer import make_optimizer
from symtune_pipeline.tuning.order import step_plan
from symtune_pipeline.tuning.result import read_result
from symtune_pipeline.tuning.step import Block, block_loss


def start(config: JobConfig) -> subprocess.Popen[str]:
    """The job as a launcher starts it."""
    config.output_folder.mkdir(parents=True, exist_ok=True)
    path = config.output_folder / "job.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "symtune_pipeline.tuning", "--config", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(config: JobConfig) -> tuple[int, list[str]]:
    """The job's exit status and its lines."""
    job = start(config)
    output, _ = job.communicate()
    return job.returncode, output.splitlines()


def weights(config: JobConfig) -> str:
    return sha256(config.output_folder / "model" / "model.safetensors")


# --- the loss -----------------------------------------------------------------------------------


ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("llama", "gpt_neox", "gpt2")},
    "mistral": {"sliding_window": 5},
    "gemma2": {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "sliding_window": 5},
    # What follows is run prompt by prompt.
    "mamba": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bloom": {},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("loss", "kinds"), [("all_labels", {1, 2}), ("final_label", {2})])
def test_the_loss_of_a_block_is_that_of_its_prompts_run_alone(
    loss: LossName, kinds: set[int], architecture: str, tmp_path: Path
) -> None:
    save_tiny_model(tmp_path, architecture, **ARCHITECTURES[architecture])
    (row,) = random_blocks(count=1, prompts=4, length=24).rows(named=True)
    packed = load_model(tmp_path, torch.float32, "cpu").eval()
    found, right = block_loss(packed, Block.from_row(row, loss, len(row["tokens"]) + 7), "fp32")
    found.backward()

    alone = reference_model(tmp_path)
    expected = torch.zeros(())
    best = 0
    start = 0
    for length in row["sequence_lengths"]:
        tokens = row["tokens"][start : start + length]
        logprobs = reference_logprobs(alone, tokens)
        best_tokens = alone(input_ids=torch.tensor([tokens])).logits[0].argmax(dim=-1).tolist()
        for position, kind in zip(row["target_positions"], row["target_kinds"], strict=True):
            if start <= position < start + length and kind in kinds:
                expected = expected - logprobs[position - start - 1]
                best += best_tokens[position - start - 1] == tokens[position - start]
        start += length
    expected.backward()

    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    assert int(right.sum()) == best
    plain = dict(alone.named_parameters())
    for name, parameter in packed.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name].grad, atol=1e-4, rtol=1e-4)


def test_the_first_label_of_a_class_is_never_a_target() -> None:
    (row,) = random_blocks(count=1, prompts=3, length=20).rows(named=True)
    positions = {kind: set(_positions(row, kind)) for kind in (0, 1, 2)}
    assert (
        set(Block.from_row(row, "all_labels", len(row["tokens"])).targets.tolist())
        == positions[1] | positions[2]
    )
    assert (
        set(Block.from_row(row, "final_label", len(row["tokens"])).targets.tolist()) == positions[2]
    )


def _positions(row: dict[str, list[int]], kind: int) -> list[int]:
    return [
        p for p, k in zip(row["target_positions"], row["target_kinds"], strict=True) if k == kind
    ]


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


@pytest.mark.long
def test_a_job_killed_at_ten_random_moments_ends_in_the_same_weights(tmp_path: Path) -> None:
    undisturbed = tiny_job(tmp_path / "undisturbed", epochs=20, checkpoint_seconds=1_000)
    killed = tiny_job(tmp_path / "killed", epochs=20)
    run_job(undisturbed, print)

    for _ in range(10):
        before = newest(killed)
        process = forked().Process(target=run_job, args=(killed, print))
        process.start()
        wait_and_strike(killed, before, partial(getattr, process, "exitcode"), process.kill)
        process.join()
        assert process.exitcode == -Signals.SIGKILL  # not finished by itself
        assert not (killed.output_folder / "model").exists()

    for signal in (Signals.SIGTERM, Signals.SIGINT):
        before = newest(killed)
        job = start(killed)
        wait_and_strike(killed, before, job.poll, partial(job.send_signal, signal))
        output, _ = job.communicate()
        assert job.returncode == 128 + signal
        assert output.splitlines()[-1].startswith("Tuning was interrupted; ")
        assert "Traceback" not in output
        assert not (killed.output_folder / "model").exists()

    status, lines = finish(killed)
    assert status == 0
    assert lines[0].startswith("tuning: going on from step ")
    assert weights(killed) == weights(undisturbed)
    assert [path.name for path in killed.output_folder.iterdir() if path.is_dir()] == ["model"]


def wait_and_strike(
    config: JobConfig, before: int, status: Callable[[], int | None], strike: Callable[[], None]
) -> None:
    """Strike at a random moment after the job's first checkpoint that is newer than step `before`."""
    while newest(config) <= before:
        assert status() is None  # the job has not ended
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.1))
    strike()


def newest(config: JobConfig) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    ends = (config.output_folder / "checkpoints").glob("step-*/state.json")
    return max((int(path.parent.name.split("-")[1]) for path in ends), default=0)


def sentence(config: JobConfig) -> str:
    """The error that the job ends in."""
    with pytest.raises(UserError) as caught:
        run_job(config, print)
    return str(caught.value)


def cut_off(config: JobConfig, run: Callable[[JobConfig], str | None] = sentence) -> list[int]:
    """Run the job until its last step, which finds no target; returns its checkpoints' steps."""
    last = step_plan(20, config)[-1][-1]
    table = pl.read_parquet(config.blocks)
    no_targets = pl.col("target_kinds").list.eval(pl.element() * 0)
    table.with_columns(
        pl.when(pl.col("block") == last)
        .then(no_targets)
        .otherwise("target_kinds")
        .alias("target_kinds")
    ).write_parquet(config.blocks)
    with pytest.MonkeyPatch.context() as patch:
        # Each step then waits for the last one's checkpoint instead of making none: how many there
        # are does not depend on the disk.
        patch.setattr(Checkpoints, "busy", False)
        assert f"Block {last} has no token that loss 'all_labels' trains" in (run(config) or "")
    table.write_parquet(config.blocks)
    ends = (config.output_folder / "checkpoints").glob("step-*/state.json")
    return sorted(int(path.parent.name.split("-")[1]) for path in ends)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_checkpoint_holds_all_that_the_optimizer_knows(optimizer: str, tmp_path: Path) -> None:
    whole = tiny_job(tmp_path / "whole", optimizer=optimizer)
    resumed = tiny_job(tmp_path / "resumed", optimizer=optimizer)
    run_job(whole, print)
    assert cut_off(resumed)
    lines: list[str] = []
    run_job(resumed, lines.append)
    assert lines[0].startswith("tuning: going on from step ")
    assert weights(whole) == weights(resumed)


def test_the_learning_rate_rises_to_its_end_whatever_interrupts_the_job(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, warmup_steps=20, learning_rate=3e-4, epochs=3)
    assert cut_off(config)
    log = json.loads((run_job(config, print) / "log.json").read_text())["log"]
    expected = [3e-4 * min(1.0, step / 20) for step in range(1, 31)]
    assert [row["learning_rate"] for row in log] == expected


def test_a_checkpoint_holds_the_random_state(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    model = load_model(config.model_folder, torch.float32, "cpu")
    optimizer = make_optimizer(model, config)
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2, print)
    checkpoints.save(model, optimizer, State("same"))
    checkpoints.wait()
    expected = torch.rand(3)
    assert checkpoints.load(model, optimizer, "same") == State("same")
    assert torch.equal(torch.rand(3), expected)


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, keep_checkpoints=3, tokens_per_step=40)
    assert len(cut_off(config)) == 3


@pytest.mark.parametrize("damage", ["cut short", "changed", "no file", "no end", "empty end"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    damage: str, tmp_path: Path
) -> None:
    undisturbed = tiny_job(tmp_path / "undisturbed", tokens_per_step=40)
    config = tiny_job(tmp_path / "damaged", tokens_per_step=40)
    run_job(undisturbed, print)
    before, last = cut_off(config)
    folder = config.output_folder / "checkpoints" / f"step-{last}"
    (file,) = folder.glob("*.safetensors")
    if damage == "cut short":
        os.truncate(file, 1_000)
    elif damage == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "no file":
        file.unlink()
    else:
        (folder / "state.json").write_text("{" if damage == "no end" else "{}")
    lines: list[str] = []
    run_job(config, lines.append)
    assert lines[0].startswith(f"tuning: {folder} is passed over: ")
    assert lines[1] == f"tuning: going on from step {before}"
    assert weights(config) == weights(undisturbed)


def test_no_flipped_bit_of_a_checkpoints_state_is_believed(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    model = load_model(config.model_folder, torch.float32, "cpu")
    optimizer = make_optimizer(model, config)
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2, print)
    state = State("same", log=[{"step": 0, "loss": 0.5}])
    checkpoints.save(model, optimizer, state)
    checkpoints.wait()
    random_state = torch.get_rng_state()
    folder = tmp_path / "checkpoints" / "step-0"
    kept = shutil.copytree(folder, tmp_path / "kept")
    whole = (folder / "state.json").read_bytes()
    for bit in random.Random(0).sample(range(len(whole) * 8), 120):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        (folder / "state.json").write_bytes(flipped)
        torch.manual_seed(bit)
        found = checkpoints.load(model, optimizer, "same")
        assert found in (None, state)
        assert not found or torch.equal(torch.get_rng_state(), random_state)


def test_a_shard_that_no_rank_wrote_is_not_loaded(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, tokens_per_step=40)
    before, last = cut_off(config)
    folder = config.output_folder / "checkpoints"
    (shard,) = (folder / f"step-{before}").glob("*.safetensors")
    shutil.copy(shard, folder / f"step-{last}" / "shard-00009-model-00001-of-00001.safetensors")
    lines: list[str] = []
    run_job(config, lines.append)
    assert "is passed over: its files are not those of its checksums" in lines[0]
    assert lines[1] == f"tuning: going on from step {before}"


def test_a_checkpoint_that_is_damaged_here_comes_whole_from_the_bucket(
    s3: str, tmp_path: Path
) -> None:
    config = tiny_job(tmp_path / "job", checkpoint_url=f"{s3}/{tmp_path.name}")
    last = cut_off(config)[-1]
    folder = config.output_folder / "checkpoints" / f"step-{last}"
    for file in folder.iterdir():
        os.truncate(file, 100)
    lines: list[str] = []
    run_job(config, lines.append)
    assert lines[0] == f"tuning: going on from step {last}"


def test_a_job_goes_on_from_a_bucket_where_its_folder_is_gone(s3: str, tmp_path: Path) -> None:
    undisturbed = tiny_job(tmp_path / "undisturbed")
    config = tiny_job(tmp_path / "moved", checkpoint_url=f"{s3}/{tmp_path.name}")
    run_job(undisturbed, print)
    last = cut_off(config)[-1]
    shutil.rmtree(config.output_folder)
    lines: list[str] = []
    run_job(config, lines.append)
    assert lines[0] == f"tuning: going on from step {last}"
    assert weights(config) == weights(undisturbed)
    assert Bucket(config.checkpoint_url or "").keys() == []


def test_a_checkpoint_of_another_job_is_not_taken(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    cut_off(config)
    other = config.model_copy(update={"learning_rate": 2e-3})
    lines: list[str] = []
    run_job(other, lines.append)
    assert "it is of other settings, inputs or code" in lines[0]
    assert not any(line.startswith("tuning: going on") for line in lines)


def test_a_finished_job_returns_at_once(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    result = run_job(config, print)
    made = weights(config)
    config.blocks.unlink()  # nothing is read again
    assert run_job(config, print) == result
    assert weights(config) == made


def test_a_second_job_in_a_folder_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    events: list[str] = []

    def second() -> None:
        with only_job(tmp_path, events.append):
            events.append("second")

    thread = Thread(target=second)
    with only_job(tmp_path, events.append):
        thread.start()
        while not events:
            time.sleep(0.01)
        events.append("first")
    thread.join()
    waits = "waiting for another process that does the same"
    assert events == [waits, "first", "second"]


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


@pytest.mark.parametrize("name", ["log.json", "model.safetensors", "config.json", "tokenizer.json"])
def test_a_result_that_was_damaged_is_made_again(name: str, tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    result = run_job(config, print)
    made = weights(config)
    content = bytearray((result / name).read_bytes())
    content[len(content) // 2] ^= 1
    (result / name).write_bytes(content)
    with pytest.raises(JobLost, match="start the job again"):
        read_result(result)
    run_job(config, print)
    assert weights(config) == made
    read_result(result)


# --- bad input ----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_in_one_sentence_and_nothing_half_written(
    tmp_path: Path,
) -> None:
    config = tiny_job(tmp_path, learning_rate=1e30, warmup_steps=0)
    status, lines = finish(config)
    assert status == 2
    assert lines[-1].startswith("Tuning stopped in step ")
    assert "lower tuning.learning_rate" in lines[-1]
    assert {path.name for path in config.output_folder.iterdir()} <= {
        "job.json",
        "lock",
        "checkpoints",
    }


def test_the_block_whose_loss_is_no_number_is_named(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, tokens_per_step=400)
    # A token that only block 13 holds, and whose embedding is no number.
    table = pl.read_parquet(config.blocks)
    table = table.with_columns(pl.col("tokens").list.eval(pl.element().clip(upper_bound=95)))
    rare = pl.concat_list(pl.lit(96, pl.Int32), pl.col("tokens").list.slice(1))
    table.with_columns(
        pl.when(pl.col("block") == 13).then(rare).otherwise("tokens").alias("tokens")
    ).write_parquet(config.blocks)
    change_weights(config, lambda model: model.get_input_embeddings().weight[96].fill_(torch.nan))
    with pytest.raises(UserError, match=r"the loss of block 13 is not a finite number; lower"):
        run_job(config, print)


def test_a_gradient_that_is_no_number_names_its_block(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)

    def overflow(model: Any) -> None:  # the losses stay as they are
        model.model.norm.weight.mul_(1e-30)
        model.lm_head.weight.mul_(1e30)

    change_weights(config, overflow)
    first = step_plan(20, config)[0][0]
    with pytest.raises(UserError, match=rf"the gradient of block {first} is not a finite number"):
        run_job(config, print)


def change_weights(config: JobConfig, change: Callable[[Any], object]) -> None:
    """Change the model that the job starts from."""
    model = load_model(config.model_folder, torch.float32, "cpu")
    with torch.no_grad():
        change(model)
    model.save_pretrained(config.model_folder)


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """Within, the system gives this process no more, as a full machine would."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@pytest.mark.parametrize("checkpoint_seconds", [0, 1_000])
def test_a_full_disk_says_which_folder_and_how_much_is_needed(
    checkpoint_seconds: int, tmp_path: Path
) -> None:
    config = tiny_job(tmp_path, checkpoint_seconds=checkpoint_seconds)
    folder = config.output_folder / ("model" if checkpoint_seconds else "checkpoints")
    with (
        limited(resource.RLIMIT_FSIZE, 50_000),
        pytest.raises(UserError, match=rf"^The disk or quota of {folder} is full: 0\.[1-9] MiB"),
    ):
        run_job(config, print)
    run_job(config, print)


def test_memory_that_runs_out_says_what_to_lower(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, block_tokens=8_000_000)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with (
        limited(resource.RLIMIT_AS, pages * resource.getpagesize() + (500 << 20)),
        pytest.raises(UserError, match=r"^Tuning ran out of memory; lower tuning\.block_tokens"),
    ):
        run_job(config, print)


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


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (
            "remote process exited or there was a network error\nncclRemoteError: A call failed",
            True,
        ),
        ("invalid usage\nncclInvalidUsage: Duplicate GPU detected", False),
    ],
)
def test_only_what_says_that_another_rank_is_gone_is_taken_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, lost: bool
) -> None:
    monkeypatch.setattr(ranks, "PATIENCE", 0)

    def work(*_: object) -> Path:
        raise torch.distributed.DistBackendError(said)

    kind, words = (UserError, "lost its connection") if lost else (RuntimeError, "Duplicate GPU")
    with pytest.raises(kind, match=words):
        work_as_rank(tmp_path, print, work)
