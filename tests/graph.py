"""Assets of an experiment's graph, made over a store in a folder by Dagster in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import dagster as dg

from assets.location import code_location
from resources.launcher import Launcher
from resources.store import StoreResource
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.jobs.job import Job


class Here(Launcher):
    """Runs a job in this process: starting one takes seconds, and other tests do."""

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher."""
        read_again = type(job).model_validate_json(job.model_dump_json())
        run_job: Callable[..., Path] = import_module(f"{job.package}.job").run_job
        return run_job(read_again, context.log.info)


def materialise(
    experiment: Experiment,
    root: Path,
    assets: Sequence[str],
    model: str | None = None,
    launcher: Launcher | None = None,
    store: StoreResource | None = None,
) -> dg.ExecuteInProcessResult:
    """Make some assets, of one model where they have partitions; a failure is not raised.

    The store is a folder, unless another one is given.
    """
    graph = code_location(experiment)
    plugs = {"store": store or StoreResource(root=str(root))} | (
        {"launcher": launcher} if launcher else {}
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            list(graph.assets or ()),
            selection=list(assets),
            partition_key=model,
            resources={**(graph.resources or {}), **plugs},
            instance=instance,
            raise_on_error=False,
        )
