"""The code location of an experiment: its assets, jobs, schedules, sensors and resources."""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg

from assets.attributes import with_attributes
from assets.base_model import base_model, pretrained_model
from assets.eval_report import eval_report
from assets.finetuned import eval_finetuned
from assets.incoming import evaluate_folder, incoming_models
from assets.language import eval_language
from assets.predictions import eval_algorithmic, eval_flipped, eval_icl
from assets.raw import GROUP as RAW
from assets.raw import raw_assets
from assets.sql import sql_assets
from assets.starts import needs_parent
from assets.step import KeptAsset
from assets.suites import suites
from assets.tasksource import raw_tasksource
from assets.variants import chain, reads_tasksource, variant_assets
from resources import console, resources_of
from symtune_pipeline.environment import git_tree
from symtune_pipeline.experiment import Experiment

CONSOLE: dict[str, Any] = {"loggers": {"console": {}}}  # ours, instead of Dagster's own
EVERYTHING, EVALUATION, REFRESH = "symbol_tuning", "evaluation", "refresh_data"


def code_location(experiment: Experiment) -> dg.Definitions:
    """Everything that Dagster serves of an experiment; the models are its partitions."""
    # Of code references and checks' partitions, now and when jobs are resolved; Dagster is pinned.
    for kind in (dg.BetaWarning, dg.PreviewWarning):
        warnings.simplefilter("ignore", kind)
    models = dg.StaticPartitionsDefinition(list(experiment.models))
    tags = {"experiment": experiment.name}  # on every run: one instance may serve several
    jobs = _jobs(models, tags)
    return dg.Definitions(
        assets=with_attributes(_assets(experiment, models), experiment.name, git_tree()),
        jobs=[*jobs.values(), evaluate_folder(experiment)],
        schedules=_schedules(experiment, jobs),
        sensors=[_keep_up_to_date(), incoming_models],
        resources=resources_of(experiment),
        # Steps are few and share one process; the fine-tune and the evaluation are processes of their own.
        executor=dg.in_process_executor,
        loggers={"console": console},
        metadata={"experiment": experiment.name},
    )


def _assets(experiment: Experiment, models: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    kept: list[KeptAsset] = [*chain(experiment), base_model]
    kept += [pretrained_model] if needs_parent(experiment) else []
    kept += [raw_tasksource] if reads_tasksource(experiment) else []
    kept += [suites, eval_icl, eval_flipped, eval_algorithmic, eval_language, eval_finetuned]
    kept += [eval_report]
    defined = [asset.define(experiment, models) for asset in kept]
    own = variant_assets(experiment, models)
    return [raw_assets(experiment), *sql_assets(experiment), *defined, *own]


def _jobs(models: dg.PartitionsDefinition, tags: Mapping[str, str]) -> dict[str, Any]:
    made = partial(dg.define_asset_job, config=CONSOLE, tags=tags)
    jobs = [
        made(
            EVERYTHING,
            selection=dg.AssetSelection.all(),
            partitions_def=models,
            description="Runs everything for one model.",
        ),
        made(
            EVALUATION,
            selection="eval*",
            partitions_def=models,
            description="Runs the evaluation and the report for one model.",
        ),
        made(
            REFRESH,
            selection=dg.AssetSelection.groups(RAW),
            description="Loads every raw dataset from the source that the experiment names.",
        ),
    ]
    return {job.name: job for job in jobs}


def _schedules(experiment: Experiment, jobs: dict[str, Any]) -> list[dg.ScheduleDefinition]:
    @dg.schedule(cron_schedule="0 6 * * 1", job=jobs[EVALUATION])
    def weekly_evaluation(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        """Evaluates every model of the experiment; off until switched on."""
        week = context.scheduled_execution_time.date().isoformat()
        return [
            dg.RunRequest(run_key=f"{week}-{key}", partition_key=key) for key in experiment.models
        ]

    weekly_refresh = dg.ScheduleDefinition(
        name="weekly_refresh",
        job=jobs[REFRESH],
        cron_schedule="0 5 * * 1",
        description="Loads every raw dataset whose source has changed; off until switched on.",
    )
    return [weekly_evaluation, weekly_refresh]


def _keep_up_to_date() -> dg.AutomationConditionSensorDefinition:
    """Off as well: a fine-tune that starts by itself would be a surprise on a laptop."""
    return dg.AutomationConditionSensorDefinition(
        "keep_up_to_date",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Materialises everything downstream of a changed dataset, setting or model, the fine-tune"
        " too; off until switched on.",
    )
