"""The assets `eval_icl`, `eval_flipped` and `eval_algorithmic`: what every variant of a model predicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl

from assets.step import GPU, Check, KeptAsset, Step, Verdict, as_metadata, asset
from resources.store import Metadata
from symtune_pipeline.evaluation.checks import below_chance, not_predicted_once
from symtune_pipeline.evaluation.predictions import paths
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import content_hash
from symtune_pipeline.progress import Progress
from symtune_pipeline.report.numbers import of_predictions
from symtune_pipeline.tables import (
    ALGORITHMIC_PREDICTIONS,
    ALGORITHMIC_SUITE,
    CLASSIFICATION_PREDICTIONS,
    CLASSIFICATION_SUITE,
    Table,
    benchmarks_of,
)

Predict = Callable[[Step, Path, pl.DataFrame, Progress], pl.DataFrame]


def weights(experiment: Experiment) -> dict[str, str]:
    """The asset that holds the weights of each variant."""
    parent = {"pretrained": "pretrained_model"} if experiment.evaluation.pretrained else {}
    return parent | {"untuned": "base_model", "tuned": "symbol_tuned_model"}


def _classify(step: Step, model: Path, suite: pl.DataFrame, progress: Progress) -> pl.DataFrame:
    from symtune_pipeline.evaluation.classification import classify

    examples = step.artifacts.read_table("int_evaluation_examples").sort("example")
    inputs = examples["input"].to_list()
    return classify(model, suite, inputs, step.experiment.evaluation, progress)


def _generate(step: Step, model: Path, suite: pl.DataFrame, progress: Progress) -> pl.DataFrame:
    from symtune_pipeline.evaluation.generation import generate

    return generate(model, suite, step.experiment.evaluation, progress)


@dataclass(frozen=True)
class Asked:
    """Some benchmarks of a suite, who predicts them, and the table of the predictions."""

    asset: str
    benchmarks: Sequence[str]
    suite: Table
    predictions: Table
    predict: Predict

    def queries(self, step: Step) -> pl.DataFrame:
        """The rows of the suite that are asked."""
        suite = step.artifacts.read_table(self.suite.asset, name=self.suite.file)
        return suite.filter(pl.col("benchmark").is_in(self.benchmarks))

    def variants(self, step: Step) -> dict[str, str]:
        """The variants that this model has, each with the asset of its weights."""
        every = weights(step.experiment)
        has_parent = step.model.parent is not None
        return {name: key for name, key in every.items() if has_parent or name != "pretrained"}

    def build(self, step: Step, folder: Path) -> Metadata:
        """Predict with each variant, and write the predictions as one table."""
        suite = self.queries(step)
        table = pl.concat(
            self._predicted(step, suite, variant, weights)
            for variant, weights in self.variants(step).items()
        )
        self.predictions.write(table, folder)
        _warn_of_dropped(step, table)
        return {"path": dg.MetadataValue.json(paths(table))}

    def numbers(self, step: Step) -> Metadata:
        """Accuracy and gain of each setting, also of what was recognised: a history has no gaps."""
        table = step.artifacts.read_table(self.asset, step.partition)
        if "benchmark" not in table.columns:
            table = table.with_columns(benchmark=pl.lit(self.benchmarks[0]))
        return as_metadata(of_predictions(table))

    def _predicted(self, step: Step, suite: pl.DataFrame, variant: str, asset: str) -> pl.DataFrame:
        """Kept by variant, so that none is ever asked the same twice, also after an interrupt."""
        inputs, code = step.inputs(), step.code_version
        asked = [code, inputs["eval"], inputs["int_evaluation_examples"]]
        model = step.artifacts.folder(asset, step.partition)
        progress = step.progress(f"{variant} model", len(suite), "queries")
        table = step.artifacts.table_once(
            f"predictions_{self.asset}",
            f"{step.partition}-{variant}",
            content_hash([*asked, inputs[f"{asset}/{step.partition}"]]),
            partial(self.predict, step, model, suite, progress),
        )
        return table.with_columns(model=pl.lit(step.partition), variant=pl.lit(variant))

    def predicted_once(self, step: Step) -> Verdict:
        """Whether every query has one prediction of every variant."""
        table = step.artifacts.read_table(self.asset, step.partition)
        wrong = not_predicted_once(self.queries(step), table, list(self.variants(step)))
        return Verdict(
            wrong == 0,
            f"Queries that a variant predicted never or twice: {wrong or 'none'}.",
            {"queries": dg.MetadataValue.int(wrong)},
        )

    def not_below_chance(self, step: Step) -> Verdict:
        """Whether no variant is worse than guessing."""
        low = below_chance(step.artifacts.read_table(self.asset, step.partition))
        return Verdict(not low, "; ".join(low) or "No setting is below chance.")


def _warn_of_dropped(step: Step, table: pl.DataFrame) -> None:
    shortened = int((table["dropped"] > 0).sum()) if "dropped" in table.columns else 0
    if shortened:
        step.warn(
            f"{shortened:,} of {len(table):,} prompts were longer than the model's context and lost"
            " exemplars; see the column dropped."
        )


def _predictions(asked: Asked, description: str, code: str, *, chance: bool = False) -> KeptAsset:
    """An asset with the predictions of every variant of a model."""
    every = "Every query has one prediction of every variant."
    present = Check("all_predictions_present", every, asked.predicted_once)
    not_below = Check(
        "accuracy_not_below_chance",
        "No variant is worse than guessing in a setting, beyond what few queries explain.",
        asked.not_below_chance,
        warns=True,
    )
    return asset(
        name=asked.asset,
        description=description,
        group="predictions",
        kinds={"pytorch", "parquet"},
        deps=lambda e: ["eval", "int_evaluation_examples", *weights(e).values()],
        code=[code],
        settings=lambda e: (e.evaluation.chat_template, e.evaluation.precision),
        tables=[asked.predictions],
        checks=[present, *([not_below] if chance else [])],
        partitioned=True,
        pool=GPU,
        after=asked.numbers,
    )(asked.build)


def _classified(name: str, benchmark: str) -> Asked:
    tables = CLASSIFICATION_SUITE, CLASSIFICATION_PREDICTIONS
    return Asked(name, [benchmark], *tables, _classify)


SCORING = "symtune_pipeline.evaluation.classification"
GENERATING = "symtune_pipeline.evaluation.generation"

eval_icl = _predictions(
    _classified("eval_icl", "icl"),
    "In-context learning on held-out sets: relevant labels or symbols, with or without instruction.",
    SCORING,
    chance=True,
)
# Flipped labels pull a model below chance that follows what it knows.
eval_flipped = _predictions(
    _classified("eval_flipped", "flipped"),
    "Natural labels swapped among the classes: does the model follow the exemplars or its prior?",
    SCORING,
)
eval_algorithmic = _predictions(
    Asked(
        "eval_algorithmic",
        benchmarks_of("algorithmic"),
        ALGORITHMIC_SUITE,
        ALGORITHMIC_PREDICTIONS,
        _generate,
    ),
    "List functions, Turing concepts and their kin, answered by greedy generation, matched exactly.",
    GENERATING,
)
