"""Which exemplars, which symbols, which format, which query: prompts as rows of references.

A row of `tables.TUNING_MIXTURE` holds no text of an example, only its number. Sampling is vectorised
over prompts. References, symbols and each control have a stream of random numbers of their own, so
that a setting changes what it names and nothing else.

Shapes: P prompts of one dataset, C classes, K exemplars of a class, padded to the most.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from symtune_pipeline.catalog.formats import prompt_formats
from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.symbols import SymbolSampler
from symtune_pipeline.sections import MixtureConfig
from symtune_pipeline.tables import TUNING_MIXTURE

SHOWN = 10  # classes that a sentence names
CHUNK = 20_000  # prompts drawn at a time: bounds memory, and seeds each chunk on its own


@dataclass(frozen=True)
class ClassPool:
    """The examples of one dataset by class: `by_class[c]` holds the example numbers of class c."""

    dataset: str
    labels: tuple[str, ...]
    by_class: tuple[NDArray[np.int64], ...]


def class_pools(examples: pl.DataFrame) -> list[ClassPool]:
    """Pools from a table of examples (example, dataset, label, label_id), datasets in order.

    Raises UserError for a dataset with one class, or with fewer than two examples of a class.
    """
    pools = []
    for (dataset,), group in examples.group_by("dataset", maintain_order=True):
        classes = (
            group.group_by("label_id").agg("example", pl.col("label").first()).sort("label_id")
        )
        counts = classes["example"].list.len().to_list()
        if len(classes) < 2 or min(counts) < 2:
            rarest = sorted(zip(counts, classes["label"], strict=True))[:SHOWN]
            count_of = {label: count for count, label in rarest}
            more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
            raise UserError(
                f"Dataset '{dataset}' cannot make a prompt: it needs two classes with two examples"
                f" each and has {count_of}{more}; add examples or take it out of the experiment."
            )
        by_class = tuple(np.sort(rows.to_numpy()) for rows in classes["example"])
        pools.append(ClassPool(str(dataset), tuple(classes["label"]), by_class))
    return pools


def sets_to_draw(
    there: Collection[str], config: MixtureConfig, seed: int, left_out: Collection[str] = ()
) -> list[str]:
    """The sets that prompts are drawn from: `config.sets` of those that are there, without `left_out`.

    They are the first in an order that depends on the seed alone, so that fewer sets are a part of
    more, and a set that is left out makes room for the next one. Raises UserError for more than there are.
    """
    kept = set(there).difference(left_out)
    if (config.sets or 0) > len(kept):
        raise UserError(
            f"mixture.sets is {config.sets}, above the {len(kept)} sets that are there; lower it, or bring"
            " those that are missing."
        )
    order = sorted(kept, key=lambda dataset: hashlib.sha256(f"{seed}/{dataset}".encode()).digest())
    return sorted(order[: config.sets])


def mixture_chunks(
    examples: pl.DataFrame,
    sampler: SymbolSampler,
    config: MixtureConfig,
    seed: int,
) -> Iterator[pl.DataFrame]:
    """The symbol-tuning mixture, in frames of at most `CHUNK` prompts.

    `examples` has the columns example (a number), dataset, input, label, label_id. Each prompt
    draws a dataset, k exemplars of every class with k uniform in `config.exemplars_per_class`, a
    query of any class, fresh symbols of the sampler and one of the formats (Wei et al. 2023). k is
    lowered where the prompt would exceed `config.max_characters` or a class has too few examples.
    Each exemplar shows another class's symbol with a chance of `config.label_noise`, and at least one
    of the query's class its own.
    Raises UserError where there is no example.
    """
    if examples.is_empty():
        raise UserError(
            "There is no example to tune on; add a set with 'role: tuning' to the experiment."
        )
    pools = class_pools(examples)
    characters = lengths_of(examples)
    shares = _shares(pools, config.temperature)
    for start in range(0, config.prompts, CHUNK):
        size = min(CHUNK, config.prompts - start)
        references, symbols, instructions, deal, noise = (
            np.random.default_rng([seed, zlib.crc32(stream), start])
            for stream in (b"mixture", b"symbols", b"instructions", b"deal", b"noise")
        )
        dataset_of = references.choice(len(pools), size=size, p=shares)
        instructed = instructions.random(size) < config.instructed_share
        frames = []
        for i, of_dataset in enumerate(pools):
            (prompts,) = np.nonzero(dataset_of == i)
            if len(prompts):
                drawn = references_of(of_dataset, len(prompts), characters, config, references)
                labels = sampler.draw(len(prompts), len(of_dataset.labels), symbols)
                natural = instructed[prompts] | (config.labels == "natural")
                labels[natural] = of_dataset.labels
                frames.append(
                    drawn.with_columns(
                        prompt=pl.Series(start + prompts, dtype=pl.UInt32),
                        labels=pl.Series(labels.tolist(), dtype=pl.List(pl.String)),
                        instructed=pl.Series(instructed[prompts]),
                    )
                )
        chunk = pl.concat(frames).sort("prompt").select(*TUNING_MIXTURE.columns)
        if config.label_noise:
            chunk = _noisy(chunk, config.label_noise, noise)
        yield _dealt_out(chunk, deal) if config.labels == "shuffled" else chunk


def lengths_of(examples: pl.DataFrame) -> NDArray[np.int64]:
    """Characters of the inputs by example number; 0 for a number that is not there."""
    numbers = examples["example"].to_numpy()
    lengths = np.zeros(int(numbers.max()) + 1, dtype=np.int64)
    lengths[numbers] = examples["input"].str.len_chars().to_numpy()
    return lengths


def drawn_sets(mixture: pl.LazyFrame) -> list[str]:
    """The sets that a mixture has prompts of, in order."""
    sets = mixture.select(pl.col("dataset").unique()).collect(engine="streaming")
    return sorted(sets["dataset"])


def short_prompts(mixture: pl.LazyFrame, config: MixtureConfig) -> dict[str, int]:
    """By dataset, how many prompts have fewer exemplars of a class than the setting's least."""
    k = (pl.col("examples").list.len() - 1) // pl.col("labels").list.len()
    short = mixture.filter(k < config.exemplars_per_class[0]).group_by("dataset").len()
    return dict(short.sort("dataset").collect(engine="streaming").iter_rows())


def _shares(pools: list[ClassPool], temperature: float | None) -> NDArray[np.float64]:
    """How often each dataset is drawn; the shares sum to 1."""
    sizes = np.array([sum(map(len, of_dataset.by_class)) for of_dataset in pools])
    weights = np.zeros(len(pools)) if temperature is None else np.log(sizes) / temperature
    weights = np.exp(weights - weights.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def references_of(
    of_dataset: ClassPool,
    prompts: int,
    characters: NDArray[np.int64],
    config: MixtureConfig,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """The columns of P prompts of one dataset that do not depend on symbols."""
    low, high = config.exemplars_per_class
    n_classes = len(of_dataset.by_class)
    # One example more than the exemplars, so that the query is never among them.
    width = min(high, min(len(rows) for rows in of_dataset.by_class) - 1) + 1
    drawn_PCK = np.stack(
        [rows[distinct(prompts, len(rows), width, rng)] for rows in of_dataset.by_class], axis=1
    )
    query_class = rng.integers(n_classes, size=prompts)
    query = drawn_PCK[np.arange(prompts), query_class, -1]
    exemplars_PCK = drawn_PCK[:, :, :-1]

    k = rng.integers(low, high + 1, size=prompts)
    per_round = characters[exemplars_PCK].sum(axis=1).cumsum(axis=1) + characters[query][:, None]
    fitting = (per_round <= config.max_characters).sum(axis=1)
    k = np.clip(np.minimum(k, fitting), 1, width - 1)

    used_PCK = np.broadcast_to(np.arange(width - 1) < k[:, None, None], exemplars_PCK.shape)
    keys_PCK = rng.random(exemplars_PCK.shape)
    keys_PCK[~used_PCK] = 2.0  # past every used one
    order = keys_PCK.reshape(prompts, -1).argsort(axis=1)
    classes = np.broadcast_to(np.arange(n_classes)[None, :, None], exemplars_PCK.shape)
    counts = k * n_classes
    examples = _ragged(exemplars_PCK.reshape(prompts, -1), order, counts, query, pa.uint32())
    targets = _ragged(classes.reshape(prompts, -1), order, counts, query_class, pa.uint16())
    return pl.DataFrame(
        {
            "dataset": pl.Series([of_dataset.dataset]).new_from_index(0, prompts),
            "format": pl.Series(rng.integers(len(prompt_formats()), size=prompts), dtype=pl.UInt8),
            "examples": pl.Series(examples),
            "targets": pl.Series(targets),
        }
    )


def _noisy(mixture: pl.DataFrame, share: float, rng: np.random.Generator) -> pl.DataFrame:
    """With that chance the target of an exemplar becomes another class, each equally likely.

    Queries and instructed prompts stay. So does an exemplar of the query's class where all of them
    would change: else nothing in the prompt tells the label that a loss asks for.
    """
    counts = mixture["targets"].list.len().to_numpy().astype(np.int64)
    targets = mixture["targets"].explode().to_numpy()
    classes = np.repeat(mixture["labels"].list.len().to_numpy().astype(np.int64), counts)
    others = (targets + rng.integers(1, classes)) % classes
    chances = rng.random(len(targets))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    queries = offsets[1:] - 1
    chosen = chances < share
    chosen &= ~np.repeat(mixture["instructed"].to_numpy(), counts)
    chosen[queries] = False
    of_query = targets == np.repeat(targets[queries], counts)
    of_query[queries] = False
    last = np.maximum.reduceat(np.where(of_query, chances, -1.0), offsets[:-1])  # to be chosen
    chosen &= ~of_query | (chances < np.repeat(last, counts))
    noisy = np.where(chosen, others, targets).astype(targets.dtype)
    return mixture.with_columns(
        targets=pl.Series(pa.LargeListArray.from_arrays(offsets, pa.array(noisy)))
    )


def _dealt_out(mixture: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """The targets of each prompt, the query's too, in random order; instructed prompts stay."""
    counts = mixture["targets"].list.len().to_numpy()
    targets = mixture["targets"].explode().to_numpy()
    order = np.where(
        np.repeat(mixture["instructed"].to_numpy(), counts),
        np.arange(len(targets)) / len(targets),
        rng.random(len(targets)),
    )
    dealt = targets[np.lexsort((order, np.repeat(np.arange(len(mixture)), counts)))]
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return mixture.with_columns(
        targets=pl.Series(pa.LargeListArray.from_arrays(offsets, pa.array(dealt)))
    )


def distinct(rows: int, size: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Per row, `count` different numbers below `size`, every subset equally likely: [rows, count].

    Floyd's algorithm (Bentley and Floyd 1987), one column at a time; columns are then shuffled
    because Floyd's order is not uniform.
    """
    drawn = np.empty((rows, count), dtype=np.int64)
    for i, top in enumerate(range(size - count, size)):
        candidate = rng.integers(top + 1, size=rows)
        taken = (drawn[:, :i] == candidate[:, None]).any(axis=1)
        drawn[:, i] = np.where(taken, top, candidate)
    return rng.permuted(drawn, axis=1)


def _ragged(
    values: NDArray[np.int64],
    order: NDArray[np.int64],
    counts: NDArray[np.int64],
    last: NDArray[np.int64],
    dtype: pa.DataType,
) -> pa.Array:
    """Per row, the first `counts` of `values` in `order`, then `last`, as an Arrow list array."""
    ordered = np.concatenate([np.take_along_axis(values, order, axis=1), last[:, None]], axis=1)
    keep = np.arange(ordered.shape[1]) < counts[:, None]
    keep[:, -1] = True
    offsets = np.concatenate([[0], np.cumsum(counts + 1)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(offsets, pa.array(ordered[keep], type=dtype))
