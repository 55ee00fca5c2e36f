"""Raw examples of a dataset from wherever the experiment says they are, in the normal form."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.sources.generated import generate
from symtune_pipeline.sources.hub import Hub
from symtune_pipeline.sources.mirror import Mirror
from symtune_pipeline.sources.normal import normal_form
from symtune_pipeline.sources.own import as_own, read_own
from symtune_pipeline.sources.source import FileVersion, Source, file_version


def public_source(mirror: str | None) -> Source:
    """Where public sets come from: the mirror that SYMTUNE_MIRROR names, else the hub."""
    return Mirror(mirror) if mirror else Hub()


def load_examples(
    dataset: Dataset,
    experiment: Experiment,
    source: Source,
    say: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """All splits of a dataset; `say` is told of rows that have no label.

    Raises MissingData where a public set cannot be had, and UserError where data cannot take the
    normal form.
    """
    frames = []
    if dataset.files:
        for split, path in dataset.files.items():
            frame, lines = read_own(dataset, path)
            frame = as_own(dataset, frame)
            frames.append(normal_form(frame, dataset, split, str(path), lines, say))
    elif dataset.hub:
        for split in dataset.hub.splits:
            frame, where = source.read(dataset.hub, split), source.where(dataset.hub, split)
            if dataset.key in experiment.data.own:
                frame = as_own(dataset, frame)
            frames.append(normal_form(frame, dataset, split, where, say=say))
    else:
        rows = {"train": experiment.data.train_rows, "test": experiment.data.test_rows}
        frames = [
            normal_form(
                generate(dataset.key, split, count, experiment.seed),
                dataset, split, f"Generated set '{dataset.key}', split '{split}'",
            )
            for split, count in rows.items()
        ]  # fmt: skip
    return pl.concat(frames)


def files_version(dataset: Dataset, source: Source) -> list[FileVersion | None]:
    """Size in bytes and modification time in ns of each file behind a dataset; None: not there.

    Empty for sets that no file can change: generated ones, and those at a revision of the hub.
    """
    if dataset.files:
        return [file_version(path) for _, path in sorted(dataset.files.items())]
    return source.files(dataset.hub) if dataset.hub else []
