"""Opening a model's folder: whole, and only what is in it, or one sentence before it answers anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SETTINGS, save_tiny_model
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.device import Precision, device_and_precision
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.opening import open_model
from symtune_pipeline.models.proof import attention_of
from symtune_pipeline.models.trial import same_to_rounding

Weights = dict[str, torch.Tensor]


def load(folder: Path) -> Any:
    return load_model(folder, torch.float32, "cpu")


def changed(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Write the weights of a folder anew."""
    path = folder / "model.safetensors"
    weights = change(load_file(path))
    save_file(weights, path, metadata={"format": "pt"})


def configured(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")


# --- weights that are not those of the model ------------------------------------------------------


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def test_a_missing_head_is_named(tmp_path: Path) -> None:
    changed(save_tiny_model(tmp_path), without("lm_head.weight"))
    with pytest.raises(
        UserError, match=r"^The weights in .* lack .*\(first: lm_head\.weight\); save"
    ):
        load(tmp_path)


def test_the_first_of_several_missing_weights_is_named(tmp_path: Path) -> None:
    changed(
        save_tiny_model(tmp_path),
        lambda weights: {n: w for n, w in weights.items() if "mlp" not in n},
    )
    first = r"\(first: model\.layers\.0\.mlp\.down_proj\.weight and 5 more\)"
    with pytest.raises(UserError, match=first):
        load(tmp_path)


def test_names_with_a_prefix_are_a_sentence(tmp_path: Path) -> None:
    changed(
        save_tiny_model(tmp_path), lambda weights: {f"module.{n}": w for n, w in weights.items()}
    )
    with pytest.raises(UserError, match=r"lack weights of LlamaForCausalLM"):
        load(tmp_path)


def test_a_classifier_is_no_language_model(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **SETTINGS)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"first: lm_head\.weight"):
        load(tmp_path)


def test_weights_that_the_class_has_no_use_for_are_a_sentence(tmp_path: Path) -> None:
    bias = "model.layers.0.self_attn.q_proj.bias"
    changed(save_tiny_model(tmp_path), lambda weights: weights | {bias: torch.ones(32)})
    with pytest.raises(UserError, match=rf"are not all those of LlamaForCausalLM.*first: {bias}"):
        load(tmp_path)


def test_weights_of_another_shape_are_a_sentence(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    configured(tmp_path, intermediate_size=48)
    with pytest.raises(UserError, match=r"^The model in .* does not load \("):
        load(tmp_path)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_tied_head_need_not_be_there(architecture: str, tmp_path: Path) -> None:
    save_tiny_model(tmp_path, architecture, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load(tmp_path)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_tied_model_saved_without_its_head_is_whole(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **SETTINGS, tie_word_embeddings=True)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    assert not any(n.startswith("model.") for n in load_file(tmp_path / "model.safetensors"))
    load(tmp_path)


# --- what a configuration asks for -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model_type": "none of ours"}, "describes no model that transformers loads without code"),
        ({"model_type": "t5"}, "of type 't5', which is no causal language model"),
        ({"num_attention_heads": "many"}, "describes no model that transformers loads"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"are quantised \(gptq"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            r"are quantised \(bitsandbytes",
        ),
    ],
)
def test_what_transformers_cannot_load_by_itself_is_a_sentence(
    settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    configured(save_tiny_model(tmp_path), **settings)
    with pytest.raises(UserError, match=sentence):
        load(tmp_path)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_flash_attention_in_a_configuration_is_not_obeyed(name: str, tmp_path: Path) -> None:
    configured(save_tiny_model(tmp_path), **{name: "flash_attention_2"})
    for attention in ("eager", None):
        open_model(tmp_path, torch.float32, "cpu", attention)


def test_an_adapter_is_not_obeyed(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"has an adapter \(adapter_config\.json\).*merge it"):
        load(tmp_path)


def test_bidirectional_attention_is_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "bert")
    with pytest.raises(UserError, match="predicts a token with what follows it"):
        load(tmp_path)


# --- the proof -------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_the_proof_draws_nothing_and_changes_nothing(architecture: str, tmp_path: Path) -> None:
    save_tiny_model(tmp_path, architecture)
    before = load_file(tmp_path / "model.safetensors")
    torch.manual_seed(1)
    model = open_model(tmp_path, torch.float32, "cpu")
    after_opening = torch.random.get_rng_state()
    torch.manual_seed(1)
    proved = load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), after_opening)
    assert proved.training == model.training
    proved.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == again.keys()
    assert all(torch.equal(before[name], again[name]) for name in before)
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("architecture", "settings", "path"),
    [
        ("llama", {"num_hidden_layers": 12}, "packed"),
        ("mamba", {}, "plain"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "plain"),
    ],
)
def test_rounding_is_told_from_what_other_texts_do(
    architecture: str, settings: dict[str, Any], path: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    save_tiny_model(tmp_path, architecture, **settings)
    assert attention_of(load_model(tmp_path, dtype, "cpu")).split(" ")[0] == path


@pytest.mark.parametrize(
    ("asked", "found"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_models_answer_in_the_precision_that_is_asked_for(
    asked: Precision, found: torch.dtype
) -> None:
    if torch.cuda.is_available() and asked == "auto":
        found = torch.bfloat16
    assert device_and_precision(asked)[1] == found


@pytest.mark.parametrize(
    ("noise", "same"),
    [
        ([1e-5, 1e-5, 1e-3, 1e-5, 1e-5], True),  # tuned weights magnify rounding at single tokens
        ([1e-5, 1e-5, 1e-2, 1e-5, 1e-5], False),
        ([1e-3, 1e-3, 1e-3, 1e-5, 1e-5], False),
        ([float("nan"), 1e-5, 1e-5, 1e-5, 1e-5], False),
    ],
)
def test_rounding_is_told_from_a_difference_by_most_tokens_and_by_the_worst(
    noise: list[float], same: bool
) -> None:
    torch.manual_seed(0)
    expected = torch.randn(5, 1_000)
    found = expected + torch.tensor(noise)[:, None] * torch.randn(5, 1_000)
    assert same_to_rounding(found, expected, torch.float32) == same
