"""`symtune score-endpoint`: scores a served model on the classification suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from polars.exceptions import ComputeError

from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.accuracy import by_setting
from symtune_pipeline.progress import Progress
from symtune_pipeline.report.robustness import choice_text
from symtune_pipeline.report.tables import accuracy_text, fraction_text
from symtune_pipeline.tables import CLASSIFICATION_PREDICTIONS, CLASSIFICATION_SUITE, Protocol


def score_endpoint(
    url: Annotated[
        str,
        typer.Argument(
            help="The server's address, with /v1 at its end; for sglang without a path."
        ),
    ],
    model: Annotated[str, typer.Option(help="The model's name on the server.")],
    output: Annotated[Path, typer.Option(help="The Parquet file to write the predictions to.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="A folder with config.json and tokenizer. Default: those of the experiment's model."
        ),
    ] = None,
    protocol: Annotated[Protocol, typer.Option(help="The server's protocol.")] = "completions",
) -> None:
    """Score a served model on the classification suites, by log-probabilities of prompts.

    The server must be vLLM, another one with OpenAI's /v1/completions with echo and logprobs, or SGLang.
    If it needs a key, set OPENAI_API_KEY. To compare a served model with the experiment's own models in
    all tables and in the report, use the setting evaluation.endpoints instead.

    Example: symtune score-endpoint http://127.0.0.1:8000/v1 --model smollm2 --output scores.parquet
    """
    from symtune_pipeline.evaluation.asking import ALONE
    from symtune_pipeline.evaluation.config import Endpoint
    from symtune_pipeline.evaluation.predictions import of_model
    from symtune_pipeline.evaluation.served import classify

    if output.is_dir() or not output.resolve().parent.is_dir():
        raise UserError(f"File {output} cannot be written; name a file in a folder that exists.")
    store = current_store()
    suite = store.read_table("eval", name=CLASSIFICATION_SUITE.file)
    inputs = store.read_input("eval", "int_evaluation_examples").sort("example")["input"].to_list()
    endpoint = Endpoint(
        url=url,
        model=model,
        protocol=protocol,
        tokenizer=tokenizer or store.folder("base_model", _only_model()),
        version=model,
    )
    progress = Progress(model, len(suite), "queries")
    answers = classify(endpoint, suite, inputs, current_experiment().evaluation, progress, ALONE)
    predictions = of_model(answers, model, "endpoint")
    for line in accuracies(predictions):
        typer.echo(line)
    try:
        CLASSIFICATION_PREDICTIONS.checked(predictions).write_parquet(output)
    except (OSError, ComputeError) as error:
        raise UserError(
            f"File {output} cannot be written ({error}); make room there or name another file, and"
            " score again."
        ) from error


def _only_model() -> str:
    models = current_experiment().models
    if len(models) > 1:
        raise UserError(
            f"The experiment has {len(models)} models, and the endpoint has the tokenizer of one; name its"
            " folder with --tokenizer."
        )
    return models[0]


def accuracies(predictions: pl.DataFrame) -> list[str]:
    """A line per setting: 'a: 0.61 [0.57, 0.66] of 440, chance 0.42, calibrated 0.63 [0.58, 0.67]'."""
    return [
        f"{row['setting']}: {accuracy_text(row)} of {row['n']:,}, chance {fraction_text(row['chance'])},"
        f" calibrated {choice_text(row, 'calibrated')}"
        for row in by_setting(predictions).iter_rows(named=True)
    ]
