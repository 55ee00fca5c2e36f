"""How many tokens an example of a dataset has, for estimates."""

from __future__ import annotations

from functools import cache

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.sources.generated import generate

# Tokens of an example with its label whose text is not at hand; what stands around a text, and
# characters of a token in it.
PUBLIC_TOKENS, FRAME_TOKENS, CHARACTERS_PER_TOKEN = 45, 9, 4.2
LOOKED_AT = 24  # texts of a generated set


def example_tokens(entry: Dataset, characters: float | None) -> float:
    """Tokens of an example with its label, on average.

    `characters` is the mean length of the set's inputs where known; else a generated set is drawn.
    """
    if characters is None and entry.hub is None and entry.files is None:
        characters = _drawn_characters(entry.key)
    if characters is None:
        return PUBLIC_TOKENS
    return FRAME_TOKENS + characters / CHARACTERS_PER_TOKEN


@cache
def _drawn_characters(key: str) -> float:
    drawn = generate(key, "train", LOOKED_AT, seed=0).drop("label").rows()
    return sum(len(" | ".join(texts)) for texts in drawn) / LOOKED_AT
