"""The asset `eval`: the suites, root of the evaluation."""

from pathlib import Path

import dagster as dg

from assets.step import EXAMPLES, Step, asset
from resources.store import Metadata
from symtune_pipeline.evaluation.published import published_files, read_published
from symtune_pipeline.evaluation.suites import (
    algorithmic_suite,
    asked_queries,
    classification_suite,
    language_suite,
    short_of_queries,
)
from symtune_pipeline.files import sha256
from symtune_pipeline.sections import EvaluationConfig, Finetuned
from symtune_pipeline.tables import (
    ALGORITHMIC_SUITE,
    CLASSIFICATION_SUITE,
    LANGUAGE_SUITE,
    benchmarks_of,
)

BENCHMARKS = "symtune_pipeline.evaluation.benchmarks"  # found by name, so that no import shows them


def _published(step: Step) -> list[str]:
    """The hashes of BIG-bench's own files, where they are asked."""
    folder = step.experiment.evaluation.published
    return [sha256(path) for path in published_files(folder)] if folder else []


def _asked(settings: EvaluationConfig) -> EvaluationConfig:
    # Who is asked does not matter, nor what is tuned to ask.
    return settings.model_copy(update={"endpoints": {}, "finetuned": Finetuned()})


@asset(
    name="eval",
    group="suites",
    kinds={"polars", "parquet"},
    deps=[EXAMPLES, "symbol_pool"],
    settings=lambda e: (e.seed, _asked(e.evaluation), e.instructions()),
    sources=_published,
    code=[__name__, *(f"{BENCHMARKS}.{key}" for key in benchmarks_of("algorithmic"))],
    tables=[CLASSIFICATION_SUITE, ALGORITHMIC_SUITE, LANGUAGE_SUITE],
)
def suites(step: Step, folder: Path) -> Metadata:
    """Every prompt of every benchmark, as row numbers instead of text. Root of the evaluation."""
    config, seed = step.experiment.evaluation, step.experiment.seed
    examples = step.artifacts.read_table(EXAMPLES)
    pool = step.artifacts.read_table("symbol_pool")
    instructions = step.experiment.instructions()
    suite = classification_suite(examples, pool, instructions, config, seed)
    published = read_published(config.published) if config.published else None
    algorithmic = algorithmic_suite(config, seed, published)
    CLASSIFICATION_SUITE.write(suite, folder)
    ALGORITHMIC_SUITE.write(algorithmic, folder)
    LANGUAGE_SUITE.write(language_suite(examples, config.language_texts, seed), folder)
    if suite.is_empty():
        step.warn(
            "There is no dataset to evaluate on; the report will only have algorithmic benchmarks."
        )
    short = short_of_queries(suite, config)
    if short:
        counts = ", ".join(f"{dataset} {count}" for dataset, count in short.items())
        step.warn(f"These datasets have fewer than {asked_queries(config)} queries: {counts}.")
    return {
        "prompts": dg.MetadataValue.int(len(suite) + len(algorithmic)),
        "datasets with fewer queries": dg.MetadataValue.json(short),
    }
