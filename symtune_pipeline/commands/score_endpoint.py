"""`symtune score-endpoint`: a served model on the classification suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from polars.exceptions import ComputeError

from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.environment import endpoint_key
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.accuracy import by_setting
from symtune_pipeline.evaluation.endpoint import Endpoint, predict
from symtune_pipeline.progress import Progress
from symtune_pipeline.report.robustness import choice_text
from symtune_pipeline.report.tables import accuracy_text, fraction_text
from symtune_pipeline.tables import CLASSIFICATION_PREDICTIONS, CLASSIFICATION_SUITE


def score_endpoint(
    url: Annotated[str, typer.Argument(help="The server's address, up to and with /v1.")],
    model: Annotated[str, typer.Option(help="The model's name on the server.")],
    output: Annotated[Path, typer.Option(help="A Parquet file for the predictions.")],
) -> None:
    """Score a served model on the classification suites, by log-probabilities of echoed prompts.

    The server needs OpenAI's /v1/completions with echo and logprobs, as vLLM has it; its key, where
    it asks for one, is read from OPENAI_API_KEY.

    Example: symtune score-endpoint http://127.0.0.1:8000/v1 --model smollm2 --output scores.parquet
    """
    if output.is_dir() or not output.resolve().parent.is_dir():
        raise UserError(f"File {output} cannot be written; name a file in a folder that exists.")
    if current_experiment().evaluation.chat_template:
        raise UserError(
            "evaluation.chat_template is on, and a server does not say what its model's template is; set"
            " it to false, or score the model from its folder, as the sensor incoming_models does."
        )
    store = current_store()
    suite = store.read_table("eval", name=CLASSIFICATION_SUITE.file)
    examples = store.read_table("int_evaluation_examples").sort("example")
    progress = Progress(model, len(suite), "queries")
    endpoint = Endpoint(url, model, endpoint_key())
    predictions = predict(endpoint, suite, examples["input"].to_list(), progress)
    for line in accuracies(predictions):
        typer.echo(line)
    try:
        CLASSIFICATION_PREDICTIONS.checked(predictions).write_parquet(output)
    except (OSError, ComputeError) as error:
        raise UserError(
            f"File {output} cannot be written ({error}); make room there or name another file, and"
            " score again."
        ) from error


def accuracies(predictions: pl.DataFrame) -> list[str]:
    """A line per setting: 'a: 0.61 [0.57, 0.66] of 440, chance 0.42, calibrated 0.63 [0.58, 0.67]'."""
    return [
        f"{row['setting']}: {accuracy_text(row)} of {row['n']:,}, chance {fraction_text(row['chance'])},"
        f" calibrated {choice_text(row, 'calibrated')}"
        for row in by_setting(predictions).iter_rows(named=True)
    ]
