"""The numbers of a run: speed and cost of a step, and progress on blocks that tuning never sees."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny_models import (
    VOCABULARY,
    random_blocks,
    reference_logprobs,
    reference_model,
    save_tiny_model,
    tiny_job,
)
from torch.utils.flop_counter import FlopCounterMode

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Lora
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.prompts.targets import QUERY, SEEN
from symtune_pipeline.report.curves import curves
from symtune_pipeline.tables import TUNING_LOG
from symtune_pipeline.tuning.held_out import measure
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.metrics import Meter, peak_flops
from symtune_pipeline.tuning.order import held_out, measured_steps, step_plan
from symtune_pipeline.tuning.step import Block, block_loss
from symtune_pipeline.tuning.trainable import load_trainable

# --- speed and cost -------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_operations_are_those_that_torch_counts(lora: Lora | None, tmp_path: Path) -> None:
    """Of matrix products; which of the scores torch counts depends on the kernel."""
    model = load_trainable(tiny_job(tmp_path, lora=lora), "fp32", "cpu")
    block = Block(0, torch.arange(1, 65), [64], torch.arange(1, 65).clamp(max=63))
    with FlopCounterMode(display=False) as counted:
        block_loss(model, block, "fp32")[0].backward()
    by_kind = counted.get_flop_counts()["Global"]
    products = sum(count for kind, count in by_kind.items() if "mm" in str(kind))
    meter = Meter(model)
    # Frozen embeddings ask for no gradient of what enters the first layer.
    assert meter.flops([1] * 64, targets=64) == pytest.approx(products, rel=0.1)

    scores = meter.flops([64], targets=0) - meter.flops([1] * 64, targets=0)
    assert scores == 6 * 2 * 4 * 8 * (64**2 - 64)  # 2 layers of 4 heads of 8


def test_a_row_of_the_log_says_how_fast_the_step_was(tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path), torch.float32, "cpu")
    row = Meter(model).row([10, 30], targets=6, seconds=2.0)
    assert row["tokens_per_second"] == 20
    assert row["targets_per_second"] == 3
    assert 0.05 < (row["memory_gib"] or 0) < 50
    assert row["flop_utilisation"] is None  # no peak is known for a CPU


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None),
        ("", None),
    ],
)
def test_the_peak_is_that_of_the_device(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


# --- held-out blocks ------------------------------------------------------------------------------


def test_no_step_takes_a_held_out_block_and_the_others_keep_their_order(tmp_path: Path) -> None:
    everything = step_plan(20, tiny_job(tmp_path / "all", epochs=1))
    config = tiny_job(tmp_path, epochs=2, held_out_blocks=3)
    kept_out = held_out(20, config)
    order = [number for step in step_plan(20, config) for number in step]
    assert len(kept_out) == 3
    assert sorted(order + kept_out * 2) == sorted(2 * list(range(20)))
    assert order[:17] + kept_out == [number for step in everything for number in step]


def test_a_mixture_of_nothing_but_held_out_blocks_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tuning\.held_out_blocks is 4, .* no more than 3 blocks"):
        step_plan(3, tiny_job(tmp_path, held_out_blocks=4))


@pytest.mark.parametrize(("count", "per_step"), [(4, 2), (100, 2), (6_000, 8)])
def test_measuring_takes_three_percent_at_most_beyond_start_and_end(
    count: int, per_step: int
) -> None:
    steps = [[0] * per_step] * (count // per_step)
    measured = measured_steps(steps, 2)
    assert {0, len(steps)} <= measured
    cost = len(measured) * 2 / 3  # in blocks that are learned from
    assert cost <= 0.03 * count or len(measured) == 2
    assert len(measured) <= 50
    assert measured_steps(steps, 0) == set()


@pytest.mark.parametrize(
    ("predicted", "accuracy"),
    [([5, 6, 7, 10], 1.0), ([5, 6, 10], 0.5), ([5, 6, 7], 0.5), ([6], 0.0)],
)
def test_a_held_out_symbol_is_right_where_each_of_its_tokens_is(
    predicted: list[int], accuracy: float, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path)
    alone = reference_model(folder)
    (row,) = random_blocks(count=1, prompts=1, length=24).rows(named=True)
    tokens, positions = (
        list(row["tokens"]),
        [5, 6, 7, 10],
    )  # a symbol of three tokens and one of one
    for position in positions:
        best = int(alone(input_ids=torch.tensor([tokens])).logits[0, position - 1].argmax())
        tokens[position] = best if position in predicted else (best + 1) % VOCABULARY
    targets = {"target_positions": positions, "target_kinds": [SEEN, SEEN, SEEN, QUERY]}
    block = Block.from_row(row | targets | {"tokens": tokens}, "all_labels", len(tokens))

    model = load_model(folder, torch.float32, "cpu").train()
    found = measure(model, [block], "fp32")
    logprobs = reference_logprobs(alone, tokens)
    expected = -sum(logprobs[position - 1].item() for position in positions) / len(positions)
    assert found["held_out_loss"] == pytest.approx(expected, abs=1e-4)
    assert found["held_out_accuracy"] == accuracy
    assert model.training


def test_a_job_logs_what_it_measures_and_nulls_elsewhere(tmp_path: Path) -> None:
    settings = {"epochs": 6, "checkpoint_seconds": 1_000}
    config = tiny_job(tmp_path / "measured", held_out_blocks=2, **settings)
    result = run_job(config, print)
    log = TUNING_LOG.checked(TUNING_LOG.frame(json.loads((result / "log.json").read_text())["log"]))
    assert log["step"].to_list() == list(range(55))
    measured = log.drop_nulls("held_out_loss")
    assert measured["step"].to_list() == sorted(measured_steps(step_plan(20, config), 2))
    assert log.filter(step=0)["loss"].is_null().all()
    assert log.filter(pl.col("step") > 0)["loss"].is_not_null().all()
    assert log["flop_utilisation"].is_null().all()
    assert curves(log).startswith(b"\x89PNG")


def test_measuring_changes_nothing_about_what_is_tuned(tmp_path: Path) -> None:
    """The measured job takes the first 18 blocks of the plan; so does one that has no others."""
    measured = tiny_job(tmp_path / "measured", held_out_blocks=2, lora=Lora(dropout=0.3))
    run_job(measured, print)
    first = json.loads((measured.output_folder / "model" / "log.json").read_text())["log"]
    whole = tiny_job(tmp_path / "whole", lora=Lora(dropout=0.3))
    run_job(whole, print)
    second = json.loads((whole.output_folder / "model" / "log.json").read_text())["log"]
    assert [row["loss"] for row in first[1:]] == [row["loss"] for row in second[:9]]
