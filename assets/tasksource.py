"""The assets of a mixture of tasksource's prompts: `raw_tasksource`, and its `tuning_mixture` and
`packed_mixture`, which stand where those of the tuning sets do."""

import json
from collections import Counter
from pathlib import Path

import dagster as dg
import polars as pl

from assets.packed_mixture import DISJOINT_IN_TOKENS, SHARED_SYMBOLS, counts
from assets.starts import tuned_from
from assets.step import EXAMPLES, Check, Step, Verdict, asset
from resources.store import Metadata
from symtune_pipeline.catalog.tasksource import tasksource
from symtune_pipeline.environment import mirror_folder
from symtune_pipeline.files import TABLE, read_frames, scan_table, write_frames, write_text
from symtune_pipeline.prompts.symbols import shared_token_sequences
from symtune_pipeline.prompts.written import Guarded, draw_written, kept_symbols
from symtune_pipeline.prompts.written_tokens import LeftOut, held_out_written, packed_written
from symtune_pipeline.sources.load import public_source
from symtune_pipeline.sources.tasksource import written_prompts
from symtune_pipeline.tables import (
    PACKED_HELD_OUT,
    PACKED_MIXTURE,
    WRITTEN_HELD_OUT,
    WRITTEN_MIXTURE,
    WRITTEN_PROMPTS,
)

RAW = WRITTEN_PROMPTS.asset


@asset(
    group="raw",
    kinds={"parquet"},
    code=["symtune_pipeline.sources.hub", "symtune_pipeline.sources.tasksource"],
    sources=lambda _: public_source(mirror_folder()).files(tasksource().hub),
    tables=[WRITTEN_PROMPTS],
)
def raw_tasksource(step: Step, folder: Path) -> Metadata:
    """Prompts that tasksource has published (Apache-2.0), with the places of their labels."""
    left_out = Counter[str]()
    frames = written_prompts(public_source(mirror_folder()), left_out)
    write_frames(folder / TABLE, map(WRITTEN_PROMPTS.checked, frames))
    for fault, rows in left_out.items():
        step.warn(f"tasksource: left out {rows:,} rows with {fault}")
    return {"rows left out": dg.MetadataValue.json(dict(left_out))}


def _guarded(step: Step) -> Guarded:
    """The evaluation sets of the experiment, their texts and what its evaluation symbols are."""
    entries = step.experiment.datasets()
    labels = [label for entry in entries for label in entry.labels.values()]
    pool = step.artifacts.read_table(step.key("symbol_pool"))
    texts = step.artifacts.read_table(EXAMPLES)["input"].to_list()
    evaluated = [entry for entry in entries if entry.role == "evaluation"]
    return Guarded(evaluated, kept_symbols(pool, labels), texts)


def _unseen(step: Step) -> Verdict:
    prompts = step.artifacts.read_table(step.key("tuning_mixture"))
    faults = _guarded(step).faults(prompts)
    return Verdict(
        not faults,
        f"Prompts of evaluation data: {', '.join(faults[:5]) or 'none'}.",
        {"prompts": dg.MetadataValue.int(len(faults))},
    )


UNSEEN = Check(
    "no_evaluation_data",
    "No prompt is of an evaluation set, has an evaluation text, or a symbol that is kept for evaluation.",
    _unseen,
)


@asset(
    group="mixture",
    kinds={"polars", "parquet"},
    deps=[RAW, "symbol_pool", EXAMPLES],
    settings=lambda e: (e.seed, e.mixture, [d for d in e.datasets() if d.role == "evaluation"]),
    tables=[WRITTEN_MIXTURE, WRITTEN_HELD_OUT],
    checks=[UNSEEN],
)
def tuning_mixture(step: Step, folder: Path) -> Metadata:
    """The symbol-tuning prompts, as tasksource has published them."""
    config, guarded = step.experiment.mixture, _guarded(step)
    prompts = scan_table(step.artifacts.folder(RAW) / TABLE)
    drawn = draw_written(prompts, config, step.experiment.seed, guarded)
    WRITTEN_MIXTURE.write(drawn.mixture, folder)
    WRITTEN_HELD_OUT.write(drawn.held_out, folder)
    tasks = drawn.mixture["dataset"].unique().sort().to_list()
    for sentence in drawn.sentences(config):
        step.warn(sentence)
    return {
        "sample prompt": dg.MetadataValue.md(f"```\n{drawn.mixture['text'][0]}\n```"),
        "sets": dg.MetadataValue.json(tasks),
        "number of sets": dg.MetadataValue.int(len(tasks)),
        "tasks left out": dg.MetadataValue.json(drawn.tasks_left_out),
        "prompts left out": dg.MetadataValue.json(dict(drawn.left_out)),
        "held-out prompts": dg.MetadataValue.int(len(drawn.held_out)),
    }


@asset(
    group="models",
    kinds={"polars", "parquet"},
    deps=lambda e: [tuned_from(e), "symbol_pool", "tuning_mixture"],
    settings=lambda e: (e.tuning.block_tokens, e.evaluation.chat_template),
    tables=[PACKED_MIXTURE, PACKED_HELD_OUT],
    checks=[DISJOINT_IN_TOKENS],
    partitioned=True,
)
def packed_mixture(step: Step, folder: Path) -> Metadata:
    """The tuning mixture as token blocks for this model's tokenizer."""
    from symtune_pipeline.models.opening import open_tokenizer

    start, mixture = tuned_from(step.experiment), step.key("tuning_mixture")
    tokenizer = open_tokenizer(step.artifacts.folder(start, step.partition))
    size = step.experiment.tuning.block_tokens_for(step.model)
    chat, left_out = step.experiment.evaluation.chat_template, LeftOut()
    progress = step.progress("packing", step.artifacts.manifest(mixture).rows[TABLE], "prompts")
    prompts = read_frames(step.artifacts.folder(mixture) / TABLE)
    blocks = packed_written(prompts, tokenizer, size, left_out, progress, chat)
    write_frames(folder / TABLE, map(PACKED_MIXTURE.checked, blocks))
    held_out = step.artifacts.read_table(mixture, name=WRITTEN_HELD_OUT.file)
    PACKED_HELD_OUT.write(held_out_written(held_out, tokenizer, size, chat), folder)
    shared = shared_token_sequences(_symbols(step), tokenizer, chat)
    write_text(folder / SHARED_SYMBOLS, json.dumps(shared))
    for sentence in left_out.sentences(size):
        step.warn(sentence)
    too_long = left_out.too_long + left_out.without_token
    return counts(folder / TABLE, size) | {
        "prompts left out": dg.MetadataValue.json(dict(sorted(too_long.items())))
    }


def _symbols(step: Step) -> pl.DataFrame:
    """The evaluation symbols, and those of the mixture as the symbols for tuning."""
    pool = step.artifacts.read_table(step.key("symbol_pool")).filter(split="evaluation")
    mixture = step.artifacts.read_table(step.key("tuning_mixture"))
    used = mixture.select(symbol=pl.col("labels").explode().unique().sort(), split=pl.lit("tuning"))
    return pl.concat([pool.select("symbol", "split"), used])
