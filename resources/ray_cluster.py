"""A job on a Ray cluster that already runs, as a Ray job."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

import symtune_pipeline
from resources.pipes import ENVIRONMENT, run_client, write_job
from symtune_pipeline.jobs.job import Job


def run_on_cluster(
    context: dg.AssetExecutionContext, job: Job, address: str, options: Sequence[str]
) -> Path:
    """Run `on_ray` with `options` on the cluster whose dashboard is at `address`.

    A cluster that asks for a token gets Ray's own, from RAY_AUTH_TOKEN or ~/.ray/auth_token. The
    cluster sees the job's folders under the same paths. It gets this library with the job, so
    that both run the same code, and has its dependencies installed.
    """
    from dagster_ray.core.pipes import PipesRayJobClient, PipesRayJobMessageReader
    from ray.exceptions import RayError

    program = ["python", "-m", "symtune_pipeline.jobs.on_ray", *options, "-m", job.package]
    entrypoint = shlex.join([*program, "--config", str(write_job(job))])
    library = str(Path(symtune_pipeline.__file__).parent)
    environment = {"py_modules": [library], "env_vars": dict(ENVIRONMENT)}
    reader = PipesRayJobMessageReader()
    client = PipesRayJobClient(address=address, message_reader=reader)
    result = run_client(
        reader,
        lambda: client.run(
            context=context,
            submit_job_params={"entrypoint": entrypoint, "runtime_env": environment},
        ),
        (RuntimeError, OSError, RayError),
        f"The {job.name} on the Ray cluster {address}",
        job.goes_on,
    )
    return Path(result)
