"""The asset `eval_language`: the loss of every variant on plain held-out texts."""

from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl

from assets.predictions import weights
from assets.step import GPU, Check, Step, Verdict, asset
from resources.store import Metadata
from symtune_pipeline.evaluation.checks import not_predicted_once
from symtune_pipeline.files import content_hash
from symtune_pipeline.tables import LANGUAGE_LOSSES, LANGUAGE_SUITE


def _texts(step: Step) -> pl.DataFrame:
    return step.artifacts.read_table(LANGUAGE_SUITE.asset, name=LANGUAGE_SUITE.file)


def _variants(step: Step) -> dict[str, str]:
    """The variants that this model has, each with the asset of its weights."""
    every = weights(step.experiment)
    has_parent = step.model.parent is not None
    return {name: key for name, key in every.items() if has_parent or name != "pretrained"}


def _every_text_once(step: Step) -> Verdict:
    table = step.artifacts.read_table(LANGUAGE_LOSSES.asset, step.partition)
    wrong = not_predicted_once(_texts(step), table, list(_variants(step)))
    return Verdict(
        wrong == 0, f"Texts that a variant was measured on never or twice: {wrong or 'none'}."
    )


def _measured(step: Step, texts: pl.DataFrame, variant: str, key: str) -> pl.DataFrame:
    """Kept by variant, so that none is ever measured twice, also after an interrupt."""
    from symtune_pipeline.evaluation.language import measure

    inputs, model = step.inputs(), step.artifacts.folder(key, step.partition)
    asked = [step.code_version, inputs["eval"], inputs["int_evaluation_examples"]]
    examples = step.artifacts.read_table("int_evaluation_examples").sort("example")
    progress = step.progress(f"{variant} model", len(texts), "texts")
    return step.artifacts.table_once(
        "predictions_eval_language",
        f"{step.partition}-{variant}",
        content_hash([*asked, inputs[f"{key}/{step.partition}"]]),
        partial(
            measure, model, texts, examples["input"].to_list(), step.experiment.evaluation, progress
        ),
    ).with_columns(model=pl.lit(step.partition), variant=pl.lit(variant))


@asset(
    group="predictions",
    kinds={"pytorch", "parquet"},
    deps=lambda e: ["eval", "int_evaluation_examples", *weights(e).values()],
    code=["symtune_pipeline.evaluation.language"],
    settings=lambda e: e.evaluation.precision,
    tables=[LANGUAGE_LOSSES],
    checks=[
        Check("all_texts_measured", "Every variant was measured on every text.", _every_text_once)
    ],
    partitioned=True,
    pool=GPU,
)
def eval_language(step: Step, folder: Path) -> Metadata:
    """The loss of every variant on plain held-out texts: what tuning has cost of language."""
    texts = _texts(step)
    table = pl.concat(_measured(step, texts, *variant) for variant in _variants(step).items())
    LANGUAGE_LOSSES.write(table, folder)
    by_variant = table.group_by("variant").agg(pl.col("nats").sum() / pl.col("tokens").sum())
    return {"nats a token": dg.MetadataValue.json(dict(by_variant.sort("variant").iter_rows()))}
