"""Which weights are tuned: those of all projections of attention, or those that make values alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import random_blocks, reference_model, save_tiny_model, tiny_config, tiny_job
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.models.projections import Divided, train_only
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.step import Block, block_loss
from symtune_pipeline.tuning.trainable import load_trainable, trained

SHORT: dict[str, Any] = {"steps": 2, "checkpoint_seconds": 1_000}
FUSED: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt_bigcode": {"multi_query": True},
    "gpt_bigcode:heads": {"multi_query": False},
    "gpt_neox": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"multi_query": True, "new_decoder_architecture": False},
    "falcon:groups": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon:heads": {"multi_query": False, "new_decoder_architecture": False},
    "mpt": {"n_layers": 2, "n_heads": 4, "d_model": 32},
    "persimmon": {},
    "phi3": {},
}


def changed(base: Path, tuned: Path) -> dict[str, torch.Tensor]:
    """Of every weight whose bytes differ, where they do."""
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    assert before.keys() == after.keys()
    found = {name: before[name] != after[name] for name in before}
    return {name: different for name, different in found.items() if different.any()}


def rows_of_values(model: Any, name: str) -> torch.Tensor:
    """The outputs of the first layer's matrix on which none of its attention weights depends [R].

    Found by the gradients of the weights that transformers' own attention gives.
    """
    attentions = model(torch.arange(1, 12)[None], output_attentions=True).attentions[0]
    noise = torch.randn(attentions.shape, generator=torch.Generator().manual_seed(0))
    layer = model.get_submodule(name)
    (gradient,) = torch.autograd.grad((attentions * noise).sum(), layer.weight)
    outputs_first = gradient.T if isinstance(layer, Conv1D) else gradient
    return (outputs_first == 0).all(dim=1).nonzero().flatten()


@pytest.mark.parametrize(
    ("trainable", "optimizer"),
    [("attention", "adamw"), ("attention", "adafactor"), ("value", "adamw")],
)
def test_nothing_but_the_projections_differs_from_the_base_model(
    trainable: Any, optimizer: Any, tmp_path: Path
) -> None:
    config = tiny_job(tmp_path, trainable=trainable, optimizer=optimizer, **SHORT)
    found = changed(config.model_folder, run_job(config, print))
    names = {"attention": "qkvo", "value": "v"}[trainable]
    assert set(found) == {
        f"model.layers.{layer}.self_attn.{name}_proj.weight" for layer in (0, 1) for name in names
    }


@pytest.mark.parametrize("name", FUSED)
def test_the_values_of_a_fused_matrix_are_divided_from_the_rest(name: str, tmp_path: Path) -> None:
    """They are those on which no attention weight depends, and what the model says stays the same."""
    folder = save_tiny_model(tmp_path, name.split(":")[0], **FUSED[name])
    model = reference_model(folder)
    tokens = torch.arange(1, 12)[None]
    expected = model(tokens, use_cache=False).logits
    fused = [
        (where, len(module.bias) if isinstance(module, Conv1D) else len(module.weight))
        for where, module in model.named_modules()
        if where.endswith(("c_attn", "query_key_value", "qkv_proj", "Wqkv"))
    ]
    rows = rows_of_values(model, fused[0][0])
    assert 0 < len(rows) < fused[0][1]
    parameters = sum(p.numel() for p in model.parameters())

    train_only(model, "value")
    assert len(fused) == 2
    for where, outputs in fused:
        divided = model.get_submodule(where)
        assert isinstance(divided, Divided)
        found = divided.order >= outputs - len(divided.value.weight)  # type: ignore[arg-type]
        assert torch.equal(found.nonzero().flatten(), rows)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert all(".value." in n for n, p in model.named_parameters() if p.requires_grad)
    torch.testing.assert_close(model(tokens, use_cache=False).logits, expected)


@pytest.mark.parametrize("architecture", ["gpt2", "phi3"])
def test_a_fused_model_is_tuned_in_its_values_and_whole_again(
    architecture: str, tmp_path: Path
) -> None:
    config = tiny_job(tmp_path, trainable="value", **SHORT)
    save_tiny_model(config.model_folder, architecture)
    model = reference_model(config.model_folder)
    found = changed(config.model_folder, run_job(config, print))
    assert found
    for name, different in found.items():
        where, _, part = name.rpartition(".")
        where = where if where in dict(model.named_modules()) else f"transformer.{where}"
        layer = model.get_submodule(where)
        flip = isinstance(layer, Conv1D) and part == "weight"
        outputs = different.T if flip else different
        of_outputs = outputs.any(dim=1) if part == "weight" else outputs
        first = where.replace("1", "0")
        assert torch.equal(of_outputs.nonzero().flatten(), rows_of_values(model, first))
    parts = 2 if architecture == "gpt2" else 1  # weights, and biases where there are any
    assert len(found) == 2 * parts


def test_gradients_of_divided_values_are_those_of_the_fused_matrix(tmp_path: Path) -> None:
    config = tiny_job(tmp_path)
    save_tiny_model(config.model_folder, "gpt2", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    (row,) = random_blocks(count=1, prompts=2, length=20).rows(named=True)
    block = Block.from_row(row, "all_labels", 40)
    gradients = []
    for which in ("all", "value"):
        model = load_trainable(config.model_copy(update={"trainable": which}), "fp32", "cpu")
        block_loss(model, block, "fp32")[0].backward()
        gradients.append({name: p.grad for name, p in trained(model).items()})
    for name, gradient in gradients[1].items():
        whole = gradients[0][name.replace(".value.", ".")]
        assert gradient is not None and whole is not None
        fused = whole.T if whole.dim() > 1 else whole
        torch.testing.assert_close(gradient, fused[-len(gradient) :])


def test_a_copy_in_bf16_is_tuned_in_the_same_weights(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, trainable="value", precision="bf16", **SHORT)
    save_tiny_model(config.model_folder, "phi3")
    found = changed(config.model_folder, run_job(config, print))
    assert set(found) == {f"model.layers.{i}.self_attn.qkv_proj.weight" for i in (0, 1)}


@pytest.mark.parametrize(
    ("architecture", "trainable", "reason"),
    [
        ("mamba", "attention", r"no projections of attention of a known name; set .* to all\.$"),
        ("mamba", "value", r"no projections of attention of a known name; set .* to all\.$"),
        (
            "deepseek_v3",
            "value",
            r"first: model\.layers\.0\.self_attn\); set .* attention or all\.$",
        ),
        ("codegen", "value", r"first: transformer\.h\.0\.attn\); set .* to attention or all\.$"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(
    architecture: str, trainable: Any, reason: str
) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config(architecture))
    with pytest.raises(UserError, match=reason):
        train_only(model, trainable)


def test_adapters_are_refused_beside_a_part_of_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"

    def refused(models: str, tuning: str) -> str:
        path.write_text(
            f"models: [{models}]\ndata: {{source: generated}}\nmixture: {{prompts: 10}}\ntuning: {tuning}\n"
        )
        with pytest.raises(UserError) as error:
            load_experiment(str(path))
        return str(error.value)

    assert "set tuning.lora.rank to 0" in refused("micro", "{trainable: value, lora: {rank: 4}}")
    planned = "k2-65b"
    assert f"'{planned}' is tuned with adapters" in refused(planned, "{trainable: attention}")
    path.write_text(path.read_text().replace("attention", "attention, lora: {rank: 0}"))
    assert load_experiment(str(path)).tuning.trainable == "attention"
    assert "'tuning.trainable'" in refused("micro", "{trainable: values}")
