"""Answers the algorithmic suite: greedy generation to the end of the line, matched exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.text import algorithmic_prompt, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 40


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: pl.DataFrame,
    progress: Callable[[int], None] = lambda _: None,
) -> pl.DataFrame:
    """One row per row of the suite, in its order: its keys, `expected`, `answer` and `correct`.

    The model must attend with transformers' own attention. `progress` is called with the number of
    answers done. A batch that runs out of memory is tried again with fewer prompts. Raises UserError
    where one prompt alone runs out of memory or exceeds the model's context with its answer.
    """
    from accelerate.utils import find_executable_batch_size

    prompts = [render(algorithmic_prompt(row)) for row in suite.iter_rows(named=True)]
    longest = max((len(tokenizer.encode(f" {text}\n")) for text in suite["expected"]), default=0)
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # Prompts of like length share a batch, so that little of it is padding.
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)

    def answer_waiting(batch_size: int) -> None:
        """Called again with a smaller batch where memory runs out; goes on where it was."""
        while waiting:
            places = waiting[:batch_size]
            texts = _generate(model, tokenizer, [prompts[i] for i in places], longest, limit)
            for place, text in zip(places, texts, strict=True):
                answers[place] = text
            del waiting[:batch_size]
            progress(len(prompts) - len(waiting))

    try:
        find_executable_batch_size(answer_waiting, starting_batch_size=BATCH)()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise UserError(
            f"Model {model.name_or_path} runs out of memory on one prompt of the algorithmic benchmarks;"
            " lower evaluation.algorithmic_shots or use a machine with more memory."
        ) from error
    return suite.select(
        "benchmark", "setting", "concept", "category", "context", "query", "expected"
    ).with_columns(answer=pl.Series(answers, dtype=pl.String)).with_columns(
        correct=pl.col("answer") == pl.col("expected")
    )  # fmt: skip


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    new_tokens: int,
    limit: int | None,
) -> list[str]:
    """The first line that the model adds to each prompt."""
    import torch

    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch: Any = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    needed = batch["input_ids"].shape[1] + new_tokens
    if limit is not None and needed > limit:
        raise UserError(
            f"A prompt of the algorithmic benchmarks has {needed} tokens with its answer, and the model"
            f" takes {limit}; lower evaluation.algorithmic_shots."
        )
    with torch.inference_mode():
        ids = model.generate(  # type: ignore[operator]
            **batch.to(model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            stop_strings=["\n"],
            tokenizer=tokenizer,
            pad_token_id=tokenizer.pad_token_id,
        )
    added = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    # An answer that starts on a line of its own is still the first line of text.
    return [text.strip().split("\n")[0].strip() for text in added]
