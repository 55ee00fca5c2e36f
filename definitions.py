"""The code location: the assets, jobs and schedules of one experiment."""

import sys
from pathlib import Path
from typing import Any

# The repository's folders are importable from wherever this file is loaded.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import dagster as dg

from assets.common import MODELS
from assets.evaluation import evaluation_assets
from assets.mixtures import mixture_assets
from assets.models import model_assets
from assets.raw import raw_assets
from assets.report import report_assets
from assets.sql import sql_assets
from assets.symbols import symbol_assets
from resources import console, resources_of
from symtune_pipeline.experiment import current_experiment

experiment = current_experiment()
CONSOLE: dict[str, Any] = {"loggers": {"console": {}}}  # the one below, instead of Dagster's own

symbol_tuning = dg.define_asset_job(
    "symbol_tuning",
    selection=dg.AssetSelection.all(),
    partitions_def=MODELS,
    config=CONSOLE,
    description="Everything, for one model.",
)
evaluation = dg.define_asset_job(
    "evaluation",
    selection="eval*",
    partitions_def=MODELS,
    config=CONSOLE,
    description="The evaluation and the report, for one model.",
)


@dg.schedule(cron_schedule="0 6 * * 1", job=evaluation)
def weekly_evaluation(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """Evaluates every model of the experiment again; off until switched on in the UI."""
    week = context.scheduled_execution_time.date().isoformat()
    return [dg.RunRequest(run_key=f"{week}-{key}", partition_key=key) for key in experiment.models]


defs = dg.Definitions(
    assets=[
        raw_assets(experiment),
        *sql_assets(experiment),
        *symbol_assets(experiment),
        *mixture_assets(experiment),
        *model_assets(experiment),
        *evaluation_assets(experiment),
        *report_assets(experiment),
    ],
    jobs=[symbol_tuning, evaluation],
    schedules=[weekly_evaluation],
    resources=resources_of(experiment),
    # Steps are few and share one process; the fine-tune job is a process of its own.
    executor=dg.in_process_executor,
    loggers={"console": console},
)
