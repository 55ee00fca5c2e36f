"""Plugs of the graph: where data lies, where jobs run, who is told about them."""

from __future__ import annotations

from resources.console import console
from resources.launcher import load_launcher
from resources.no_pickle import NoPickle
from resources.store import StoreResource
from resources.tracker import WandbTracker
from symtune_pipeline.experiment import Experiment, home_folder, launcher_name


def resources_of(experiment: Experiment) -> dict[str, object]:
    """The resources of an experiment; each experiment keeps its tables in a folder of its own."""
    home = home_folder()
    return {
        "io_manager": NoPickle(),
        "store": StoreResource(root=str(home / experiment.name)),
        "launcher": load_launcher(launcher_name()),
        "tracker": WandbTracker(folder=str(home / "wandb")),
    }


__all__ = ["console", "resources_of"]
