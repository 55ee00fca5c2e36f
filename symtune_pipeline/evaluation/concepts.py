"""What an algorithmic benchmark is: a module that draws concepts, each with solved pairs.

The benchmark that `tables.BENCHMARKS` calls `<key>` is the module `evaluation.benchmarks.<key>`,
which is a `Benchmark`. This module knows nothing about any of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import benchmarks_of


@dataclass(frozen=True)
class Concept:
    """A mapping of text to be inferred from examples.

    `pairs` are inputs with their outputs, as many as `needed_pairs`: those to show, then queries.
    """

    name: str
    category: str
    pairs: Mapping[str, str]


@dataclass(frozen=True)
class Prompt:
    """One published prompt: solved pairs, then the query and its target."""

    benchmark: str
    concept: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    query_input: str
    target: str


@dataclass(frozen=True)
class Published:
    """What was published: prompts in the order of the files, and every (concept, input) seen."""

    prompts: tuple[Prompt, ...] = ()
    seen: frozenset[tuple[str, str]] = frozenset()

    def concepts(self, benchmark: str) -> set[str]:
        """The concepts of a benchmark's prompts."""
        return {prompt.concept for prompt in self.prompts if prompt.benchmark == benchmark}


@dataclass(frozen=True)
class PublishedFormat:
    """How BIG-bench's prompts of a benchmark are read, and which of them are asked."""

    files: str  # pattern of the JSON lines with prompts: input, target, comment
    pair: re.Pattern[str]  # a solved pair in an input: its input and output
    concept: re.Pattern[str]  # the concept's name in a comment
    category: Callable[[str], str | None]  # of a concept; None where there is no such concept
    # The concepts to ask, out of the published ones, which are sorted.
    select: Callable[[EvaluationConfig, Sequence[str], random.Random], Collection[str]]
    before_target: str = ""  # what the files leave out between input and target
    pair_files: str | None = (
        None  # of JSON lines with pairs, which are only kept out of fresh prompts
    )


class Benchmark(Protocol):
    """The module of an algorithmic benchmark.

    It may also have `PUBLISHED`, a `PublishedFormat`, where prompts of it were published.
    """

    def fresh(
        self, config: EvaluationConfig, rng: random.Random, published: Published
    ) -> Iterator[Concept]:
        """As many concepts as `config` asks for, none of which was published with these inputs."""


def module_name(key: str) -> str:
    """The name of the module that is the algorithmic benchmark `key`."""
    return f"symtune_pipeline.evaluation.benchmarks.{key}"


def benchmarks() -> dict[str, Benchmark]:
    """The algorithmic benchmarks by key, in order."""
    return {
        key: cast(Benchmark, import_module(module_name(key)))
        for key in benchmarks_of("algorithmic")
    }


def published_formats() -> dict[str, PublishedFormat]:
    """How the published prompts of a benchmark are read, for those that have any, in order."""
    formats = {key: getattr(module, "PUBLISHED", None) for key, module in benchmarks().items()}
    return {key: style for key, style in formats.items() if style is not None}


def needed_pairs(config: EvaluationConfig) -> int:
    """How many different inputs a fresh concept needs: those to show, then queries."""
    return config.algorithmic_shots + config.algorithmic_queries


def solved(
    concept: str,
    draw: Callable[[], str],
    solve: Callable[[str], str],
    config: EvaluationConfig,
    published: Published,
) -> dict[str, str]:
    """As many pairs of a concept as it needs, with different inputs that were not published.

    `draw` gives an input and must be able to give that many; `solve` gives an input's output.
    """
    pairs: dict[str, str] = {}
    while len(pairs) < needed_pairs(config):
        drawn = draw()
        if (concept, drawn) not in published.seen:
            pairs[drawn] = solve(drawn)
    return pairs
