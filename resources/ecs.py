"""A job as a task on Amazon ECS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from resources.pipes import ENVIRONMENT, run_client
from symtune_pipeline.jobs.job import Job
from symtune_pipeline.jobs.job_file import put_job
from symtune_pipeline.store.bucket import Bucket


def run_on_ecs(
    context: dg.AssetExecutionContext,
    job: Job,
    staging: str,
    container: str,
    task: Mapping[str, Any],
) -> Path:
    """Run `task`, parameters of ECS's RunTask, with the job in one of its containers.

    The job's inputs, checkpoints and result go through `staging`, an s3:// prefix. The container's
    image has this library installed, and its log driver is awslogs: there its lines are read.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError
    from dagster_aws.pipes import PipesCloudWatchMessageReader, PipesECSClient

    bucket = Bucket(f"{staging.rstrip('/')}/{job.fingerprint()}")
    command = ["python", "-m", job.package, "--config", put_job(job, bucket)]
    environment = [{"name": name, "value": value} for name, value in ENVIRONMENT.items()]
    override = {"name": container, "command": command, "environment": environment}
    reader = PipesCloudWatchMessageReader(client=boto3.client("logs"))
    client = PipesECSClient(client=boto3.client("ecs"), message_reader=reader)
    run_client(
        reader,
        lambda: client.run(
            context=context,
            run_task_params={**task, "overrides": {"containerOverrides": [override]}},
            pipes_container_name=container,
        ),
        (ClientError, BotoCoreError, RuntimeError),
        f"The {job.name} on ECS",
        job.goes_on,
    )
    bucket.download_folder(job.result, job.result_folder)
    bucket.remove_folder("")
    return job.result_folder
