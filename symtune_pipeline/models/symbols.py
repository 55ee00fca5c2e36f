"""What models make of symbols: the sampler that draws symbols by their tokens and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from symtune_pipeline.models.embeddings import mean_embeddings
from symtune_pipeline.models.opening import open_tokenizer
from symtune_pipeline.prompts.nearness import Nearness
from symtune_pipeline.prompts.symbols import SymbolSampler, first_tokens, symbol_tokens
from symtune_pipeline.sections import SymbolSpread


def sampler_of_models(
    pool: pl.DataFrame, folders: Sequence[Path], distinct: bool, spread: SymbolSpread, chat: bool
) -> SymbolSampler:
    """Draws tuning symbols; `folders` are those of the models.

    With `distinct`, symbols that are drawn together differ in their first token for every model, and
    with `chat` as the answer of a chat too. Raises UserError for a folder without tokenizer or embeddings.
    """
    tokenizers = [open_tokenizer(folder) for folder in folders]
    first = first_tokens(pool, tokenizers, chat) if distinct else None
    nearness = None
    if spread != "random":
        tokens = symbol_tokens(pool, tokenizers)
        vectors = [mean_embeddings(*pair) for pair in zip(folders, tokens, strict=True)]
        nearness = Nearness.of_models(vectors, spread == "near")
    return SymbolSampler(pool, "tuning", first, nearness)
