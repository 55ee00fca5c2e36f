"""The asset `tuning_mixture`."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.starts import tuned_from
from assets.step import Step, asset
from resources.store import Metadata
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE, scan_table, write_frames
from symtune_pipeline.prompts.held_out import held_out_prompts
from symtune_pipeline.prompts.mixture import mixture_chunks, sets_to_draw, short_prompts
from symtune_pipeline.prompts.symbols import SymbolSampler
from symtune_pipeline.prompts.text import render, tuning_prompt
from symtune_pipeline.tables import HELD_OUT_PROMPTS, TUNING_MIXTURE


def _inputs(experiment: Experiment) -> Sequence[str | dg.AssetDep]:
    """Symbols that differ in their first token, or lie near or far, do so for every model."""
    models = dg.AssetDep(
        tuned_from(experiment),
        partition_mapping=dg.SpecificPartitionsPartitionMapping(list(experiment.models)),
    )
    asked = [models] if _looks_at_models(experiment) else []
    return ["int_tuning_examples", "symbol_pool", *asked]


def _looks_at_models(experiment: Experiment) -> bool:
    return experiment.mixture.distinct_first_token or experiment.symbols.spread != "random"


def _settings(experiment: Experiment) -> object:
    """The form of prompts counts where it decides what a symbol's first token is."""
    mixture, chat = experiment.mixture, experiment.evaluation.chat_template
    distinct = mixture.distinct_first_token and chat
    models = [experiment.models] if _looks_at_models(experiment) else []
    spread = experiment.symbols.spread
    return experiment.seed, mixture, experiment.left_out(), spread, distinct, *models


@asset(
    group="mixture",
    kinds={"polars", "parquet"},
    deps=_inputs,
    settings=_settings,
    tables=[TUNING_MIXTURE, HELD_OUT_PROMPTS],
)
def tuning_mixture(step: Step, folder: Path) -> Metadata:
    """The symbol-tuning prompts, as references to exemplars, symbols, a format and a query."""
    config, seed = step.experiment.mixture, step.experiment.seed
    file = folder / TUNING_MIXTURE.file
    examples = step.artifacts.read_table("int_tuning_examples")
    drawn_from = _drawn_from(step, examples)
    sets = sorted(drawn_from["dataset"].unique())
    pool = step.artifacts.read_table(step.key("symbol_pool"))
    sampler = _sampler(step, pool)
    chunks = mixture_chunks(drawn_from, sampler, config, seed)
    write_frames(file, (TUNING_MIXTURE.checked(chunk) for chunk in chunks))
    held_out = held_out_prompts(drawn_from, sampler, config, seed, _seen(file))
    HELD_OUT_PROMPTS.write(held_out, folder)
    return {
        "sample prompt": dg.MetadataValue.md(f"```\n{_sample(step, file, examples)}\n```"),
        "sets": dg.MetadataValue.json(sets),
        "number of sets": dg.MetadataValue.int(len(sets)),
        "prompts with too few exemplars": dg.MetadataValue.json(_short(step, file)),
        "held-out prompts": dg.MetadataValue.int(held_out["prompt"].n_unique()),
        "held-out prompts with examples of the mixture": dg.MetadataValue.int(
            held_out.filter("seen")["prompt"].n_unique()
        ),
    }


def _drawn_from(step: Step, examples: pl.DataFrame) -> pl.DataFrame:
    """The examples of the sets that prompts are drawn from; a set without examples is a warning."""
    there, left_out = set(examples["dataset"].unique()), step.experiment.left_out()
    for entry in step.experiment.datasets():
        if entry.role == "tuning" and entry.key not in there.union(left_out):
            _warn_of_lost(step, entry.key)
    sets = sets_to_draw(there, step.experiment.mixture, step.experiment.seed, left_out)
    return examples.filter(pl.col("dataset").is_in(sets))


def _warn_of_lost(step: Step, dataset: str) -> None:
    if not step.artifacts.manifest(f"raw_{dataset}").rows[TABLE]:
        return  # it could not be had, which was said when it was loaded
    cleaned = scan_table(step.artifacts.folder("int_examples") / TABLE)
    train = cleaned.filter(pl.col("dataset") == dataset, pl.col("split") == "train")
    if train.head(1).collect().is_empty():
        why = (
            "split train has no text, or each text there has different labels; correct its files,"
            " columns or labels"
        )
    else:
        why = (
            "each of its texts is also in an evaluation dataset, and such texts are removed from"
            " tuning; tune and evaluate on different texts"
        )
    step.warn(f"Dataset '{dataset}' has no row left to tune on: {why}.")


def _short(step: Step, file: Path) -> dict[str, int]:
    """The prompts with too few exemplars, by set; each set is a warning."""
    config = step.experiment.mixture
    short = short_prompts(scan_table(file), config)
    for dataset, prompts in short.items():
        step.warn(
            f"{dataset}: {prompts:,} prompts have fewer than {config.exemplars_per_class[0]}"
            " exemplars per class, because of too few examples or mixture.max_characters"
        )
    return short


def _sampler(step: Step, pool: pl.DataFrame) -> SymbolSampler:
    """What draws the symbols of a prompt together; it looks at the models only where a setting asks so."""
    experiment = step.experiment
    if not _looks_at_models(experiment):
        return SymbolSampler(pool, "tuning")
    from symtune_pipeline.models.symbols import sampler_of_models

    start = tuned_from(experiment)
    folders = [step.artifacts.folder(start, key) for key in experiment.models]
    distinct, spread = experiment.mixture.distinct_first_token, experiment.symbols.spread
    return sampler_of_models(pool, folders, distinct, spread, experiment.evaluation.chat_template)


def _seen(mixture: Path) -> NDArray[np.int64]:
    """The numbers of the examples that the mixture has, in order."""
    examples = scan_table(mixture).select(pl.col("examples").explode().unique().sort())
    return examples.collect(engine="streaming")["examples"].to_numpy().astype(np.int64)


def _sample(step: Step, file: Path, examples: pl.DataFrame) -> str:
    [first] = scan_table(file).head(1).collect().to_dicts()
    instructions = step.experiment.instructions()
    return render(tuning_prompt(first, examples.sort("example")["input"], instructions))
