"""What a job may be asked for: adapters, activation checkpointing, compilation, an optimizer."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from kernel_loop import take_kernel
from safetensors.torch import load_file
from tiny_models import HELD_OUT, random_blocks, reference_model, save_tiny_model, tiny_job

from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.jobs.ranks import ALONE
from symtune_pipeline.models.attention import attending
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.packing import Pack, PackedSequence
from symtune_pipeline.models.spreading import decoder_layers
from symtune_pipeline.sections import Lora
from symtune_pipeline.tuning.adafactor import Adafactor
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.optimizer import make_optimizer, take_step
from symtune_pipeline.tuning.order import step_plan
from symtune_pipeline.tuning.passes import fitting
from symtune_pipeline.tuning.settings import job_config
from symtune_pipeline.tuning.step import Block, block_loss
from symtune_pipeline.tuning.trainable import load_trainable, trained
from symtune_pipeline.tuning.working import Working


def gradients(config: JobConfig) -> dict[str, torch.Tensor]:
    """Of every tuned parameter, for the first block; computed after `attending` has ended."""
    torch.manual_seed(0)
    model = load_trainable(config, "fp32", "cpu")
    (row,) = random_blocks(count=1, prompts=2, length=20).rows(named=True)
    block_loss(model, Block.from_row(row, "all_labels", 40), "fp32")[0].backward()
    return {name: p.grad for name, p in trained(model).items() if p.grad is not None}


def log_of(result: Path) -> list[dict[str, float]]:
    log: list[dict[str, float]] = json.loads((result / "log.json").read_text())["log"]
    return log


# --- activation checkpointing and compilation -----------------------------------------------------


@pytest.mark.parametrize("lora", [None, Lora(rank=4, dropout=0.2)])
def test_activation_checkpointing_leaves_gradients_as_they_are(
    lora: Lora | None, tmp_path: Path
) -> None:
    config = tiny_job(tmp_path, lora=lora)
    kept = gradients(config)
    again = gradients(config.model_copy(update={"activation_checkpointing": True}))
    assert kept and kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_activation_checkpointing_computes_layers_again(tmp_path: Path) -> None:
    model = load_trainable(tiny_job(tmp_path, activation_checkpointing=True), "fp32", "cpu")
    calls: list[int] = []
    # Not the last of the layer: computing again stops with the last tensor that is needed.
    projection = decoder_layers(model)[0].get_submodule("self_attn.q_proj")
    projection.register_forward_hook(lambda *_: calls.append(1))
    (row,) = random_blocks(count=1, prompts=2, length=20).rows(named=True)
    loss, _ = block_loss(model, Block.from_row(row, "all_labels", 40), "fp32")
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2


def test_the_kernel_for_several_lengths_gives_the_same_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_job(tmp_path)
    expected = gradients(config)
    calls = take_kernel(monkeypatch)
    found = gradients(config)
    assert calls
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def test_blocks_that_run_together_are_the_same_step(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    rows = random_blocks(count=3, prompts=2, length=20).rows(named=True)
    blocks = [Block.from_row(row, "all_labels", 43) for row in rows]
    found = []
    for together in (1, 2, 3):
        torch.manual_seed(0)
        model = load_trainable(config, "fp32", "cpu")
        step = take_step(
            Working(model, model, "fp32"),
            make_optimizer(model, config),
            blocks,
            1,
            1.0,
            ALONE,
            together,
        )
        found.append((step, torch.cat([p.detach().flatten() for p in model.parameters()])))
    (step, weights), *others = found
    for other, other_weights in others:
        assert other == pytest.approx(step, rel=1e-4)
        assert torch.allclose(weights, other_weights, atol=1e-4)


@pytest.mark.parametrize(
    ("held", "of_block", "together"), [(10, 5, 8), (10, 20, 3), (70, 20, 1), (90, 5, 1)]
)
def test_as_many_blocks_run_together_as_memory_has_room_for(
    held: int, of_block: int, together: int
) -> None:
    assert fitting(100, held, of_block, 2_048) == together


@pytest.mark.slow
def test_a_compiled_model_has_the_same_gradients(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    plain = gradients(config)
    compiled = gradients(config.model_copy(update={"compile": True}))
    assert plain.keys() == compiled.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-4, rtol=1e-4)


# --- LoRA -----------------------------------------------------------------------------------------


def test_adapters_are_tuned_and_merged_into_an_ordinary_model(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, epochs=5, learning_rate=1e-2, lora=Lora(rank=4))
    result = run_job(config, print)
    log = log_of(result)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]

    base = load_file(config.model_folder / "model.safetensors")
    tuned = load_file(result / "model.safetensors")
    assert {n: t.shape for n, t in base.items()} == {n: t.shape for n, t in tuned.items()}
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert changed == {name for name in base if "_proj" in name}
    # What was learned is in it: the first blocks' loss is that of the end, not of the start.
    (row,) = random_blocks(count=1, prompts=2, length=20).rows(named=True)
    block = Block.from_row(row, "all_labels", 40)
    losses = [
        block_loss(load_model(folder, torch.float32, "cpu"), block, "fp32")[0].item()
        for folder in (config.model_folder, result)
    ]
    assert losses[1] < 0.8 * losses[0]
    reference_model(result)  # transformers' own loading


def test_adapters_leave_what_is_frozen_out_of_gradients_and_float32(tmp_path: Path) -> None:
    model = load_trainable(tiny_job(tmp_path, lora=Lora(rank=2)), "bf16", "cpu")
    adapters = trained(model)
    assert adapters and all("lora_" in name for name in adapters)
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    frozen = {n: p for n, p in model.named_parameters() if n not in adapters}
    assert {p.dtype for p in frozen.values()} == {torch.bfloat16}


@pytest.mark.parametrize("part", [{"lora": Lora(rank=4, dropout=0.1)}, {"trainable": "value"}])
def test_a_job_on_a_part_is_the_same_after_an_interruption(
    part: dict[str, Any], tmp_path: Path
) -> None:
    undisturbed, cut = (tiny_job(tmp_path / name, **part) for name in ("whole", "cut"))
    for config in (undisturbed, cut):  # whose values are a part of one matrix
        save_tiny_model(config.model_folder, "phi3")
    whole = run_job(undisturbed, print)

    # The last step ends in an error: one of its blocks has no target.
    blocks = pl.read_parquet(cut.blocks)
    last = step_plan(20, cut)[-1][-1]
    none = pl.when(pl.col("block") == last).then(pl.col("target_kinds").list.eval(pl.element() * 0))
    blocks.with_columns(none.otherwise("target_kinds").alias("target_kinds")).write_parquet(
        cut.blocks
    )
    with pytest.raises(UserError, match="no token that loss"):
        run_job(cut, print)
    blocks.write_parquet(cut.blocks)
    said: list[str] = []
    resumed = run_job(cut, said.append)
    assert any(line.startswith("tuning: going on from step") for line in said)
    files = [load_file(folder / "model.safetensors") for folder in (whole, resumed)]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


@pytest.mark.parametrize("lora", [None, Lora(rank=2, dropout=0.5)])
@pytest.mark.parametrize("architecture", ["rwkv", "openai-gpt"])
def test_a_model_without_heads_or_decoder_layers_is_tuned(
    architecture: str, lora: Lora | None, tmp_path: Path
) -> None:
    config = tiny_job(tmp_path, lora=lora, steps=2, held_out=tmp_path / HELD_OUT)
    save_tiny_model(config.model_folder, architecture)
    log = log_of(run_job(config, print))
    assert all(isfinite(row["loss"]) for row in log if row["step"])


@pytest.mark.parametrize("architecture", ["mamba", "phimoe"])
def test_a_model_that_takes_no_adapters_is_refused(architecture: str, tmp_path: Path) -> None:
    config = tiny_job(tmp_path, lora=Lora(rank=2))
    save_tiny_model(config.model_folder, architecture)
    with pytest.raises(
        UserError, match=r"takes no adapters \(.+\); set tuning\.lora\.rank to 0, which"
    ):
        run_job(config, print)


def test_a_model_without_activation_checkpointing_is_refused(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, activation_checkpointing=True)
    save_tiny_model(config.model_folder, "openai-gpt")
    with pytest.raises(UserError, match=r"set tuning\.activation_checkpointing to false\.$"):
        run_job(config, print)


# --- settings -------------------------------------------------------------------------------------


def experiment(tmp_path: Path, tuning: str) -> Experiment:
    path = tmp_path / "own.yaml"
    path.write_text(
        "models: [micro]\ndata: {source: generated}\nmixture: {prompts: 10}\n"
        f"tuning: {tuning}\n"
    )
    return load_experiment(str(path))


def test_an_optimizer_of_the_experiment_goes_before_the_catalogues(tmp_path: Path) -> None:
    def chosen(tuning: str) -> JobConfig:
        return job_config(
            find_model("micro"),
            experiment(tmp_path, tuning),
            model_folder=tmp_path,
            blocks=tmp_path,
            output_folder=tmp_path,
            inputs={},
        )

    assert chosen("{}").optimizer == find_model("micro").tuning.optimizer == "adamw"
    asked = chosen("{optimizer: adafactor, learning_rate: 3.0e-3, lora: {rank: 8}}")
    assert (asked.lora, asked.learning_rate) == (Lora(rank=8), 3e-3)
    model = load_model(save_tiny_model(tmp_path / "tiny"), torch.float32, "cpu")
    assert isinstance(make_optimizer(model, asked), Adafactor)
    assert chosen("{}").fingerprint() != asked.fingerprint()


@pytest.mark.parametrize(
    ("tuning", "of_variant", "reason"),
    [
        ("{optimizer: adafactor}", "{}", "Adafactor's is relative to the weights' size"),
        ("{}", "{optimizer: adafactor}", "Adafactor's is relative to the weights' size"),
        ("{learning_rate: 1.0e-4}", "{optimizer: adafactor}", "is another optimizer's"),
        (
            "{optimizer: adafactor, learning_rate: 3.0e-3}",
            "{optimizer: adamw}",
            "is another optimizer's",
        ),
    ],
)
def test_no_optimizer_has_the_learning_rate_of_another(
    tuning: str, of_variant: str, reason: str, tmp_path: Path
) -> None:
    rate = "; set tuning.learning_rate"
    with pytest.raises(UserError, match=f"{reason}{rate}"):
        experiment(tmp_path, f"{tuning}\nvariants: {{other: {{tuning: {of_variant}}}}}")
    own = of_variant.replace("}", ", learning_rate: 1.0e-2}")
    if of_variant != "{}":
        found = experiment(tmp_path, f"{tuning}\nvariants: {{other: {{tuning: {own}}}}}")
        assert found.variant("other").tuning.learning_rate == 0.01


def test_adafactor_steps_as_that_of_torch() -> None:
    torch.manual_seed(0)
    start = [torch.randn(size) for size in ((6, 4), (4,), (2, 5, 3))]
    start[2] *= 0  # new adapters are
    both = [[torch.nn.Parameter(values.clone()) for values in start] for _ in range(2)]
    optimizers = [
        kind(parameters, lr=0.01, weight_decay=0.0)
        for kind, parameters in zip((torch.optim.Adafactor, Adafactor), both, strict=True)
    ]
    for step in range(5):
        for pair in zip(*both, strict=True):
            gradient = torch.randn(pair[0].shape) * 10.0 ** (step - 2)
            gradient[0] = 0.0  # as for a token that the step's blocks do not have
            for parameter in pair:
                parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
        for expected, found in zip(*both, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert all((p - values).abs().max() > 1e-5 for p, values in zip(both[1], start, strict=True))


@pytest.mark.parametrize(
    ("tuning", "setting"),
    [
        ("{optimizer: sgd}", "tuning.optimizer"),
        ("{lora: {rank: -1}}", "tuning.lora.rank"),
        ("{lora: {dropout: 1.0}}", "tuning.lora.dropout"),
        ("{keep: first}", "tuning.keep"),
    ],
)
def test_a_wrong_option_is_one_sentence(tuning: str, setting: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=f"setting '{setting}'"):
        experiment(tmp_path, tuning)


# --- attention on a GPU ---------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernel_for_several_lengths_agrees_with_the_loop(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, initializer_range=0.05)
    (row,) = random_blocks(count=1, prompts=4, length=24).rows(named=True)
    block = Block.from_row(row, "all_labels", len(row["tokens"]) + 7)

    def found(precision: str) -> tuple[float, torch.Tensor]:
        model = load_model(folder, torch.float32, "cuda")
        loss, _ = block_loss(model, block, precision)
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.item(), torch.cat(grads)

    loop, kernel = found("fp32"), found("bf16")
    assert kernel[0] == pytest.approx(loop[0], rel=0.02)
    assert torch.cosine_similarity(loop[1], kernel[1], dim=0) > 0.99


def test_the_kernel_for_several_lengths_is_not_taken_on_the_cpu(tmp_path: Path) -> None:
    """It has no CPU version: half precision here must go through the loop."""
    model = load_model(save_tiny_model(tmp_path), torch.bfloat16, "cpu")
    pack = Pack([PackedSequence(5), PackedSequence(3)], torch.device("cpu"))
    with attending(pack), torch.no_grad():
        logits = model(input_ids=torch.arange(1, 9)[None], use_cache=False).logits
    assert logits.isfinite().all()
