"""The asset `eval_finetuned`: tuning on the exemplars of a context beside showing them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from assets.predictions import JOB, Answering, Asked, held_as, weights
from assets.step import EXAMPLES, GPU, Check, Step, asset
from resources.store import Metadata
from symtune_pipeline.evaluation.config import JobConfig
from symtune_pipeline.evaluation.ways import in_all_ways
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.tables import CLASSIFICATION_PREDICTIONS, CLASSIFICATION_SUITE


class AskedInAllWays(Asked):
    """The in-context queries of a suite, where the settings ask for steps of tuning.

    A served model cannot be tuned, and is not asked.
    """

    def settings(self, experiment: Experiment) -> object:
        """As of `Asked`."""
        return self.form(experiment)

    def queries(self, step: Step) -> pl.DataFrame:
        """As of `Asked`."""
        asked = in_all_ways(super().queries(step))
        return asked if _steps(step) else asked.clear()

    def variants(self, step: Step) -> dict[str, Answering]:
        """As of `Asked`."""
        return {name: who for name, who in super().variants(step).items() if isinstance(who, str)}

    def predicted(self, step: Step) -> Iterator[pl.DataFrame]:
        """As of `Asked`."""
        return super().predicted(step) if _steps(step) else iter([self.predictions.frame()])

    def _job(self, step: Step, variants: Mapping[str, Answering]) -> JobConfig:
        tuned_so = {"finetuned": step.experiment.evaluation.finetuned}
        return super()._job(step, variants).model_copy(update=tuned_so)


def _steps(step: Step) -> int:
    return step.experiment.evaluation.finetuned.steps


ASKED = AskedInAllWays(
    "eval_finetuned",
    ["icl"],
    "finetuned",
    CLASSIFICATION_SUITE,
    CLASSIFICATION_PREDICTIONS,
    "symtune_pipeline.evaluation.finetuned",
    lambda e: (e.evaluation.chat_template, e.evaluation.finetuned, *held_as(e)),
)


@asset(
    group="predictions",
    kinds={"pytorch", "parquet"},
    deps=lambda e: ["eval", EXAMPLES, *weights(e).values()],
    code=[JOB, ASKED.code, "symtune_pipeline.evaluation.ways"],
    settings=ASKED.settings,
    tables=[CLASSIFICATION_PREDICTIONS],
    checks=[
        Check(
            "all_predictions_present",
            "Every query has one prediction of every variant in every way.",
            ASKED.predicted_once,
        )
    ],
    partitioned=True,
    pool=GPU,
    resources=["launcher"],
    after=ASKED.finish,
)
def eval_finetuned(step: Step, folder: Path) -> Metadata:
    """Answers after a few steps of tuning on the exemplars, beside answers that are shown them.

    Empty where evaluation.finetuned.steps is 0.
    """
    return ASKED.build(step, folder)
