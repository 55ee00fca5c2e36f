"""The `micro` model: a Llama of about a million parameters with its own tokenizer, trained in seconds.

It exists so that tests and smoke runs exercise every step for real. It is taught the generated
tuning sets with their natural labels and makes no scientific claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from symtune_pipeline.catalog.formats import prompt_formats
from symtune_pipeline.catalog.generated import generated_sets
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.progress import Progress
from symtune_pipeline.prompts.text import render, segments
from symtune_pipeline.sources.generated import generate

ARCHITECTURE = find_model("micro").architecture
STEPS = 30
BATCH = 16
LENGTH = 128
ROWS_PER_SET = 200
SEED = 0


def make_micro(folder: Path, say: Callable[[str], None]) -> None:
    """Train the tokenizer and the model, and save both into `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    texts = list(_texts())
    trained = _tokenizer(texts)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token="<end>", pad_token="<end>", unk_token="<end>"
    )
    stream = np.concatenate([np.array(encoding.ids) for encoding in trained.encode_batch(texts)])
    torch.manual_seed(SEED)
    end = tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**ARCHITECTURE, bos_token_id=end, eos_token_id=end, pad_token_id=end)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    starts = np.random.default_rng(SEED).integers(len(stream) - LENGTH, size=(STEPS, BATCH))
    progress = Progress("micro model", STEPS, "steps", say)
    for step, of_batch in enumerate(starts):
        batch = torch.from_numpy(np.stack([stream[i : i + LENGTH] for i in of_batch]))
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1, f"loss {loss.item():.2f}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _texts() -> Iterator[str]:
    """Prompts of three examples with natural labels, from every tuning set of no family."""
    rng = np.random.default_rng(SEED)
    for entry in generated_sets().values():
        if entry.role != "tuning":
            continue
        rows = generate(entry.key, "train", ROWS_PER_SET, SEED).rows()
        for start in range(0, len(rows) - 2, 3):
            examples = rows[start : start + 3]
            inputs = [" | ".join(row[:-1]) for row in examples]
            labels = [entry.labels[row[-1]] for row in examples]
            style = int(rng.integers(len(prompt_formats())))
            yield f"{render(segments(style, inputs, labels))}<end>"


def _tokenizer(texts: list[str]) -> Tokenizer:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ARCHITECTURE["vocab_size"],
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
