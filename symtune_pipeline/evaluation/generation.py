"""Completes the algorithmic suite: greedy generation to the end of the line.

It runs with transformers' own attention: prompts of a batch are padded, not packed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.predictions import generated
from symtune_pipeline.models.device import device_and_precision
from symtune_pipeline.models.loading import check_vocabulary, open_model, open_tokenizer
from symtune_pipeline.models.proof import Generating, choose_generating, vocabulary
from symtune_pipeline.prompts.text import algorithmic_prompt, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 40


def generate(
    folder: Path, suite: pl.DataFrame, progress: Callable[[int], None] = lambda _: None
) -> pl.DataFrame:
    """The completions of the model in a folder; see `complete`."""
    device, precision = device_and_precision()
    model = open_model(folder, precision, device, attention=None).eval()
    way = choose_generating(model)
    return complete(model, open_tokenizer(folder), suite, progress, way)


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: pl.DataFrame,
    progress: Callable[[int], None] = lambda _: None,
    way: Generating = Generating(),  # noqa: B008
) -> pl.DataFrame:
    """The completions of a model, as `predictions.generated` describes them.

    The model must attend with transformers' own attention, and `way` be what `proof.choose_generating`
    finds right for it. `progress` is called with the number of completions done. A batch
    that runs out of memory is tried again with fewer prompts. Raises UserError where one prompt alone
    runs out of memory or exceeds the model's context with its completion, and for a token that the
    model does not know.
    """
    from accelerate.utils import find_executable_batch_size

    prompts = [render(algorithmic_prompt(row)) for row in suite.iter_rows(named=True)]
    longest = max((len(tokenizer.encode(f" {text}\n")) for text in suite["target"]), default=0)
    check_vocabulary(model, (token for prompt in prompts for token in tokenizer.encode(prompt)))
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # Prompts of like length share a batch, so that little of it is padding.
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions = [""] * len(prompts)

    def complete_waiting(batch_size: int) -> None:
        """Called again with a smaller batch where memory runs out; goes on where it was."""
        while waiting:
            batch = waiting[:batch_size]
            texts = _first_lines(model, tokenizer, [prompts[i] for i in batch], longest, limit, way)
            for i, text in zip(batch, texts, strict=True):
                completions[i] = text
            del waiting[:batch_size]
            progress(len(prompts) - len(waiting))

    try:
        find_executable_batch_size(
            complete_waiting, starting_batch_size=BATCH if way.batched else 1
        )()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise UserError(
            f"Model {model.name_or_path} runs out of memory on one prompt of the algorithmic benchmarks;"
            " lower evaluation.algorithmic_shots or use a machine with more memory."
        ) from error
    return generated(suite, completions)


def _first_lines(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    new_tokens: int,
    limit: int | None,
    way: Generating,
) -> list[str]:
    """The first line of text that the model adds to each prompt."""
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= vocabulary(model):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # the model only has to know it
    batch: Any = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    needed = batch["input_ids"].shape[1] + new_tokens
    if limit is not None and needed > limit:
        raise UserError(
            f"A prompt of the algorithmic benchmarks has {needed} tokens with its completion, and the"
            f" model takes {limit}; lower evaluation.algorithmic_shots."
        )
    with torch.inference_mode():
        ids = model.generate(  # type: ignore[operator]
            **batch.to(model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            use_cache=way.cached,
            stop_strings=["\n"],
            tokenizer=tokenizer,
            pad_token_id=tokenizer.pad_token_id,
        )
    added = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    # A completion that starts on a line of its own is still the first line of text.
    return [text.strip().split("\n")[0].strip() for text in added]
