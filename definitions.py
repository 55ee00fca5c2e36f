"""The code location: the assets, jobs and schedules of one experiment."""

import sys
import warnings
from pathlib import Path
from typing import Any

# The repository's folders are importable from wherever this file is loaded.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import dagster as dg

from assets.attributes import with_attributes
from assets.common import MODELS
from assets.evaluation import evaluation_assets
from assets.incoming import evaluate_folder, incoming_models
from assets.mixtures import mixture_assets
from assets.models import model_assets
from assets.raw import raw_assets
from assets.report import report_assets
from assets.sql import sql_assets
from assets.symbols import symbol_assets
from resources import console, resources_of
from symtune_pipeline.commands.common import current_experiment
from symtune_pipeline.environment import git_tree

warnings.simplefilter("ignore", dg.BetaWarning)  # of code references; Dagster's version is pinned
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
refresh_data = dg.define_asset_job(
    "refresh_data",
    selection=dg.AssetSelection.groups("raw"),
    config=CONSOLE,
    description="Every raw dataset, from where the experiment says that it comes from.",
)


@dg.schedule(cron_schedule="0 6 * * 1", job=evaluation)
def weekly_evaluation(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """Evaluates every model of the experiment again; off until switched on in the UI."""
    week = context.scheduled_execution_time.date().isoformat()
    return [dg.RunRequest(run_key=f"{week}-{key}", partition_key=key) for key in experiment.models]


weekly_refresh = dg.ScheduleDefinition(
    name="weekly_refresh",
    job=refresh_data,
    cron_schedule="0 5 * * 1",
    description="Loads every raw dataset again whose source has changed; off until switched on.",
)
# Off as well: a fine-tune that starts by itself would be a surprise on a laptop.
keep_up_to_date = dg.AutomationConditionSensorDefinition(
    "keep_up_to_date",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Makes what a changed dataset, mixture or model is an input of.",
)

defs = dg.Definitions(
    assets=with_attributes(
        [
            raw_assets(experiment),
            *sql_assets(experiment),
            *symbol_assets(experiment),
            *mixture_assets(experiment),
            *model_assets(experiment),
            *evaluation_assets(experiment),
            *report_assets(experiment),
        ],
        git_tree(),
    ),
    jobs=[symbol_tuning, evaluation, refresh_data, evaluate_folder],
    schedules=[weekly_evaluation, weekly_refresh],
    sensors=[keep_up_to_date, incoming_models],
    resources=resources_of(experiment),
    # Steps are few and share one process; the fine-tune job is a process of its own.
    executor=dg.in_process_executor,
    loggers={"console": console},
)
