"""The contract between steps: every table once, and the words that may stand in its columns.

Parquet is written and read through it, and `schema.yml`'s sources, the asset checks, the exports and
the frames of the tests come from it. It knows nothing about how a table is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import polars as pl

from symtune_pipeline.contract import Column, Table
from symtune_pipeline.contract import flag as _flag
from symtune_pipeline.contract import list_of as _list
from symtune_pipeline.contract import measure as _measure
from symtune_pipeline.contract import number as _number
from symtune_pipeline.contract import text as _text

# --- vocabularies ---------------------------------------------------------------------------------

Role = Literal["tuning", "evaluation"]  # what a dataset is for
Category = Literal["integer", "combination", "word"]  # of symbols
Variant = Literal["pretrained", "untuned", "tuned"]  # which weights answered, small gains first
Protocol = Literal["completions", "sglang"]  # in which a server is asked
Suite = Literal["classification", "algorithmic", "language", "finetuned"]

ROLES: Final = get_args(Role)
CATEGORIES: Final = get_args(Category)
TUNING_PER_CATEGORY: Final = 10_000  # symbols, at most; the others are for evaluation
VARIANTS: Final = get_args(Variant)
OUTSIDE: Final = ("endpoint", "incoming")  # variants of models that are not of the graph


@dataclass(frozen=True)
class Setting:
    """A way to ask an in-context question."""

    name: str
    relevant: bool  # the labels are the dataset's own, not symbols
    instructed: bool


SETTINGS: Final = (
    Setting("relevant labels, instruction", True, True),
    Setting("relevant labels, no instruction", True, False),
    Setting("symbols, instruction", False, True),
    Setting("symbols, no instruction", False, False),
)


ZERO_SHOT: Final = "zero-shot"  # the setting in which a flipped query is asked without exemplars

MEASURES: Final = ("accuracy", "calibrated", "channel", "truth", "prior", "override", "zero-shot")
"""What an outcome counts: see `int_outcomes` in schema.yml."""


def flipped_setting(percent: int) -> str:
    """The setting in which so many percent of the exemplars have another class's label."""
    return f"{percent}% flipped"


EXEMPLARS: Final = r", k = ([0-9]+)$"  # how a setting ends that is asked with several numbers


def noisy_setting(setting: str, share: float) -> str:
    """The setting with a wrong symbol for that share of the exemplars; itself for a share of 0."""
    return f"{setting}, {100 * share:g}% noise" if share else setting


def exemplars_setting(setting: str, count: int) -> str:
    """The setting with so many exemplars of each class, where several numbers are asked."""
    return f"{setting}, k = {count}"


@dataclass(frozen=True)
class Benchmark:
    """What is measured: its name for people, and the suite that it is part of.

    The suite decides how it is scored: the classes of `classification` are ranked by log-probability,
    the targets of `algorithmic` are generated and matched exactly. An algorithmic benchmark is made by
    the module `evaluation.benchmarks.<key>`.
    """

    title: str
    suite: Suite


BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "icl": Benchmark("In-context learning", "classification"),
    "flipped": Benchmark("Flipped labels", "classification"),
    "list_functions": Benchmark("List functions", "algorithmic"),
    "turing_concepts": Benchmark("Turing concepts", "algorithmic"),
    "linear_classification": Benchmark("Linear classification", "algorithmic"),
}

VOCABULARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "roles": ROLES,
    "benchmarks": tuple(BENCHMARKS),
    "measures": MEASURES,
}
"""What `accepted_values` in schema.yml may name instead of listing."""


def benchmarks_of(suite: Suite) -> tuple[str, ...]:
    """The benchmarks of a suite, in order."""
    return tuple(key for key, benchmark in BENCHMARKS.items() if benchmark.suite == suite)


# --- tables ---------------------------------------------------------------------------------------

CLASS: Final = pl.UInt16  # an index into the labels of a dataset
MOST_CLASSES: Final = 2**16

_DATASET = _text("Key of the dataset.")
_TASK_TYPE = _text("Kind of task, such as sentiment or topic.")
_CONTEXT = _number(pl.UInt32, "Number of the draw of exemplars.")
_FORMAT = _number(pl.UInt8, "Number of the input-label format.")
_FLIPPED = _number(pl.Int32, "Share of exemplars whose label is flipped, in percent.")

RAW_EXAMPLES: Final = Table(
    "raw_examples",
    "All raw datasets in normal form, before any cleaning.",
    {
        "example_id": _text("Unique name, <dataset>/<split>/<row>.", unique=True),
        "dataset": _DATASET,
        "task_type": _TASK_TYPE,
        "split": _text("The split of the published set that the row comes from.", "train", "test"),
        "input": _text("The text to classify."),
        "label": _text("The class in natural words."),
        "label_id": _number(pl.Int64, "The class as an index into the dataset's labels."),
    },
)
CATALOG_DATASETS: Final = Table(
    "catalog_datasets",
    "What the catalogue says about each dataset of the experiment.",
    {
        "dataset": _text("Key of the dataset.", unique=True),
        "role": _text("Whether the set is for tuning or for evaluation.", *ROLES),
        "task_type": _TASK_TYPE,
        "labels": _list(pl.String, "The classes in natural words, in the order of their indices."),
        "instruction": _text("The task in one sentence."),
    },
)
CATALOG_MODELS: Final = Table(
    "catalog_models",
    "What the catalogue says about each model.",
    {
        "model": _text("Key of the model.", unique=True),
        "parameters": _number(pl.Int64, "Number of its weights."),
    },
)
CATALOG_VARIANTS: Final = Table(
    "catalog_variants",
    "The tuned models of the experiment, and those that a server answers for.",
    {
        "variant": _text("Name of the variant.", unique=True),
        "recipe": _text("The first of the variants that differ from it in the seed alone."),
    },
)
SYMBOL_POOL: Final = Table(
    "symbol_pool",
    "The arbitrary symbols that may stand for labels.",
    {
        "symbol": _text("The symbol as it is written in a prompt.", unique=True),
        "category": _text("The kind of symbol.", *CATEGORIES),
        "split": _text("Whether the symbol is for tuning or for evaluation.", *ROLES),
    },
)
TUNING_MIXTURE: Final = Table(
    "tuning_mixture",
    "The tuning prompts as references to examples and symbols.",
    {
        "prompt": _number(pl.UInt32, "Number of the prompt.", unique=True),
        "dataset": _DATASET,
        "format": _FORMAT,
        "examples": _list(pl.UInt32, "Example numbers in their order, the query last."),
        "targets": _list(CLASS, "For each example, the index of its label in labels."),
        "labels": _list(pl.String, "The text that stands for each class in this prompt."),
        "instructed": _flag("Whether the prompt has the instruction and natural labels."),
    },
)
_WRITTEN = {
    "prompt": _number(pl.UInt32, "Number of the published row.", unique=True),
    "dataset": _text("Name of the task."),
    "text": _text("The whole prompt, the query's label last."),
    "label_starts": _list(pl.UInt32, "Where in the text each label begins, in characters."),
    "targets": _list(CLASS, "For each of them, the index of its symbol in labels."),
    "labels": _list(pl.String, "The symbols of the prompt."),
}
WRITTEN_PROMPTS: Final = Table(
    "raw_tasksource", "Published prompts whose labels were found in their text.", _WRITTEN
)
WRITTEN_MIXTURE: Final = Table(
    "tuning_mixture", "The tuning prompts as they were published.", _WRITTEN
)
WRITTEN_HELD_OUT: Final = Table(
    "tuning_mixture.held_out", "Published prompts that measure progress.", _WRITTEN
)
HELD_OUT_PROMPTS: Final = Table(
    "tuning_mixture.held_out",
    "One query after one held-out prompt, which measures progress; rows of a prompt are neighbours.",
    {
        "prompt": _number(pl.UInt32, "Number of the held-out prompt."),
        "dataset": _DATASET,
        "format": _FORMAT,
        "exemplars": _list(pl.UInt32, "Example numbers of the exemplars."),
        "exemplar_targets": _list(CLASS, "For each of them, the index of its class in labels."),
        "labels": _list(pl.String, "The symbol that stands for each class in this prompt."),
        "query": _number(pl.UInt32, "Example number of the query."),
        "target": _number(CLASS, "Index of the query's own symbol."),
        "seen": _flag("Whether the mixture has one of the prompt's examples too."),
    },
)
PACKED_MIXTURE: Final = Table(
    "packed_mixture",
    "The tuning prompts as token blocks of a model.",
    {
        "block": _number(pl.UInt32, "Number of the block.", unique=True),
        "tokens": _list(pl.Int32, "Token ids, one sequence after another."),
        "sequence_lengths": _list(pl.UInt32, "Tokens of each prompt in the block."),
        "target_positions": _list(pl.UInt32, "Where the tokens of labels are."),
        "target_kinds": _list(pl.UInt8, "For each of them: first of its class, seen, or query."),
    },
)
PACKED_HELD_OUT: Final = Table(
    "packed_mixture.held_out",
    "The held-out prompts as tokens of a model, each with its queries.",
    {
        "prompt": _number(pl.UInt32, "Number of the held-out prompt.", unique=True),
        "dataset": _DATASET,
        "tokens": _list(pl.Int32, "Token ids that all queries share."),
        "query_tokens": _list(pl.List(pl.Int32), "Those that each query adds, up to its symbol."),
        "symbol_tokens": _list(
            pl.List(pl.List(pl.Int32)), "For each query, those of every symbol of the prompt."
        ),
        "targets": _list(CLASS, "For each query, the index of its own symbol."),
    },
)
CLASSIFICATION_SUITE: Final = Table(
    "eval.classification",
    "One query after one context of exemplars; rows of a context are neighbours.",
    {
        "benchmark": _text("What is measured.", *benchmarks_of("classification")),
        "setting": _text("How the prompt is shown."),
        "flipped_percent": _FLIPPED,
        "dataset": _DATASET,
        "context": _CONTEXT,
        "format": _FORMAT,
        "instruction": _text("The task in one sentence; null: none is shown.", nullable=True),
        "exemplars": _list(pl.UInt32, "Example numbers of the exemplars."),
        "exemplar_targets": _list(CLASS, "The class that each exemplar is labelled with."),
        "labels": _list(pl.String, "The text that stands for each class."),
        "query": _number(pl.UInt32, "Example number of the query."),
        "target": _number(CLASS, "Index of the expected label."),
    },
)
LANGUAGE_SUITE: Final = Table(
    "eval.language",
    "The held-out texts whose loss every variant is measured on.",
    {
        "dataset": _DATASET,
        "example": _number(pl.UInt32, "Example number of the text.", unique=True),
    },
)
ALGORITHMIC_SUITE: Final = Table(
    "eval.algorithmic",
    "One query after solved examples of a concept.",
    {
        "benchmark": _text("What is measured.", *benchmarks_of("algorithmic")),
        "setting": _text("Where the inputs come from.", "fresh", "published"),
        "concept": _text("The function or program to infer."),
        "category": _text("The kind of concept."),
        "context": _CONTEXT,
        "inputs": _list(pl.String, "The solved inputs."),
        "outputs": _list(pl.String, "Their outputs."),
        "query": _number(pl.UInt32, "Number of the query."),
        "query_input": _text("The input to solve."),
        "target": _text("The right output."),
    },
)
_PREDICTION = {
    "model": _text("Key of the model that was evaluated."),
    "variant": _text("Who answered: pretrained, untuned, tuned, or a variant by its name."),
    "setting": _text("How the prompt was shown."),
    "context": _CONTEXT,
    "query": _number(pl.UInt32, "The query: an example number, or a number within its concept."),
    "correct": _flag("Whether the prediction or completion is the target."),
    "path": _text("How the model was run: packed or plain, with the reason; how it generated."),
}
CLASSIFICATION_PREDICTIONS: Final = Table(
    "classification_predictions",
    "One prediction for each query of the classification suite and each variant.",
    _PREDICTION
    | {
        "dataset": _DATASET,
        "flipped_percent": _FLIPPED,
        "labels": _list(pl.String, "The candidate labels."),
        "target": _number(CLASS, "Index of the expected label."),
        "prediction": _number(CLASS, "Index of the label that the model ranks highest."),
        "logprobs": _list(pl.Float64, "Log-probability of each label after the prompt, in nats."),
        "content_free": _list(
            pl.Float64, "Log-probability of each label after a query without content, in nats."
        ),
        "calibrated": _number(
            CLASS, "Index of the label that gains most over its probability after that query."
        ),
        "calibrated_correct": _flag("Whether the calibrated prediction is the target."),
        "channel_logprobs": _list(
            pl.Float64,
            "Log-probability of the query's text after each label, in nats; null: not asked.",
            nullable=True,
        ),
        "channel": _number(
            CLASS, "Index of the label before the most probable text.", nullable=True
        ),
        "channel_correct": _flag("Whether the channel prediction is the target.", nullable=True),
        "chance": Column(pl.Float64(), "The share that guessing would get right.", least=0, most=1),
        "dropped": _number(pl.UInt32, "Exemplars left out, so that the prompt fits the model."),
    },
)
ALGORITHMIC_PREDICTIONS: Final = Table(
    "algorithmic_predictions",
    "One completion for each query of the algorithmic suite and each variant.",
    _PREDICTION
    | {
        "benchmark": _text("What is measured.", *benchmarks_of("algorithmic")),
        "concept": _text("The function or program to infer."),
        "category": _text("The kind of concept."),
        "target": _text("The right output."),
        "completion": _text("The first line that the model generated."),
    },
)
LANGUAGE_LOSSES: Final = Table(
    "eval_language",
    "How well each variant predicts plain held-out texts.",
    {
        "model": _PREDICTION["model"],
        "variant": _PREDICTION["variant"],
        "dataset": _DATASET,
        "example": _number(pl.UInt32, "Example number of the text."),
        "tokens": _number(pl.UInt32, "Tokens that were predicted."),
        "nats": Column(pl.Float64(), "Their summed negative log-probability.", least=0),
        "path": _PREDICTION["path"],
    },
)
# Row 0 stands for the state before the first step and holds only what is measured on the held-out
# prompts; the row of a step holds that where it was measured after it.
TUNING_LOG: Final = Table(
    "tuning_log",
    "What each step of a fine-tune measured.",
    {
        "step": Column(pl.Int64(), "Number of the step, from 1."),
        "loss": _measure("Nats per target, before the step."),
        "accuracy": _measure("Share of targets, which are tokens, predicted right."),
        "tokens": Column(pl.Int64(), "Tokens so far."),
        "seconds": _measure("Seconds so far."),
        "learning_rate": _measure("The rate of the step."),
        "gradient_norm": _measure("Norm of the gradient before clipping."),
        "tokens_per_second": _measure("Speed of the step."),
        "targets_per_second": _measure("Speed of the step in targets."),
        "memory_gib": _measure("The most memory so far, of the first rank."),
        "flop_utilisation": _measure("Share of the GPUs' peak in bf16; null where not known."),
        "symbol_accuracy": _measure(
            "Share of the held-out prompts' queries whose own symbol ranks first of the prompt's."
        ),
        "symbol_chance": _measure("The share that guessing among a prompt's symbols gets right."),
        "first_token_loss": _measure("Nats per first token of a held-out query's own symbol."),
        "later_token_loss": _measure("Nats per later one, which is copied; null: there is none."),
        "kept": _flag("Whether the tuned model has the weights after this step."),
    },
)
TUNING_LOG_BY_SET: Final = Table(
    "tuning_log.by_set",
    "The symbol accuracy on the held-out prompts of each dataset.",
    {
        "step": Column(pl.Int64(), "The step after which it was measured; 0: before any."),
        "dataset": _DATASET,
        "queries": _number(pl.UInt32, "How many queries the dataset has."),
        "symbol_accuracy": _measure("Share of them whose own symbol ranks first."),
        "symbol_chance": _measure("The share that guessing gets right."),
    },
)

SOURCES: Final[Mapping[str, Table]] = {
    "raw_examples": RAW_EXAMPLES,
    "catalog_datasets": CATALOG_DATASETS,
    "catalog_models": CATALOG_MODELS,
    "catalog_variants": CATALOG_VARIANTS,
    "symbol_pool": SYMBOL_POOL,
    "tuning_mixture": TUNING_MIXTURE,
    "eval_icl": CLASSIFICATION_PREDICTIONS,
    "eval_flipped": CLASSIFICATION_PREDICTIONS,
    "eval_algorithmic": ALGORITHMIC_PREDICTIONS,
    "eval_language": LANGUAGE_LOSSES,
    "eval_finetuned": CLASSIFICATION_PREDICTIONS,
}
"""The tables that SQL reads and does not make, by the name that it uses."""
