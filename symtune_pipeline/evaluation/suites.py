"""The evaluation suites: every prompt of every benchmark, as references.

A row of the classification suite is one query after one context:

    benchmark, setting, flipped_percent    what is measured
    dataset, context, format, instruction  where the prompt comes from and how it is shown
    exemplars, exemplar_answers            example numbers, and the class each is labelled with
    labels                                 the text that stands for each class
    query, answer                          example number and the expected class

Rows of one context are neighbours and share everything but query and answer. Under the protocol
`per_query` every query is a context of its own. All settings of a context share exemplars, queries
and format, so that settings and models are compared in pairs.
This module knows nothing about models.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from symtune_pipeline.catalog.formats import prompt_formats
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.benchmarks import list_functions
from symtune_pipeline.evaluation.benchmarks import turing_concepts as turing
from symtune_pipeline.evaluation.benchmarks.published import Prompt, Published
from symtune_pipeline.experiment import EvaluationConfig
from symtune_pipeline.prompts.mixture import ClassPool, class_pools, distinct
from symtune_pipeline.prompts.symbols import SymbolSampler

CLASSIFICATION, ALGORITHMIC = "classification.parquet", "algorithmic.parquet"  # the suites' files

SETTINGS = (  # name, relevant labels, instruction
    ("relevant labels, instruction", True, True),
    ("relevant labels, no instruction", True, False),
    ("symbols, instruction", False, True),
    ("symbols, no instruction", False, False),
)

CLASSIFICATION_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "benchmark": pl.String,
    "setting": pl.String,
    "flipped_percent": pl.Int32,
    "dataset": pl.String,
    "context": pl.UInt32,
    "format": pl.UInt8,
    "instruction": pl.String,  # null: none
    "exemplars": pl.List(pl.UInt32),
    "exemplar_answers": pl.List(pl.UInt8),
    "labels": pl.List(pl.String),
    "query": pl.UInt32,
    "answer": pl.UInt8,
}

ALGORITHMIC_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "benchmark": pl.String,
    "setting": pl.String,
    "concept": pl.String,
    "category": pl.String,
    "context": pl.UInt32,
    "inputs": pl.List(pl.String),
    "outputs": pl.List(pl.String),
    "query": pl.UInt32,
    "query_input": pl.String,
    "expected": pl.String,
}


def classification_suite(
    examples: pl.DataFrame,
    pool: pl.DataFrame,
    instructions: Mapping[str, str],
    config: EvaluationConfig,
    seed: int,
) -> pl.DataFrame:
    """In-context learning in four settings, and flipped labels.

    `examples` has the columns example, dataset, label, label_id, purpose ('exemplar' or 'query')
    and halved; `instructions` are by dataset. Under `per_query`, any other row of a halved dataset
    may be an exemplar of a query. A dataset with fewer queries than asked for has those it has.
    Raises UserError for a dataset with too few exemplars of a class or no query.
    """
    sampler = SymbolSampler(pool, "evaluation")
    either = pl.col("halved") & pl.lit(config.protocol == "per_query")
    askable = examples.filter((pl.col("purpose") == "query") | either)
    rows: list[tuple[object, ...]] = []
    for chosen in class_pools(examples.filter((pl.col("purpose") == "exemplar") | either)):
        candidates = askable.filter(dataset=chosen.dataset).sort("example")
        _check(chosen, candidates, config)
        rng = np.random.default_rng([seed, zlib.crc32(chosen.dataset.encode())])
        for context, queries in enumerate(_queries(candidates, chosen, config, rng)):
            symbols = [str(symbol) for symbol in sampler.draw(1, len(chosen.labels), rng)[0]]
            instruction = instructions[chosen.dataset]
            rows += _context(chosen, context, queries, symbols, instruction, config, rng)
    return pl.DataFrame(rows, schema=CLASSIFICATION_SCHEMA, orient="row")


def asked_queries(config: EvaluationConfig) -> int:
    """How many queries of every dataset the settings ask for."""
    contexts, queries = _shape(config)
    return contexts * queries


def short_of_queries(suite: pl.DataFrame, config: EvaluationConfig) -> dict[str, int]:
    """By dataset, its number of queries where that is below what the settings ask for."""
    counts = suite.group_by("dataset").agg(pl.col("query").n_unique()).sort("dataset")
    return dict(counts.filter(pl.col("query") < asked_queries(config)).iter_rows())


def ranked(
    suite: pl.DataFrame, logprobs: Sequence[Sequence[float]], dropped: Sequence[int]
) -> pl.DataFrame:
    """Predictions on the classification suite from the log-probabilities of each row's labels.

    One row per row of the suite, in its order: the suite's keys and

        target, choice    expected and chosen class
        correct           whether they are equal
        logprobs          log-probability of each label, in nats
        chance            1 / number of classes
        dropped           exemplars left out so that the longest prompt of its context fits the model
    """
    keys = ("setting", "flipped_percent", "dataset", "context", "query", "labels")
    return (
        suite.select(*keys, pl.col("answer").alias("target"))
        .with_columns(
            choice=pl.Series([row.index(max(row)) for row in logprobs], dtype=pl.UInt8),
            logprobs=pl.Series(logprobs, dtype=pl.List(pl.Float64)),
            chance=1.0 / pl.col("labels").list.len(),
            dropped=pl.Series(dropped, dtype=pl.UInt32),
        )
        .with_columns(correct=pl.col("choice") == pl.col("target"))
    )


def algorithmic_suite(
    config: EvaluationConfig, seed: int, published: Published | None = None
) -> pl.DataFrame:
    """List functions and simple Turing concepts: fresh inputs, then the published prompts.

    A fresh concept is one context: `config.algorithmic_shots` solved inputs, then
    `config.algorithmic_queries` inputs that are not among them. None of it was published: no input
    of a list function, and no program. Of the published prompts there are as many concepts (of
    the programs, a sample by seed), and as many queries of each context.
    """
    published = published or Published()
    rng = random.Random(f"algorithmic/{seed}")
    rows: list[tuple[object, ...]] = []
    functions = list(list_functions.FUNCTIONS)[: config.list_functions]
    for name in functions:
        pairs: dict[str, str] = {}
        while len(pairs) < config.algorithmic_shots + config.algorithmic_queries:
            values = list_functions.random_input(name, rng)
            if (name, list_functions.text(values)) not in published.seen:
                pairs[list_functions.text(values)] = list_functions.text(
                    list_functions.apply(name, values)
                )
        rows += _concept("list_functions", name, pairs, config)
    known = published.programs
    for _ in range(config.turing_programs):
        while (program := turing.random_program(rng)) in known:
            pass
        known = known | {program}
        pairs = {}
        while len(pairs) < config.algorithmic_shots + config.algorithmic_queries:
            tape = turing.random_input(rng)
            pairs[tape] = turing.run(program, tape)
        rows += _concept("turing_concepts", program, pairs, config)
    programs = sorted(published.programs)
    sample = random.Random(f"published/{seed}").sample(
        programs, min(config.turing_programs, len(programs))
    )
    rows += _published(published, {*functions, *sample}, config)
    return pl.DataFrame(rows, schema=ALGORITHMIC_SCHEMA, orient="row")


def flip(
    answers: NDArray[np.int64], percent: int, permutation: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Answers of exemplars, with `percent` of each class's, in whole exemplars, mapped by `permutation`.

    A query's expected answer is the mapped one at every percentage, so that accuracy counts
    following the flip: at 0% a model that follows its exemplars is always wrong, at 100% always
    right, and between them the exemplars of a class contradict each other.
    """
    flipped = answers.copy()
    for label in np.unique(answers):
        (places,) = np.nonzero(answers == label)
        flipped[places[: round(len(places) * percent / 100)]] = permutation[label]
    return flipped


def derangement(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random permutation of `size` classes that leaves none in its place."""
    while True:
        permutation = rng.permutation(size)
        if (permutation != np.arange(size)).all():
            return permutation


def _context(
    chosen: ClassPool,
    context: int,
    queries: Sequence[tuple[int, int]],
    symbols: list[str],
    instruction: str,
    config: EvaluationConfig,
    rng: np.random.Generator,
) -> list[tuple[object, ...]]:
    count = config.exemplars_per_class
    asked = [query for query, _ in queries]
    pools = [pool[~np.isin(pool, asked)] for pool in chosen.by_class]
    drawn = np.concatenate([pool[distinct(1, len(pool), count, rng)[0]] for pool in pools])
    answers = np.repeat(np.arange(len(chosen.by_class)), count)
    order = rng.permutation(len(drawn))
    style = int(rng.integers(len(prompt_formats())))
    permutation = derangement(len(chosen.by_class), rng)
    natural = list(chosen.labels)
    unchanged = np.arange(len(natural))

    variants = [
        (
            "icl",
            setting,
            0,
            instruction if told else None,
            answers,
            natural if relevant else symbols,
            unchanged,
        )
        for setting, relevant, told in SETTINGS
    ] + [
        (
            "flipped",
            "natural labels, no instruction",
            percent,
            None,
            flip(answers, percent, permutation),
            natural,
            permutation,
        )
        for percent in config.flipped_percents
    ]
    return [
        (benchmark, setting, percent, chosen.dataset, context, style, told,
         drawn[order].tolist(), shown[order].tolist(), labels, query, int(expected[label]))
        for benchmark, setting, percent, told, shown, labels, expected in variants
        for query, label in queries
    ]  # fmt: skip


def _concept(
    benchmark: str, concept: str, pairs: dict[str, str], config: EvaluationConfig
) -> list[tuple[object, ...]]:
    inputs, outputs = list(pairs), list(pairs.values())
    shots = config.algorithmic_shots
    return [
        (benchmark, "fresh", concept, _category(concept), 0, inputs[:shots], outputs[:shots], query,
         inputs[shots + query], outputs[shots + query])
        for query in range(config.algorithmic_queries)
    ]  # fmt: skip


def _published(
    published: Published, concepts: set[str], config: EvaluationConfig
) -> list[tuple[object, ...]]:
    """The published prompts of these concepts; those that show the same pairs are one context."""
    contexts: dict[str, dict[tuple[str, ...], list[Prompt]]] = {}
    for prompt in published.prompts:
        if prompt.concept in concepts:
            shown = contexts.setdefault(prompt.concept, {})
            shown.setdefault((*prompt.inputs, *prompt.outputs), []).append(prompt)
    return [
        (prompt.benchmark, "published", concept, _category(concept), context, prompt.inputs,
         prompt.outputs, query, prompt.query_input, prompt.expected)
        for concept, shown in contexts.items()
        for context, prompts in enumerate(shown.values())
        for query, prompt in enumerate(prompts[: config.algorithmic_queries])
    ]  # fmt: skip


def _category(concept: str) -> str:
    """A list function's category; programs are all of one."""
    function = list_functions.FUNCTIONS.get(concept)
    return function.category if function else "P3 program"


def _check(chosen: ClassPool, candidates: pl.DataFrame, config: EvaluationConfig) -> None:
    """Raises UserError where the exemplars or the queries of a dataset are too few."""
    asked = candidates["example"].to_numpy()
    # A row that is asked cannot be shown too.
    smallest = min(len(rows) - bool(np.isin(rows, asked).any()) for rows in chosen.by_class)
    if smallest < config.exemplars_per_class:
        raise UserError(
            f"Dataset '{chosen.dataset}' has {smallest} exemplars of its rarest class; lower"
            f" evaluation.exemplars_per_class from {config.exemplars_per_class} or leave it out."
        )
    if candidates.is_empty():
        raise UserError(
            f"Dataset '{chosen.dataset}' has no example for a query; add some or leave it out."
        )
    unseen = sorted(set(candidates["label"]) - set(chosen.labels))
    if unseen:
        raise UserError(
            f"Dataset '{chosen.dataset}' has queries of class '{unseen[0]}' and no exemplar of it; add"
            " exemplars or leave it out."
        )


def _queries(
    candidates: pl.DataFrame, chosen: ClassPool, config: EvaluationConfig, rng: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """Per context, its queries as (example, class); no query is used in two contexts."""
    contexts, queries = _shape(config)
    contexts = min(contexts, len(candidates))
    queries = min(queries, len(candidates) // contexts)
    answers = {label: place for place, label in enumerate(chosen.labels)}
    picked = [
        (example, answers[label])
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
