"""tasksource's published symbol-tuning prompts: where they are, and which tasks are a set of ours."""

from __future__ import annotations

from functools import cache

from symtune_pipeline.catalog.datasets import Dataset, HubLocation, all_datasets
from symtune_pipeline.catalog.facts import Fact, read_beside


class Tasksource(Fact):
    """The prompts as the hub has them."""

    key: str
    hub: HubLocation
    licence: str
    citation: str
    also: dict[
        str, tuple[str, ...]
    ]  # further names of a set's examples among the tasks, by its key


@cache
def tasksource() -> Tasksource:
    """The one entry."""
    return Tasksource.model_validate(read_beside(__file__))


def same_examples(task: str, dataset: Dataset) -> bool:
    """Whether a task of tasksource has the examples of a public dataset, as far as names tell."""
    task = task.lower()
    names = [name.lower() for name in _names(dataset)]
    return any(task == name or task.startswith(f"{name}/") for name in names)


def _names(dataset: Dataset) -> list[str]:
    """What a dataset's examples are called among the tasks."""
    also = list(tasksource().also.get(dataset.key, ()))
    if not dataset.hub:
        return also
    name = dataset.hub.repository.rpartition("/")[2]
    configs = {
        entry.hub.config
        for entry in all_datasets().values()
        if entry.hub and entry.hub.repository == dataset.hub.repository
    }
    if len(configs | {dataset.hub.config}) > 1:  # the repository holds several sets
        return [f"{name}/{dataset.hub.config}", *also]
    return [name, *also]
