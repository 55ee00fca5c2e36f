"""The evaluation job: a suite and models in, a table of predictions for each model out.

Every rank holds a whole model and asks it some of the suite's passes; where a model does not fit one rank,
several hold it together. The job writes into its output
folder: `answers/` while it runs, and `predictions/` with the table of each variant as soon as it is
complete. This module knows nothing about who launched it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import polars as pl

from symtune_pipeline.contract import Table
from symtune_pipeline.errors import UserError, brief
from symtune_pipeline.evaluation.answers import KeptAnswers
from symtune_pipeline.evaluation.asking import Asking
from symtune_pipeline.evaluation.config import Endpoint, JobConfig, Weights
from symtune_pipeline.evaluation.predictions import packages, run_on
from symtune_pipeline.evaluation.spread import RankTeam, ranks_per_model
from symtune_pipeline.files import content_hash, read_table, sha256
from symtune_pipeline.jobs.job import Say
from symtune_pipeline.jobs.ranks import Ranks, work_as_rank
from symtune_pipeline.models.device import device_and_precision
from symtune_pipeline.progress import Progress
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.tables import ALGORITHMIC_SUITE, CLASSIFICATION_SUITE, LANGUAGE_SUITE, Suite

SUITES: dict[Suite, Table] = {
    "classification": CLASSIFICATION_SUITE,
    "algorithmic": ALGORITHMIC_SUITE,
    "language": LANGUAGE_SUITE,
    "finetuned": CLASSIFICATION_SUITE,
}
# Modules and their functions, by name: what scores does not depend on what generates, nor the other
# way round.
ANSWERING: dict[Suite, tuple[str, str]] = {
    "classification": ("symtune_pipeline.evaluation.classification", "classify"),
    "algorithmic": ("symtune_pipeline.evaluation.generation", "generate"),
    "language": ("symtune_pipeline.evaluation.language", "measure"),
    "finetuned": ("symtune_pipeline.evaluation.finetuned", "answer_in_all_ways"),
}
SERVED = "symtune_pipeline.evaluation.served"  # whose functions of these names ask a server
MADE_FROM = "made from"  # in the metadata of a finished table


def run_job(config: JobConfig, say: Say) -> Path:
    """Ask every variant; returns the folder of the tables. What is finished is not asked again.

    Raises UserError for what a setting, the data or the machine is at fault for; the answers so far
    are kept. Where several ranks run it, only rank 0 speaks.
    """
    return work_as_rank(config.output_folder, say, partial(_run, config))


def _run(config: JobConfig, ranks: Ranks, say: Say) -> Path:
    suite, read = ranks.together(lambda: _read(config))
    seen = ranks.all_gather(read)
    other = next((rank for rank, found in enumerate(seen) if found != seen[0]), None)
    if other is not None:
        raise UserError(
            f"Rank {other} of the evaluation has another suite than rank 0, or other settings; give all"
            f" its machines the same folder for {config.queries}."
        )
    team = _team(config, ranks, say)
    for variant, model in config.variants.items():
        # Sums in another order differ by rounding, so models that are held otherwise answer otherwise.
        held = [*packages(), team.size if team else 1] if isinstance(model, Weights) else []
        made_from = content_hash([read, model.version, *held])[:16]
        path = config.result_folder / f"{variant}.parquet"
        if ranks.broadcast(lambda path=path, made=made_from: _made_from(path) == made):  # type: ignore[misc]
            continue
        progress = Progress(f"{variant} model", len(suite), "queries", say)
        of_team = team if isinstance(model, Weights) else None
        name = _kept_as(made_from, model, ranks)
        answers = _answers(config, ranks, name, progress, of_team)
        table = _predict(config, suite, model, progress, answers)
        if isinstance(model, Weights):
            held_by = team.size if team else 1
            table = run_on(table, *device_and_precision(config.precision), held_by)
        if ranks.rank == 0:
            _write(table, path, made_from)
        gc.collect()  # a model may hold itself
    ranks.barrier()  # to no rank is it finished before the result is there
    return config.result_folder


def _read(config: JobConfig) -> tuple[pl.DataFrame, str]:
    """The queries that are asked, and a hash of all that decides the answers but the weights.

    The device counts, as its numbers differ from another's.
    """
    try:
        rows = SUITES[config.suite].checked(read_table(config.queries))
        files = [sha256(path) for path in (config.queries, config.inputs) if path]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"The suite {config.queries} cannot be read ({brief(error)}); materialise it again."
        ) from error
    device, precision = device_and_precision(config.precision)
    settings = [config.benchmarks, config.chat_template, config.channel, config.made_from]
    if config.benchmarks:
        rows = rows.filter(pl.col("benchmark").is_in(config.benchmarks))
    return rows, content_hash([files, settings, device, str(precision)])


def _kept_as(made_from: str, model: Weights | Endpoint, ranks: Ranks) -> str:
    """The name of the folder of answers: those of another model under a server's name are apart."""
    if isinstance(model, Weights):
        return made_from
    facts: Callable[[Endpoint], object] = import_module(SERVED).server_facts
    seen = ranks.all_gather(ranks.together(lambda: facts(model)))
    if any(found != seen[0] for found in seen):
        raise UserError(
            f"Endpoint {model.url} is not the same to all ranks of the evaluation; give all its machines"
            " one server."
        )
    return content_hash([made_from, seen[0]])[:16]


def _team(config: JobConfig, ranks: Ranks, say: Say) -> RankTeam | None:
    """The ranks that hold a model together with this one; None where each holds a whole one."""
    _, precision = device_and_precision(config.precision)
    folders = [each.folder for each in config.variants.values() if isinstance(each, Weights)]
    if not folders:
        return None
    size = ranks_per_model(config.ranks_per_model, folders, precision, ranks)
    return RankTeam.of(ranks, size, say) if size > 1 else None


def _answers(
    config: JobConfig, ranks: Ranks, name: str, progress: Progress, team: RankTeam | None
) -> KeptAnswers:
    def going_on(done: int) -> None:
        progress.resume(done)
        progress.say(f"{progress.what}: going on, {done:,} {progress.unit} were answered before")

    if team:
        team = replace(team, say=lambda line: progress.say(f"{progress.what}: {line}"))
    folder = config.output_folder / "answers" / name
    bucket = Bucket(config.checkpoint_url) if config.checkpoint_url else None
    return KeptAnswers(folder, ranks, going_on, bucket, team)


def _predict(
    config: JobConfig,
    suite: pl.DataFrame,
    model: Weights | Endpoint,
    progress: Progress,
    asking: Asking,
) -> pl.DataFrame:
    """What the model in a folder or on a server predicts, whichever way its suite is answered."""
    module, function = ANSWERING[config.suite]
    where: Endpoint | Path = model if isinstance(model, Endpoint) else model.folder
    home = import_module(SERVED if isinstance(model, Endpoint) else module)
    predict: Callable[..., pl.DataFrame] = getattr(home, function)
    settings = EvaluationConfig(
        precision=config.precision,
        chat_template=config.chat_template,
        channel=config.channel,
        finetuned=config.finetuned,
    )
    if config.inputs is None:
        return predict(where, suite, settings, progress, asking)
    inputs = read_table(config.inputs).sort("example")["input"].to_list()
    return predict(where, suite, inputs, settings, progress, asking)


def _made_from(path: Path) -> str | None:
    """What a finished table was made from; None where there is none."""
    try:
        return pl.read_parquet_metadata(path).get(MADE_FROM)
    except (OSError, pl.exceptions.PolarsError):
        return None


def _write(table: pl.DataFrame, path: Path, made_from: str) -> None:
    """Write a table beside, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    table.write_parquet(beside, metadata={MADE_FROM: made_from})
    os.replace(beside, path)
