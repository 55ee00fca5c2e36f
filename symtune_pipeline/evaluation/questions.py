"""How much the suites ask of a model: counted with its tokenizer, or estimated from the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import polars as pl

from symtune_pipeline.evaluation.ways import WAYS, in_all_ways
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.sources.lengths import example_tokens
from symtune_pipeline.tables import SETTINGS, Suite, benchmarks_of

# For estimates: tokens of a label.
LABEL_TOKENS = 2
CONCEPT_TOKENS = 40  # of an example of an algorithmic concept
NEW_TOKENS = 32  # that the longest answer to one has


@dataclass(frozen=True)
class Part:
    """What is asked of one variant for one benchmark, or for all algorithmic ones."""

    name: str
    contexts: int
    tokens: float  # that run through the model, what is shared once
    targets: float  # tokens whose log-probability is asked for
    prompts: int = 0  # that are completed
    new_tokens: int = 0  # that a completion has at most


@dataclass(frozen=True)
class Questions:
    """All that a variant is asked, and where the numbers come from."""

    source: str
    parts: Sequence[Part]


def estimated(
    experiment: Experiment, source: str, lengths: Mapping[str, float] | None = None
) -> Questions:
    """What the settings and the sets let expect; `source` says that it is an estimate.

    `lengths` are the mean characters of the inputs of sets where known; else generated sets are drawn.
    """
    config, known = experiment.evaluation, lengths or {}
    evaluated = [entry for entry in experiment.datasets() if entry.role == "evaluation"]
    sets = [(len(each.labels), example_tokens(each, known.get(each.key))) for each in evaluated]
    contexts, queries = (
        (config.contexts, config.queries) if config.protocol == "shared" else (config.queries, 1)
    )
    numbers, shown = len(config.exemplar_counts), sum(config.exemplar_counts)

    def asked(name: str, sets: Sequence[tuple[int, float]], ways: int, bare: int) -> Part:
        """Every way to ask with each number of exemplars, and `bare` ways without any."""
        exemplars, times = contexts * sum(n * example for n, example in sets), ways * numbers
        # One query more a context has no content.
        queried = contexts * (queries + 1) * sum(example for _, example in sets)
        tokens = ways * exemplars * shown + (times + bare) * queried
        labels = contexts * sum(n for n, _ in sets) * (queries + 1) * LABEL_TOKENS
        # By channel a context shows its exemplars once more, and every query once after each label.
        inputs = exemplars * queries if config.channel else 0
        again = ways * exemplars * shown if config.channel else 0
        return Part(
            name,
            len(sets) * contexts * (times + bare),
            tokens + again + (times + bare) * (labels / 2 + inputs),
            (times + bare) * (labels + inputs),
        )

    two = config.flipped_sets == "two_labels"
    flipped = [(n, example) for n, example in sets if n == 2 or not two]
    flips = len(config.flipped_percents)
    of_symbols = sum(not setting.relevant for setting in SETTINGS)
    noisy = of_symbols * sum(share > 0 for share in config.label_noise)
    concepts = config.list_functions + config.turing_programs + sum(config.concepts.values())
    prompts = concepts * config.algorithmic_queries
    read = config.language_texts * sum(example for _, example in sets)
    parts = [
        asked("icl", sets, len(SETTINGS) + noisy, 0),
        asked("flipped", flipped, flips, 1 if flips else 0),
        Part(
            "algorithmic",
            concepts,
            concepts * config.algorithmic_shots * CONCEPT_TOKENS + prompts * CONCEPT_TOKENS,
            prompts,
            prompts,
            NEW_TOKENS,
        ),
        Part("language", len(sets) * config.language_texts, read, read),
    ]
    often = sum(not setting.instructed for setting in SETTINGS) * contexts
    exemplars = often * config.exemplar_counts[-1] * sum(n * example for n, example in sets)
    queried = often * (queries + 1) * sum(example for _, example in sets)
    parts += _finetuned(config.finetuned.steps, often * len(sets), exemplars, queried)
    return Questions(source, parts)


def _finetuned(steps: int, contexts: int, exemplars: float, queries: float) -> list[Part]:
    """What is asked before and after tuning on the exemplars, where it is: tokens of both, in all contexts.

    A step runs the exemplars forward and backward, which costs three times as much.
    """
    if not steps:
        return []
    tokens = 2 * (exemplars + 2 * queries) + 3 * steps * exemplars
    return [Part("fine-tuned", contexts, tokens, 4 * queries)]


def counted(
    tokenizer_folder: Path,
    suites: Mapping[Suite, pl.DataFrame],
    inputs: Sequence[str],
    limit: int,
    config: EvaluationConfig,
) -> Questions:
    """The suites as a model of `limit` tokens reads them, whose tokenizer is in a folder.

    `inputs` are the inputs by example number. Raises UserError as scoring does.
    """
    from symtune_pipeline.evaluation.classification import trees_of
    from symtune_pipeline.evaluation.generation import CONCEPT
    from symtune_pipeline.evaluation.language import LONGEST
    from symtune_pipeline.evaluation.predictions import by_context
    from symtune_pipeline.models.opening import open_tokenizer
    from symtune_pipeline.prompts.text import algorithmic_prompt, render
    from symtune_pipeline.prompts.tokens import SegmentTokenizer, shared_beginning

    tokenizer = open_tokenizer(tokenizer_folder)
    by_segment = SegmentTokenizer(tokenizer, config.chat_template)
    parts = []
    for benchmark in benchmarks_of("classification"):
        rows = suites["classification"].filter(pl.col("benchmark") == benchmark)
        contexts, asked_texts = by_context(rows, inputs)
        trees, _ = trees_of(contexts, by_segment, asked_texts, limit, config.channel)
        labels = [len(label) for tree in trees for query in tree.queries for label in query.labels]
        parts.append(Part(benchmark, len(trees), sum(t.tokens for t in trees), sum(labels)))
    encoder, frame = by_segment.encoder, by_segment.frame
    algorithmic = suites["algorithmic"]
    asked = list(algorithmic.iter_rows(named=True))
    prompts = encoder.ids([render(algorithmic_prompt(row, frame)) for row in asked])
    tokens = concepts = 0
    rows_of = zip(algorithmic.select(CONCEPT).iter_rows(), prompts, strict=True)
    for _, group in groupby(rows_of, key=lambda pair: pair[0]):
        own = [prompt for _, prompt in group]
        alike = shared_beginning([prompt[:-1] for prompt in own])
        tokens += alike + sum(len(prompt) - alike for prompt in own)
        concepts += 1
    answers = [len(ids) for ids in encoder.ids([f"{row['target']}\n" for row in asked])]
    parts.append(
        Part("algorithmic", concepts, tokens, len(asked), len(asked), max(answers, default=0))
    )
    texts = encoder.ids([inputs[example] for example in suites["language"]["example"]])
    read = sum(min(len(ids), LONGEST) for ids in texts)
    parts.append(Part("language", len(texts), read, read))
    if steps := config.finetuned.steps:
        of_ways, asked_texts = by_context(in_all_ways(suites["classification"]), inputs)
        trees, _ = trees_of(of_ways[:: len(WAYS)], by_segment, asked_texts, limit, channel=False)
        exemplars = sum(len(tree.prefix) for tree in trees)
        queried = sum(tree.tokens for tree in trees) - exemplars
        parts += _finetuned(steps, len(trees), exemplars, queried)
    return Questions("counted with its tokenizer", parts)
