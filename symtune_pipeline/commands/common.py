"""What every command asks for: the current experiment and its store."""

from __future__ import annotations

from symtune_pipeline.environment import experiment_name, home_folder, home_url
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.store.bucket import Bucket, BucketStore
from symtune_pipeline.store.claim import check_owner
from symtune_pipeline.store.folder import Store


def current_experiment() -> Experiment:
    """The experiment that SYMTUNE_EXPERIMENT names; raises UserError where it cannot be read."""
    return load_experiment(experiment_name())


def current_store() -> Store:
    """Where the current experiment keeps its artifacts."""
    return store_of(current_experiment())


def store_of(experiment: Experiment) -> Store:
    """Where an experiment keeps its artifacts: a folder, or a prefix on s3.

    Raises UserError where they are those of another experiment file of the same name.
    """
    store = store_named(experiment.name)
    if experiment.owner:
        check_owner(store, experiment.owner)
    return store


def store_named(name: str) -> Store:
    """Where the experiment of a name keeps its artifacts, whichever file it has."""
    root, url = home_folder() / name, home_url()
    return BucketStore(root, Bucket(f"{url}/{name}")) if url else Store(root)
