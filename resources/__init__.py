"""Plugs of the graph: where data lies, where jobs run, who is told about them."""

from __future__ import annotations

from dataclasses import asdict

from resources.console import console
from resources.launcher import load_launcher
from resources.no_pickle import NoPickle
from resources.store import StoreResource
from resources.tracker import WandbTracker
from symtune_pipeline.environment import home_folder, home_url, launcher_name
from symtune_pipeline.experiment import Experiment


def resources_of(experiment: Experiment) -> dict[str, object]:
    """The resources of an experiment; each experiment keeps its tables in a folder of its own."""
    return {
        "io_manager": NoPickle(),
        "store": _store(experiment.name, asdict(experiment.owner) if experiment.owner else {}),
        "launcher": load_launcher(launcher_name()),
        "tracker": WandbTracker(folder=str(home_folder() / "wandb")),
    }


def _store(name: str, owner: dict[str, str]) -> StoreResource:
    root, url = str(home_folder() / name), home_url()
    if url is None:
        return StoreResource(root=root, owner=owner)
    # Here, since loading dagster-aws takes nearly as long as loading Dagster.
    from dagster_aws.s3 import S3Resource

    from resources.bucket_store import BucketStoreResource

    return BucketStoreResource(root=root, owner=owner, url=f"{url}/{name}", s3=S3Resource())


__all__ = ["console", "resources_of"]
