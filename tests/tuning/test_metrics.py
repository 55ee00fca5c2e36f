"""The numbers of a run: speed and cost of a step, and progress on held-out prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from test_tuning import cut_off, weights
from tiny_models import (
    HELD_OUT,
    VOCABULARY,
    random_held_out,
    reference_logprobs,
    reference_model,
    save_tiny_model,
    tiny_job,
)
from torch.utils.flop_counter import FlopCounterMode

from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.trees import Query, Tree
from symtune_pipeline.report.curves import curves
from symtune_pipeline.sections import Lora
from symtune_pipeline.tables import TUNING_LOG, TUNING_LOG_BY_SET
from symtune_pipeline.tuning import metrics
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.held_out import HeldOutPrompt, measure, read_held_out
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.log import by_set
from symtune_pipeline.tuning.metrics import Meter, peak_flops
from symtune_pipeline.tuning.order import measured_steps, step_plan
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
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("", None),
    ],
)
def test_the_peak_is_that_of_the_device(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


@pytest.mark.parametrize(
    ("architecture", "known"),
    [("llama", True), ("gemma2", True), ("mixtral", False), ("gpt_oss", False), ("doge", True)],
)
def test_the_use_of_a_gpu_is_not_known_of_a_model_with_experts(
    architecture: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_gpu_name", lambda _: "NVIDIA H100 80GB HBM3")
    settings = {} if known else {"num_local_experts": 4}
    model = load_model(save_tiny_model(tmp_path, architecture, **settings), torch.float32, "cpu")
    used = Meter(model).row([10, 30], targets=6, seconds=2.0)["flop_utilisation"]
    assert (used is not None) == known


# --- held-out prompts -----------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "per_step"), [(4, 2), (100, 2), (6_000, 8)])
def test_measuring_takes_three_percent_at_most_beyond_five_times(count: int, per_step: int) -> None:
    steps = [[0] * per_step] * (count // per_step)
    measured = measured_steps(steps, block_tokens=512, held_out_tokens=1_024)
    assert {0, len(steps)} <= measured
    cost = len(measured) * 2 / 3  # in blocks that are learned from
    assert cost <= 0.03 * count or len(measured) == min(5, len(steps) + 1)
    assert len(measured) <= 50
    assert measured_steps(steps, 512, held_out_tokens=0) == set()


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0},
    # What follows is run string by string.
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_measured_is_what_transformers_makes_of_whole_strings(
    architecture: str, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path, architecture, **ARCHITECTURES[architecture])
    random_held_out().write_parquet(tmp_path / HELD_OUT)
    prompts = read_held_out(tmp_path / HELD_OUT)
    alone = reference_model(folder)
    right: dict[str, list[bool]] = {}
    first, later = [], []
    for prompt in prompts:
        for query, target in zip(prompt.tree.queries, prompt.targets, strict=True):
            before = [*prompt.tree.prefix, *query.tokens]
            scores = [
                reference_logprobs(alone, [*before, *label])[len(before) - 1 :].detach()
                for label in query.labels
            ]
            sums = [float(of_label.sum()) for of_label in scores]
            right.setdefault(prompt.dataset, []).append(sums.index(max(sums)) == target)
            first.append(-float(scores[target][0]))
            later += (-scores[target][1:]).tolist()

    model = load_model(folder, torch.float32, "cpu").train()
    found = measure(model, prompts, "fp32")
    everything = [each for of_set in right.values() for each in of_set]
    assert 0 < sum(everything) < len(everything) == 16
    assert found["symbol_accuracy"] == sum(everything) / 16
    assert found["symbol_chance"] == pytest.approx((8 / 2 + 8 / 3) / 16)
    assert found["first_token_loss"] == pytest.approx(sum(first) / len(first), abs=1e-4)
    assert found["later_token_loss"] == pytest.approx(sum(later) / len(later), abs=1e-4)
    for dataset, of_set in right.items():
        assert found[f"symbol_accuracy/{dataset}"] == sum(of_set) / 8
    assert found["symbol_chance/of_3"] == pytest.approx(1 / 3)
    assert model.training


def test_a_model_that_knows_nothing_is_right_by_chance(tmp_path: Path) -> None:
    """Symbols of one token that it finds equally likely share the first rank."""
    model = load_model(save_tiny_model(tmp_path), torch.float32, "cpu")
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    labels = [[5], [6], [7]]
    tree = Tree([1, 2], [Query([3], labels), Query([4], labels)])
    row = measure(model, [HeldOutPrompt("a", tree, [0, 2])], "fp32")
    assert row["symbol_accuracy"] == pytest.approx(1 / 3) == row["symbol_chance"]
    assert row["first_token_loss"] == pytest.approx(math.log(VOCABULARY))
    assert row["later_token_loss"] is None


def test_a_symbol_that_is_only_copied_well_is_not_right(tmp_path: Path) -> None:
    """Its later tokens cost nothing more than those of the others; the first decides."""
    folder = save_tiny_model(tmp_path)
    alone, before = reference_model(folder), [1, 2, 3]
    logits = alone(input_ids=torch.tensor([before])).logits[0, -1]
    best, worst = int(logits.argmax()), int(logits.argmin())
    model = load_model(folder, torch.float32, "cpu")
    tree = Tree(before[:2], [Query(before[2:], [[worst], [best]])])
    right, wrong = (
        measure(model, [HeldOutPrompt("a", tree, [target])], "fp32")["symbol_accuracy"]
        for target in (1, 0)
    )
    assert (right, wrong) == (1, 0)


def test_a_job_logs_what_it_measures_and_nulls_elsewhere(tmp_path: Path) -> None:
    config = measured_job(tmp_path / "measured", epochs=6, checkpoint_seconds=1_000)
    rows = rows_of(config)
    log = TUNING_LOG.checked(TUNING_LOG.frame(rows))
    assert log["step"].to_list() == list(range(61))
    measured = log.drop_nulls("symbol_accuracy")
    tokens = sum(prompt.tree.tokens for prompt in read_held_out(config.held_out))
    expected = measured_steps(step_plan(20, config), config.block_tokens, tokens)
    assert measured["step"].to_list() == sorted(expected)
    assert len(measured) == 5
    assert measured["later_token_loss"].is_not_null().all()
    assert log.filter(step=0)["loss"].is_null().all()
    assert log.filter(pl.col("step") > 0)["loss"].is_not_null().all()
    assert log["flop_utilisation"].is_null().all()
    assert log.filter("kept")["step"].to_list() == [60]

    sets = TUNING_LOG_BY_SET.checked(by_set(rows))
    assert sets.filter(step=60)["dataset"].to_list() == ["of_2", "of_3"]
    assert sets["queries"].unique().to_list() == [8]
    by_step = sets.group_by("step").agg(pl.col("symbol_accuracy").mean()).sort("step")
    assert by_step["symbol_accuracy"].to_list() == pytest.approx(
        measured["symbol_accuracy"].to_list()
    )
    assert curves(log, sets).startswith(b"\x89PNG")


def test_a_job_without_held_out_prompts_measures_nothing(tmp_path: Path) -> None:
    log = TUNING_LOG.checked(TUNING_LOG.frame(rows_of(tiny_job(tmp_path))))
    assert log["step"].to_list() == list(range(1, 11))
    assert log["symbol_accuracy"].is_null().all()
    assert curves(log, by_set([])).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lora": Lora(dropout=0.3)},
        {"precision": "bf16"},
        {"activation_checkpointing": True},
        pytest.param({"compile": True}, marks=pytest.mark.long),
    ],
)
def test_measuring_changes_nothing_about_what_is_tuned(
    options: dict[str, Any], tmp_path: Path
) -> None:
    measured, other = (
        measured_job(tmp_path / "measured", **options),
        tiny_job(tmp_path / "other", **options),
    )
    losses = [[row["loss"] for row in rows_of(job) if row["step"]] for job in (measured, other)]
    assert losses[0] == losses[1]
    assert weights(measured) == weights(other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep": "best"},
        {"precision": "bf16", "lora": Lora(dropout=0.3)},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
    ],
)
def test_a_job_that_goes_on_logs_what_it_would_have(
    options: dict[str, Any], tmp_path: Path
) -> None:
    whole = measured_job(tmp_path / "whole", **options)
    resumed = measured_job(tmp_path / "resumed", **options)
    expected = rows_of(whole)
    assert cut_off(resumed)
    found = rows_of(resumed)
    times = ("seconds", "tokens_per_second", "targets_per_second", "memory_gib")
    assert [without(row, times) for row in found] == [without(row, times) for row in expected]
    assert weights(resumed) == weights(whole)


def measured_job(folder: Path, **settings: Any) -> JobConfig:
    return tiny_job(folder, held_out=folder / HELD_OUT, **settings)


def rows_of(config: JobConfig) -> list[dict[str, Any]]:
    """The rows of a job's log, once it has run."""
    summary = json.loads((run_job(config, print) / "log.json").read_text())
    rows: list[dict[str, Any]] = summary["log"]
    return rows


def without(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


# --- which weights are kept -----------------------------------------------------------------------


def best_step(rows: Sequence[dict[str, Any]]) -> int:
    """The last of the steps at which symbol accuracy was highest."""
    accuracy = {row["step"]: row["symbol_accuracy"] for row in rows if "symbol_accuracy" in row}
    del accuracy[0]
    return max(step for step in accuracy if accuracy[step] == max(accuracy.values()))


def too_fast(folder: Path, **settings: Any) -> JobConfig:
    """A job that is best before its end: its rate is far too high."""
    return measured_job(folder, keep="best", learning_rate=0.02, **settings)


def test_the_weights_of_the_best_step_are_kept(tmp_path: Path) -> None:
    config = too_fast(tmp_path / "best")
    rows = rows_of(config)
    best = best_step(rows)
    assert 0 < best < rows[-1]["step"]
    assert [row["step"] for row in rows if row["kept"]] == [best]

    measured = [row for row in rows if "symbol_accuracy" in row]
    model = load_model(config.output_folder / "model", torch.float32, "cpu")
    again = measure(model, read_held_out(config.held_out), "fp32")
    (kept,) = [row for row in measured if row["step"] == best]
    assert again["first_token_loss"] == pytest.approx(kept["first_token_loss"], abs=1e-5)
    assert again["first_token_loss"] != pytest.approx(measured[-1]["first_token_loss"], abs=1e-2)

    shorter = too_fast(tmp_path / "shorter", steps=best)
    shorter = shorter.model_copy(update={"keep": "last"})
    run_job(shorter, print)
    assert weights(config) == weights(shorter)


def test_the_best_checkpoint_outlives_those_after_it(tmp_path: Path) -> None:
    config = too_fast(tmp_path / "killed", keep_checkpoints=1)
    left = cut_off(config)
    best = best_step(rows_of(too_fast(tmp_path / "whole")))
    assert left[0] == best < left[1]
    assert len(left) == 2
    assert [row["step"] for row in rows_of(config) if row["kept"]] == [best]
    assert weights(config) == weights(too_fast(tmp_path / "whole"))


def test_a_best_checkpoint_that_is_damaged_is_passed_over_in_words(tmp_path: Path) -> None:
    config = too_fast(tmp_path, keep_checkpoints=1)
    best, _ = cut_off(config)
    folder = config.output_folder / "checkpoints" / f"step-{best}"
    next(folder.glob("*.safetensors")).write_bytes(b"")
    lines: list[str] = []
    log = json.loads((run_job(config, lines.append) / "log.json").read_text())["log"]
    assert lines[-1].startswith(f"tuning: {folder}, the best, is passed over, and the last step's")
    assert [row["step"] for row in log if row["kept"]] == [10]
