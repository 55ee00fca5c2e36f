"""Rows as tasksource publishes them, made here: text that is known, in every form that may be."""

from __future__ import annotations

import random
from collections.abc import Sequence

import polars as pl

from symtune_pipeline.catalog.tasksource import tasksource
from symtune_pipeline.sources.mirror import Mirror

WORDS = ("lamp", "chair", "shelf", "table", "paint", "screw", "glass", "cloth", "hinge", "brush")
SYMBOLS = ("qua zzle", "zorblat", "Fnord", "plugh", "xyzzy", "x-9", "grue", "né")
# What stands before a text, before its label, and between two examples.
FORMS = (
    ("Input: ", "\nOutput: ", "\n\n"),
    ("", " -> ", "\n"),
    ("", "\n", "\n\n"),  # a label has a line to itself
    ("Q: ", "\nA:", "\n\n"),
    ("text: ", " label: ", " ; "),
)

Row = tuple[str, str, str, list[str]]


def row(
    seed: int,
    task: str = "glue/rte",
    form: int = 0,
    words: Sequence[str] = WORDS,
    trailing: str = "",
) -> Row:
    """A row: four exemplars of each of two symbols in a random order, then the query."""
    rng = random.Random(seed)
    symbols = rng.sample(SYMBOLS, 2)
    before, mark, separator = FORMS[form]
    labels = [*symbols * 4]
    rng.shuffle(labels)
    texts = [f"the {rng.choice(words)} and {rng.choice(words)} {i}" for i in range(9)]
    shown = [f"{before}{text}{mark}{label}" for text, label in zip(texts, labels, strict=False)]
    query = f"{before}{texts[-1]}{mark}".rstrip() + trailing
    return task, separator.join([*shown, query]), rng.choice(symbols), symbols


def frame(rows: Sequence[Sequence[object]]) -> pl.DataFrame:
    """Rows with the published columns."""
    schema = {"task": pl.String, "inputs": pl.String, "targets": pl.String}
    return pl.DataFrame(rows, schema=schema | {"symbols": pl.List(pl.String)}, orient="row")


def write(mirror: Mirror, rows: Sequence[Sequence[object]]) -> None:
    """The rows into a mirror, where they are read from."""
    mirror.write(tasksource().hub, "train", frame(rows))
