"""The asset `eval_language`: the loss of every variant on plain held-out texts."""

from pathlib import Path

from assets.predictions import JOB, Asked, held_as, weights
from assets.step import EXAMPLES, GPU, Check, Step, asset, clear_work
from resources.store import Metadata
from symtune_pipeline.tables import LANGUAGE_LOSSES, LANGUAGE_SUITE

ASKED = Asked(
    "eval_language",
    (),
    "language",
    LANGUAGE_SUITE,
    LANGUAGE_LOSSES,
    "symtune_pipeline.evaluation.language",
    held_as,
)


@asset(
    group="predictions",
    kinds={"pytorch", "parquet"},
    deps=lambda e: ["eval", EXAMPLES, *weights(e).values()],
    code=[JOB, ASKED.code],
    settings=ASKED.settings,
    tables=[LANGUAGE_LOSSES],
    checks=[
        Check(
            "all_texts_measured", "Every variant was measured on every text.", ASKED.predicted_once
        )
    ],
    partitioned=True,
    pool=GPU,
    resources=["launcher"],
    after=clear_work,
)
def eval_language(step: Step, folder: Path) -> Metadata:
    """The loss of every variant on plain held-out texts: whether tuning harms language modelling."""
    return ASKED.build(step, folder)
