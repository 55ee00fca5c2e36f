"""Input embeddings that are read from a folder, against those of the model that transformers opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.embeddings import mean_embeddings

TEXTS = [[3], [3, 5, 5], [], [49]]
SIZES = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "llama": LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=False, **SIZES,
    ),
    "tied": LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True, **SIZES,
    ),
    "gpt2": GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=50, **SIZES),
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return AutoModelForCausalLM.from_config(CONFIGS[request.param])


def expected(model: Any) -> list[list[float]]:
    table = model.get_input_embeddings().weight.detach()
    rows = [table[ids].mean(dim=0) if ids else torch.zeros(8) for ids in TEXTS]
    return torch.stack(rows).tolist()


@pytest.mark.parametrize("shard", ["1GB", "1KB"])
def test_they_are_the_means_of_the_models_own(model: Any, shard: str, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size=shard)
    np.testing.assert_allclose(mean_embeddings(tmp_path, TEXTS), expected(model), rtol=1e-6)


def test_names_of_a_hub_that_begin_otherwise_are_found(tmp_path: Path) -> None:
    """GPT-2's weights on the hub have no 'transformer.' before their names."""
    model = AutoModelForCausalLM.from_config(CONFIGS["gpt2"])
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    renamed = {
        name.removeprefix("transformer."): weight for name, weight in load_file(path).items()
    }
    save_file(renamed, path, {"format": "pt"})
    assert "wte.weight" in renamed
    np.testing.assert_allclose(mean_embeddings(tmp_path, TEXTS), expected(model), rtol=1e-6)


def test_bf16_weights_are_read_as_float32(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    found = mean_embeddings(tmp_path, TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(model.float()), rtol=1e-6)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="token 50, and the model knows 50 tokens"):
        mean_embeddings(tmp_path, [[50]])
    path = tmp_path / "model.safetensors"
    renamed = {
        name.replace("embed_tokens", "other"): weight for name, weight in load_file(path).items()
    }
    save_file(renamed, path, {"format": "pt"})
    with pytest.raises(
        UserError, match=r"no tensor 'model\.embed_tokens\.weight' of 50 embeddings"
    ):
        mean_embeddings(tmp_path, TEXTS)
