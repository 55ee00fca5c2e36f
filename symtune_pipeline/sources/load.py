"""Raw examples of a dataset from wherever the experiment says they are, in the normal form."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from symtune_pipeline.catalog import Dataset, HubLocation
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.sources.generated import generate
from symtune_pipeline.sources.normal import normal_form


def load_examples(dataset: Dataset, experiment: Experiment, mirror: Path | None) -> pl.DataFrame:
    """All splits of a dataset.

    `mirror` is the folder that SYMTUNE_MIRROR names. Raises UserError where the data cannot be had
    or cannot take the normal form.
    """
    data = experiment.data
    if dataset.hub is None:
        rows = {"train": data.train_rows, "test": data.test_rows}
        frames = [
            normal_form(
                generate(dataset.key, split, count, experiment.seed),
                dataset, split, f"Generated set '{dataset.key}', split '{split}'",
            )
            for split, count in rows.items()
        ]  # fmt: skip
    elif data.source == "mirror":
        frames = [_from_mirror(dataset, dataset.hub, split, mirror) for split in dataset.hub.splits]
    else:
        frames = [_from_hub(dataset, dataset.hub, split) for split in dataset.hub.splits]
    return pl.concat(frames)


def _from_mirror(
    dataset: Dataset, hub: HubLocation, split: str, mirror: Path | None
) -> pl.DataFrame:
    path = _mirrored(hub, split, mirror)
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError as error:
        raise UserError(
            f"The mirror lacks {path}; copy that file from the hub's {hub.repository}, or leave"
            f" dataset '{dataset.key}' out of data.datasets."
        ) from error
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no readable Parquet file ({reason}); copy it again.") from error
    return normal_form(frame, dataset, split, str(path))


def _mirrored(hub: HubLocation, split: str, mirror: Path | None) -> Path:
    if mirror is None:
        raise UserError(
            "The experiment takes its data from a mirror; set SYMTUNE_MIRROR to its folder"
            " (<repository>/<config>/<split>.parquet)."
        )
    # The hub's oldest sets once had no owner in their names, and a mirror may still call them so.
    old = mirror / hub.repository.rpartition("/")[2]
    folder = old if old.is_dir() else mirror / hub.repository
    return folder / hub.config / f"{hub.splits[split]}.parquet"


def _from_hub(dataset: Dataset, hub: HubLocation, split: str) -> pl.DataFrame:
    from datasets import load_dataset

    where = (
        f"Hub dataset {hub.repository} ({hub.config}, {hub.splits[split]}, revision {hub.revision})"
    )
    try:
        loaded = load_dataset(
            hub.repository,
            name=None if hub.parquet_branch else hub.config,
            data_dir=hub.config if hub.parquet_branch else None,
            split=hub.splits[split],
            revision=hub.revision,
        )
    # The library raises its own, the hub client's and the HTTP client's errors.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{where} cannot be loaded ({reason}); check the network, or take it from a mirror with"
            " data.source: mirror and SYMTUNE_MIRROR."
        ) from error
    return normal_form(pl.from_arrow(loaded.data.table), dataset, split, where)  # type: ignore[arg-type]
