"""Tiny random models, blocks and jobs for tests, and what a model predicts, computed the slow and plain way.

The reference runs each text alone, through transformers' own attention and without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from symtune_pipeline.prompts.targets import FIRST, QUERY, SEEN
from symtune_pipeline.tables import PACKED_HELD_OUT, PACKED_MIXTURE
from symtune_pipeline.tuning.config import JobConfig

VOCABULARY = 97
HELD_OUT = (
    "held_out.parquet"  # beside a tiny job's blocks; a job measures on them where it is told to
)
# Weights far larger than usual, so that a token seen or unseen by mistake changes a score a lot.
SETTINGS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def save_tiny_model(folder: Path, architecture: str = "llama", **settings: Any) -> Path:
    """A random model of two layers, saved into `folder`; always the same for the same arguments."""
    torch.manual_seed(0)
    config = tiny_config(architecture, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def tiny_config(architecture: str, **settings: Any) -> Any:
    """A configuration with those of `SETTINGS` that the architecture knows."""
    default = AutoConfig.for_model(architecture)
    known = {*default.to_dict(), *default.attribute_map}
    common = {name: value for name, value in SETTINGS.items() if name in known}
    return AutoConfig.for_model(architecture, **common | settings)


def reference_model(folder: Path) -> Any:
    """The model in `folder` with transformers' own attention."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def reference_logprobs(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Log-probability of each token but the first, given those before it [T - 1]."""
    ids = torch.tensor([list(tokens)])
    uncached = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
    table = model(input_ids=ids, **uncached).logits[0].log_softmax(dim=-1)
    return table[:-1].gather(1, ids[0, 1:, None])[:, 0]  # type: ignore[no-any-return]


def save_tiny_tokenizer(folder: Path) -> Path:
    """A tokenizer whose words are 'w0', 'w1', …, one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0").save_pretrained(folder)
    return folder


def random_blocks(count: int, prompts: int, length: int) -> pl.DataFrame:
    """Packed blocks of random tokens: in every prompt each kind of target, of two tokens each."""
    rng = np.random.default_rng(0)
    rows = []
    for block in range(count):
        lengths = rng.integers(length // 2, length, size=prompts)
        starts = np.cumsum(lengths) - lengths
        # Not at a prompt's start: nothing there predicts a token.
        offsets = np.sort(rng.permutation(np.arange(1, length // 2 - 1, 2))[:3]).repeat(2)
        positions = (starts[:, None] + offsets + [0, 1] * 3).ravel()
        tokens = rng.integers(1, VOCABULARY, size=lengths.sum())
        rows.append(
            (block, tokens, lengths, positions, [FIRST, FIRST, SEEN, SEEN, QUERY, QUERY] * prompts)
        )
    return PACKED_MIXTURE.frame(rows, orient="row")


def random_held_out() -> pl.DataFrame:
    """Held-out prompts of random tokens, of sets with two and with three symbols of one to three tokens."""
    rng = np.random.default_rng(1)

    def tokens(count: int) -> list[int]:
        found: list[int] = rng.integers(1, VOCABULARY, size=count).tolist()
        return found

    rows = []
    for prompt, sizes in enumerate([(1, 1), (2, 2, 2), (3, 3), (1, 2, 1)]):
        # Each begins with a token of its own, so that none is another's beginning.
        labels = [[10 + i, *tokens(size - 1)] for i, size in enumerate(sizes)]
        queries = [tokens(int(size)) for size in rng.integers(1, 6, size=4)]
        targets = rng.integers(len(sizes), size=4).tolist()
        rows.append((prompt, f"of_{len(sizes)}", tokens(12), queries, [labels] * 4, targets))
    return PACKED_HELD_OUT.frame(rows, orient="row")


def tiny_job(folder: Path, **settings: Any) -> JobConfig:
    """A job on a tiny model and random blocks, all of it in `folder`."""
    model = save_tiny_tokenizer(save_tiny_model(folder / "base"))
    blocks = folder / "blocks.parquet"
    random_blocks(count=20, prompts=2, length=20).write_parquet(blocks)
    random_held_out().write_parquet(folder / HELD_OUT)
    defaults: dict[str, Any] = {
        "model_folder": model,
        "blocks": blocks,
        "output_folder": folder / "job",
        "inputs": {},
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "warmup_steps": 3,
        "block_tokens": 40,
        "tokens_per_step": 80,
        "max_grad_norm": 1.0,
        "epochs": 1,
        "loss": "all_labels",
        "label_smoothing": 0.0,
        "precision": "fp32",
        "held_out": None,
        "keep": "last",
        "trainable": "all",
        "lora": None,
        "activation_checkpointing": False,
        "compile": False,
        "checkpoint_seconds": 0,  # after every step
        "keep_checkpoints": 2,
        "seed": 0,
    }
    return JobConfig(**defaults | settings)


def save_reading_model(folder: Path, tokenizer: Any) -> Path:
    """A tiny model that reads whole prompts, with its tokenizer."""
    save_tiny_model(folder, vocab_size=len(tokenizer), max_position_embeddings=4_096)
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder)
    return folder
