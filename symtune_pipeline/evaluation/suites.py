"""The evaluation suites: every prompt of every benchmark, as references.

Rows of one context are neighbours and share everything but query and target. Under the protocol
`per_query` every query is a context of its own. All settings of a context share exemplars, queries
and format, so that settings and models are compared in pairs. Where several numbers of exemplars are
asked, the exemplars of a smaller one are among those of a larger one, in the same order.
This module knows nothing about models.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
import polars as pl
from numpy.typing import NDArray

from symtune_pipeline.catalog.formats import prompt_formats
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.concepts import (
    Concept,
    Prompt,
    Published,
    benchmarks,
    published_formats,
)
from symtune_pipeline.prompts.mixture import ClassPool, class_pools, distinct
from symtune_pipeline.prompts.symbols import SymbolSampler
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import (
    ALGORITHMIC_SUITE,
    CLASSIFICATION_SUITE,
    LANGUAGE_SUITE,
    SETTINGS,
    ZERO_SHOT,
    Setting,
    exemplars_setting,
    flipped_setting,
    noisy_setting,
)

Row = tuple[object, ...]


def classification_suite(
    examples: pl.DataFrame,
    pool: pl.DataFrame,
    instructions: Mapping[str, str],
    config: EvaluationConfig,
    seed: int,
) -> pl.DataFrame:
    """In-context learning in four settings, and flipped labels: `tables.CLASSIFICATION_SUITE`.

    For each share of `config.label_noise` the settings with symbols are asked once more, where that
    share of the exemplars, in whole ones, shows another class's symbol.
    The queries of flipped labels are also asked without exemplars, which shows what a model takes the
    labels to mean; the target is then the true one.
    `examples` has the columns example, dataset, label, label_id, purpose ('exemplar' or 'query')
    and halved; `instructions` are by dataset. Under `per_query`, any other row of a halved dataset
    may be an exemplar of a query. A dataset with fewer queries than asked for has those it has.
    Raises UserError for a dataset with too few exemplars of a class or no query.
    """
    sampler = SymbolSampler(pool, "evaluation")
    either = pl.col("halved") & pl.lit(config.protocol == "per_query")
    askable = examples.filter((pl.col("purpose") == "query") | either)
    rows: list[Row] = []
    for of_dataset in class_pools(examples.filter((pl.col("purpose") == "exemplar") | either)):
        candidates = askable.filter(dataset=of_dataset.dataset).sort("example")
        _check(of_dataset, candidates, config)
        rng = np.random.default_rng([seed, zlib.crc32(of_dataset.dataset.encode())])
        noise = np.random.default_rng([seed, zlib.crc32(f"noise/{of_dataset.dataset}".encode())])
        for context, queries in enumerate(_queries(candidates, of_dataset, config, rng)):
            symbols = [str(symbol) for symbol in sampler.draw(1, len(of_dataset.labels), rng)[0]]
            instruction = instructions[of_dataset.dataset]
            rows += _context(of_dataset, context, queries, symbols, instruction, config, rng, noise)
    return CLASSIFICATION_SUITE.frame(rows, orient="row")


def asked_queries(config: EvaluationConfig) -> int:
    """How many queries of every dataset the settings ask for."""
    contexts, queries = _shape(config)
    return contexts * queries


def short_of_queries(suite: pl.DataFrame, config: EvaluationConfig) -> dict[str, int]:
    """By dataset, its number of queries where that is below what the settings ask for."""
    counts = suite.group_by("dataset").agg(pl.col("query").n_unique()).sort("dataset")
    return dict(counts.filter(pl.col("query") < asked_queries(config)).iter_rows())


def algorithmic_suite(
    config: EvaluationConfig, seed: int, published: Published | None = None
) -> pl.DataFrame:
    """Every algorithmic benchmark, fresh and then published prompts: `tables.ALGORITHMIC_SUITE`.

    A fresh concept is one context: `config.algorithmic_shots` solved inputs, then
    `config.algorithmic_queries` inputs that are not among them. None of it was published. Of the
    published prompts there are as many concepts, and as many queries of each context.
    """
    published = published or Published()
    # One stream for all benchmarks, in their order: a new one comes last and changes no other.
    rng = random.Random(f"algorithmic/{seed}")
    rows: list[Row] = []
    for key, benchmark in benchmarks().items():
        for concept in benchmark.fresh(config, rng, published):
            rows += _fresh_rows(key, concept, config)
    for key in published_formats():
        rows += _published_rows(key, published, config, seed)
    return ALGORITHMIC_SUITE.frame(rows, orient="row")


def language_suite(examples: pl.DataFrame, texts: int, seed: int) -> pl.DataFrame:
    """At most so many texts of every dataset, drawn by seed: `tables.LANGUAGE_SUITE`.

    `examples` has the columns example and dataset.
    """
    drawn = []
    for (dataset,), rows in examples.sort("dataset", "example").group_by(
        "dataset", maintain_order=True
    ):
        rng = np.random.default_rng([seed, zlib.crc32(f"language/{dataset}".encode())])
        picked = rows[np.sort(rng.permutation(len(rows))[:texts])]
        drawn += picked.select("dataset", "example").rows()
    return LANGUAGE_SUITE.frame(drawn, orient="row")


def flip(
    targets: NDArray[np.int64], percent: int, permutation: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Targets of exemplars, with `percent` of each class's, in whole exemplars, mapped by `permutation`.

    A query's target is the mapped one at every percentage, so that accuracy counts following the
    flip: at 0% a model that follows its exemplars is always wrong, at 100% always right, and between
    them the exemplars of a class contradict each other.
    """
    flipped = targets.copy()
    for label in np.unique(targets):
        (exemplars,) = np.nonzero(targets == label)
        flipped[exemplars[: round(len(exemplars) * percent / 100)]] = permutation[label]
    return flipped


def derangement(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random permutation of `size` classes that moves every one."""
    while True:
        permutation = rng.permutation(size)
        if (permutation != np.arange(size)).all():
            return permutation


def _context(
    of_dataset: ClassPool,
    context: int,
    queries: Sequence[tuple[int, int]],
    symbols: list[str],
    instruction: str,
    config: EvaluationConfig,
    rng: np.random.Generator,
    noise: np.random.Generator,
) -> list[Row]:
    """The rows of one draw of exemplars: all its queries in every setting, with each number of exemplars."""
    counts = config.exemplar_counts
    most = counts[-1]
    own = [query for query, _ in queries]
    pools = [pool[~np.isin(pool, own)] for pool in of_dataset.by_class]
    drawn = np.concatenate([pool[distinct(1, len(pool), most, rng)[0]] for pool in pools])
    targets = np.repeat(np.arange(len(of_dataset.by_class)), most)
    order = rng.permutation(len(drawn))
    style = int(rng.integers(len(prompt_formats())))
    permutation = derangement(len(of_dataset.by_class), rng)
    natural = list(of_dataset.labels)

    def rows(
        benchmark: str, name: str, percent: int, opening: str | None, labels: list[str],
        exemplar_targets: NDArray[np.int64], target_of: NDArray[np.int64],
        shown: NDArray[np.int64],
    ) -> list[Row]:  # fmt: skip
        return [
            (benchmark, name, percent, of_dataset.dataset, context, style, opening,
             drawn[shown].tolist(), exemplar_targets[shown].tolist(), labels, query,
             int(target_of[label]))
            for query, label in queries
        ]  # fmt: skip

    def named(setting: str, count: int) -> str:
        return exemplars_setting(setting, count) if len(counts) > 1 else setting

    all_rows = []
    unchanged = np.arange(len(natural))
    # Of each class the first that were drawn, which are in no order: a smaller number is part of a larger.
    first = {count: np.arange(len(drawn)) % most < count for count in counts}
    noisy = _noise(targets, len(natural), noise)
    for (setting, share), count in product(_asked(config), counts):
        opening = instruction if setting.instructed else None
        labels = natural if setting.relevant else symbols
        name = named(noisy_setting(setting.name, share), count)
        shown = order[first[count][order]]
        shown_as = noisy(first[count], share)
        all_rows += rows("icl", name, 0, opening, labels, shown_as, unchanged, shown)
    left_out = config.flipped_sets == "two_labels" and len(natural) > 2
    percents = () if left_out else config.flipped_percents
    for percent, count in product(percents, counts):
        flipped = targets.copy()
        flipped[first[count]] = flip(targets[first[count]], percent, permutation)
        name, shown = named(flipped_setting(percent), count), order[first[count][order]]
        all_rows += rows("flipped", name, percent, None, natural, flipped, permutation, shown)
    if percents:
        all_rows += rows("flipped", ZERO_SHOT, 0, None, natural, targets, unchanged, order[:0])
    return all_rows


def _asked(config: EvaluationConfig) -> list[tuple[Setting, float]]:
    """The in-context settings, without noise, and then those of symbols with each share of it."""
    shares = [share for share in config.label_noise if share]
    noisy = [(setting, share) for share in shares for setting in SETTINGS if not setting.relevant]
    return [*((setting, 0.0) for setting in SETTINGS), *noisy]


def _noise(
    targets: NDArray[np.int64], classes: int, rng: np.random.Generator
) -> Callable[[NDArray[np.bool_], float], NDArray[np.int64]]:
    """Gives targets of which that share of the chosen ones, in whole ones, is another class.

    A larger share has the wrong targets of a smaller one.
    """
    wrong = (targets + rng.integers(1, classes, size=len(targets))) % classes
    turn = rng.permutation(len(targets))

    def noisy(chosen: NDArray[np.bool_], share: float) -> NDArray[np.int64]:
        in_turn = turn[chosen[turn]]
        replaced = in_turn[: round(share * len(in_turn))]
        shown = targets.copy()
        shown[replaced] = wrong[replaced]
        return shown

    return noisy


def _fresh_rows(benchmark: str, concept: Concept, config: EvaluationConfig) -> list[Row]:
    inputs, outputs = list(concept.pairs), list(concept.pairs.values())
    shots = config.algorithmic_shots
    return [
        (benchmark, "fresh", concept.name, concept.category, 0, inputs[:shots], outputs[:shots],
         query, inputs[shots + query], outputs[shots + query])
        for query in range(config.algorithmic_queries)
    ]  # fmt: skip


def _published_rows(
    benchmark: str, published: Published, config: EvaluationConfig, seed: int
) -> list[Row]:
    """The published prompts of a benchmark; those that show the same pairs are one context."""
    style = published_formats()[benchmark]
    rng = random.Random(f"published/{seed}")
    selected = set(style.select(config, sorted(published.concepts(benchmark)), rng))
    contexts: dict[str, dict[tuple[str, ...], list[Prompt]]] = {}
    for prompt in published.prompts:
        if prompt.benchmark == benchmark and prompt.concept in selected:
            of_concept = contexts.setdefault(prompt.concept, {})
            of_concept.setdefault((*prompt.inputs, *prompt.outputs), []).append(prompt)
    return [
        (benchmark, "published", concept, style.category(concept), context, prompt.inputs,
         prompt.outputs, query, prompt.query_input, prompt.target)
        for concept, of_concept in contexts.items()
        for context, prompts in enumerate(of_concept.values())
        for query, prompt in enumerate(prompts[: config.algorithmic_queries])
    ]  # fmt: skip


def _check(of_dataset: ClassPool, candidates: pl.DataFrame, config: EvaluationConfig) -> None:
    """Raises UserError where the exemplars or the queries of a dataset are too few."""
    queries = candidates["example"].to_numpy()
    # A row that is a query cannot be an exemplar of it too.
    smallest = min(len(rows) - bool(np.isin(rows, queries).any()) for rows in of_dataset.by_class)
    most = config.exemplar_counts[-1]
    if smallest < most:
        raise UserError(
            f"Dataset '{of_dataset.dataset}' has {smallest} exemplars of its rarest class; lower"
            f" evaluation.exemplars_per_class from {most} or leave it out."
        )
    if candidates.is_empty():
        raise UserError(
            f"Dataset '{of_dataset.dataset}' has no example for a query; add some or leave it out."
        )
    unseen = sorted(set(candidates["label"]) - set(of_dataset.labels))
    if unseen:
        raise UserError(
            f"Dataset '{of_dataset.dataset}' has queries of class '{unseen[0]}' and no exemplar of it; add"
            " exemplars or leave it out."
        )


def _queries(
    candidates: pl.DataFrame,
    of_dataset: ClassPool,
    config: EvaluationConfig,
    rng: np.random.Generator,
) -> list[list[tuple[int, int]]]:
    """Per context, its queries as (example, class); no query is used in two contexts."""
    contexts, queries = _shape(config)
    contexts = min(contexts, len(candidates))
    queries = min(queries, len(candidates) // contexts)
    class_of = {label: i for i, label in enumerate(of_dataset.labels)}
    picked = [
        (example, class_of[label])
        for example, label in candidates.select("example", "label")[
            rng.permutation(len(candidates))[: contexts * queries]
        ].iter_rows()
    ]
    return [picked[i : i + queries] for i in range(0, len(picked), queries)]


def _shape(config: EvaluationConfig) -> tuple[int, int]:
    """Contexts of a dataset, and queries of a context, that the settings ask for."""
    if config.protocol == "per_query":
        return config.queries, 1
    return config.contexts, config.queries
