"""Held-out prompts: drawn beside the mixture, to measure how far tuning has come.

They are prompts as the mixture draws them, of its sets and its symbols but never instructed, and each
asks several queries. Queries are spread evenly over the classes, so that guessing is right once in so
many times as the prompt has symbols. Their stream of random numbers is their own: the mixture is the
same with and without them. This module knows nothing about tokens.

Shapes: P prompts of one dataset.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import polars as pl
from numpy.typing import NDArray

from symtune_pipeline.prompts.mixture import ClassPool, class_pools, lengths_of, references_of
from symtune_pipeline.prompts.symbols import SymbolSampler
from symtune_pipeline.sections import MixtureConfig
from symtune_pipeline.tables import HELD_OUT_PROMPTS

QUERIES = 4  # of a prompt: more would say little more, as what a prompt teaches is the same for all

Ints = NDArray[np.int64]


def held_out_prompts(
    examples: pl.DataFrame,
    sampler: SymbolSampler,
    config: MixtureConfig,
    seed: int,
    seen: Ints,
) -> pl.DataFrame:
    """`config.held_out_prompts` prompts of the sets in turn, as rows of `tables.HELD_OUT_PROMPTS`.

    `seen` are the numbers of the examples that the mixture has. Others are taken of a set that has
    enough of them in every class. The remaining arguments and errors are those of `mixture_chunks`.
    """
    pools = class_pools(examples)
    characters = lengths_of(examples)
    rng = np.random.default_rng([seed, zlib.crc32(b"held out")])
    order = rng.permutation(len(pools))
    rows: list[dict[str, object]] = []
    for turn, i in enumerate(order.tolist()):
        numbers = range(turn, config.held_out_prompts, len(pools))
        if not numbers:
            break
        of_dataset = _unseen(pools[i], seen, config.exemplars_per_class[1] + QUERIES)
        drawn = references_of(of_dataset, len(numbers), characters, config, rng)
        symbols = sampler.draw(len(numbers), len(of_dataset.labels), rng)
        for number, row, labels in zip(numbers, drawn.iter_rows(named=True), symbols, strict=True):
            exemplars = row["examples"][:-1]
            queries = list(islice(_queries(of_dataset.by_class, exemplars, rng), QUERIES))
            asked = [query for query, _ in queries]
            prompt = {
                "prompt": number,
                "dataset": row["dataset"],
                "format": row["format"],
                "exemplars": exemplars,
                "exemplar_targets": row["targets"][:-1],
                "labels": labels.tolist(),
                "seen": bool(np.isin([*exemplars, *asked], seen).any()),
            }
            rows += [prompt | {"query": query, "target": target} for query, target in queries]
    return HELD_OUT_PROMPTS.frame(rows).sort("prompt", maintain_order=True)


def _unseen(of_dataset: ClassPool, seen: Ints, least: int) -> ClassPool:
    """The set without what the mixture has; the whole set where a class would have fewer than `least`."""
    unseen = tuple(np.setdiff1d(rows, seen) for rows in of_dataset.by_class)
    return replace(of_dataset, by_class=unseen) if min(map(len, unseen)) >= least else of_dataset


def _queries(
    by_class: Sequence[Ints], exemplars: Sequence[int], rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Examples that are no exemplars with their classes: one of every class, another of each, …"""
    left = [rng.permutation(np.setdiff1d(rows, exemplars)).tolist() for rows in by_class]
    order = rng.permutation(len(left)).tolist()
    for depth in range(max(map(len, left))):
        yield from ((left[c][depth], c) for c in order if depth < len(left[c]))
