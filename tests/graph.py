"""Assets of an experiment's graph, made over a store in a folder by Dagster in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from assets.location import code_location
from resources.launcher import Launcher
from resources.store import StoreResource
from symtune_pipeline.experiment import Experiment


def materialise(
    experiment: Experiment,
    root: Path,
    assets: Sequence[str],
    model: str | None = None,
    launcher: Launcher | None = None,
) -> dg.ExecuteInProcessResult:
    """Make some assets, of one model where they have partitions; a failure is not raised."""
    graph = code_location(experiment)
    plugs = {"store": StoreResource(root=str(root))} | ({"launcher": launcher} if launcher else {})
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            list(graph.assets or ()),
            selection=list(assets),
            partition_key=model,
            resources={**(graph.resources or {}), **plugs},
            instance=instance,
            raise_on_error=False,
        )
