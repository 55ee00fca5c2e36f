"""The asset `packed_mixture`."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from assets.starts import tuned_from
from assets.step import Check, Step, Verdict, asset
from resources.store import Metadata
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE, read_frames, scan_table, write_frames, write_text
from symtune_pipeline.prompts.blocks import TooLong, packed_blocks
from symtune_pipeline.prompts.held_out_tokens import packed_held_out
from symtune_pipeline.prompts.symbols import shared_token_sequences
from symtune_pipeline.tables import HELD_OUT_PROMPTS, PACKED_HELD_OUT, PACKED_MIXTURE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARED_SYMBOLS = "shared_symbols.json"  # beside the table: what the check says of it


def _disjoint_in_tokens(step: Step) -> Verdict:
    folder = step.artifacts.folder(step.key("packed_mixture"), step.partition)
    shared = json.loads((folder / SHARED_SYMBOLS).read_text(encoding="utf-8"))
    which = f"{len(shared):,}, such as {shared[0]!r}" if shared else "none"
    return Verdict(
        not shared,
        f"Evaluation symbols with the token ids of a tuning symbol: {which};"
        " a model whose tokenizer merges any must be left out.",
        {"evaluation symbols": dg.MetadataValue.int(len(shared))},
    )


DISJOINT_IN_TOKENS = Check(
    "symbols_disjoint_in_tokens",
    "No evaluation symbol has the token ids of a tuning symbol.",
    _disjoint_in_tokens,
)


def _settings(experiment: Experiment) -> object:
    """Instructions count where prompts show them."""
    shows = experiment.mixture.instructed_share > 0
    instructions = experiment.instructions() if shows else None
    return experiment.tuning.block_tokens, instructions, experiment.evaluation.chat_template


@asset(
    group="models",
    kinds={"polars", "parquet"},
    # int_contamination is here so that nothing is tuned on a mixture that the guard refuses.
    deps=lambda e: [
        tuned_from(e),
        "int_contamination",
        "int_tuning_examples",
        "symbol_pool",
        "tuning_mixture",
    ],
    settings=_settings,
    tables=[PACKED_MIXTURE, PACKED_HELD_OUT],
    checks=[DISJOINT_IN_TOKENS],
    partitioned=True,
)
def packed_mixture(step: Step, folder: Path) -> Metadata:
    """The tuning mixture as token blocks for this model's tokenizer."""
    from symtune_pipeline.models.opening import open_tokenizer

    start = tuned_from(step.experiment)
    tokenizer = open_tokenizer(step.artifacts.folder(start, step.partition))
    size = step.experiment.tuning.block_tokens_for(step.model)
    too_long = _pack(step, tokenizer, size, folder / TABLE)
    _write_held_out(step, folder, tokenizer)
    chat = step.experiment.evaluation.chat_template
    shared = shared_token_sequences(
        step.artifacts.read_table(step.key("symbol_pool")), tokenizer, chat
    )
    write_text(folder / SHARED_SYMBOLS, json.dumps(shared))
    return counts(folder / TABLE, size) | {
        "prompts left out": _by_dataset(too_long.prompts),
        "exemplars left out": _by_dataset(too_long.exemplars),
        "prompts with too few exemplars": _by_dataset(too_long.too_few),
    }


def _by_dataset(counted: Counter[str]) -> dg.JsonMetadataValue:
    """The datasets that have any, each with its number."""
    return dg.MetadataValue.json(dict(sorted((+counted).items())))


def _pack(step: Step, tokenizer: "PreTrainedTokenizerBase", size: int, file: Path) -> TooLong:
    """Write the blocks; returns what was too long for one."""
    key = step.key("tuning_mixture")
    mixture = step.artifacts.folder(key) / TABLE
    prompts = step.artifacts.manifest(key).rows[TABLE]
    examples = step.artifacts.read_input(key, "int_tuning_examples").sort("example")
    too_long = TooLong(step.experiment.mixture.exemplars_per_class[0])
    blocks = packed_blocks(
        read_frames(mixture),
        examples["input"],
        step.experiment.instructions(),
        tokenizer,
        size,
        step.progress("packing", prompts, "prompts"),
        step.experiment.evaluation.chat_template,
        too_long,
    )
    write_frames(file, (PACKED_MIXTURE.checked(frame) for frame in blocks))
    for sentence in too_long.sentences(size):
        step.warn(sentence)
    return too_long


def _write_held_out(step: Step, folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    key = step.key("tuning_mixture")
    inputs = step.artifacts.read_input(key, "int_tuning_examples").sort("example")["input"]
    drawn = step.artifacts.read_table(key, name=HELD_OUT_PROMPTS.file)
    size = step.experiment.tuning.block_tokens_for(step.model)
    chat = step.experiment.evaluation.chat_template
    packed = packed_held_out(drawn, inputs, tokenizer, size, chat)
    PACKED_HELD_OUT.write(packed, folder)
    left_out = drawn["prompt"].n_unique() - len(packed)
    if left_out:
        step.warn(
            f"{left_out} held-out prompts are left out: with one exemplar per class they exceed"
            f" {size} tokens, or two of their symbols are the same tokens or none."
        )


def counts(blocks: Path, size: int) -> Metadata:
    """What lies in blocks of `size` tokens."""
    lengths = scan_table(blocks).select(
        pl.col("tokens", "target_positions").list.len().cast(pl.Int64).sum(), blocks=pl.len()
    )
    tokens, targets, count = lengths.collect().row(0)
    return {
        "tokens": dg.MetadataValue.int(tokens),
        "filled": dg.MetadataValue.float(tokens / (count * size)),
        "label tokens": dg.MetadataValue.int(targets),
    }
