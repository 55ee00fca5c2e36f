"""The log of tuning, an artifact beside the tuned model: it holds times, which differ for equal models."""

import polars as pl

from assets.step import Step
from symtune_pipeline.errors import UserError

LOG, MADE_BY = "tuning_log", "symbol_tuned_model"


def read_log(step: Step, model: str) -> pl.DataFrame:
    """The log of a model's tuning; raises UserError where it is missing or damaged."""
    key = step.key(LOG)
    if not step.artifacts.is_whole(key, model):
        raise UserError(
            f"The log of tuning in {step.artifacts.address_of(key, model)} is missing or damaged;"
            f" materialise '{step.key(MADE_BY)}' for partition '{model}', which makes it."
        )
    return step.artifacts.read_table(key, model)
