"""Draws the examples of the generated sets from their grammars."""

from __future__ import annotations

import hashlib
import random

import polars as pl

from symtune_pipeline.catalog.families import every_generated_set
from symtune_pipeline.errors import UserError

SPLITS = ("train", "test")
TRIES = 500  # failed draws in a row after which a class counts as used up


def generate(key: str, split: str, rows: int, seed: int) -> pl.DataFrame:
    """Draw `rows` distinct examples of the set `key`, its classes as equal in number as can be.

    The columns are those of the set (text) and `label` (int64, an index into its labels). An input
    belongs to one split by its own hash, so that no two splits ever share one, whatever the seeds.
    The rows depend on the four arguments alone. Raises UserError for an unknown key or split, and
    for more rows than the set can give.
    """
    sets = every_generated_set()
    if key not in sets:
        raise UserError(f"No generated set is called '{key}'; docs/datasets.md lists them.")
    if split not in SPLITS:
        raise UserError(f"Generated set '{key}' has no split '{split}'; use train or test.")
    chosen = sets[key]
    rng = random.Random(f"{key}/{split}/{seed}")
    labels: dict[tuple[str, ...], int] = {}
    for row in range(rows):
        label = row % len(chosen.labels)
        draws = (chosen.draw(label, rng) for _ in range(TRIES))
        fresh = (text for text in draws if text not in labels and _split_of(text) == split)
        new = next(fresh, None)
        if new is None:
            raise UserError(
                f"Generated set '{key}' ran out of new inputs at row {row} of the {rows} asked for "
                f"in split '{split}'; ask for fewer rows."
            )
        labels[new] = label
    examples = [(*text, label) for text, label in labels.items()]
    rng.shuffle(examples)
    schema = dict.fromkeys(chosen.columns, pl.String) | {"label": pl.Int64}
    return pl.DataFrame(examples, schema=schema, orient="row")


def _split_of(text: tuple[str, ...]) -> str:
    return SPLITS[hashlib.blake2b("\n".join(text).encode(), digest_size=1).digest()[0] % 2]
