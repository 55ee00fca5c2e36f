"""`symtune show dataset`: shows a dataset's catalogue entry and its loaded rows."""

from __future__ import annotations

from typing import Annotated

import polars as pl
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from symtune_pipeline.catalog.datasets import Dataset, find_dataset, keys_named
from symtune_pipeline.catalog.families import abouts
from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.store.folder import Store

FATES = ("duplicate", "conflict", "contaminated", "capped", "other_split", "empty")


def dataset(
    key: Annotated[
        str, typer.Argument(help="A dataset of the experiment or of the catalogue, or a family.")
    ],
) -> None:
    """Show a dataset: its catalogue entry, and which of its rows were loaded and kept.

    Of a family of generated sets, show what it is about and what its sets ask.

    Example: symtune show dataset rte
    """
    if key in abouts():
        Console().print(family_table(key))
        return
    Console().print(dataset_table(current_store(), current_experiment(), key))


def family_table(name: str) -> Table:
    """What a family is about, and the question of each of its sets."""
    grid = Table.grid(padding=(0, 2))
    keys = keys_named(name)
    grid.add_row(Text(name, style="bold"), Text(f"{len(keys)} generated sets. {abouts()[name]}"))
    for key in keys:
        grid.add_row(Text(key, style="bold"), Text(find_dataset(key).instruction))
    return grid


def dataset_table(store: Store, experiment: Experiment, key: str) -> Table:
    """A dataset's catalogue entry and its loaded rows.

    Raises UserError for a dataset that neither the experiment nor the catalogue has.
    """
    own = {dataset.key: dataset for dataset in experiment.datasets()}
    dataset = own.get(key) or find_dataset(key)
    grid = Table.grid(padding=(0, 2))
    for name, text in (
        *_facts(dataset),
        *(_loaded(store, dataset) if key in own else [("rows", f"not in {experiment.name}")]),
    ):
        grid.add_row(Text(name, style="bold"), Text(text))
    return grid


def _facts(dataset: Dataset) -> list[tuple[str, str]]:
    facts = [("dataset", f"{dataset.key}: {dataset.task_type}, for {dataset.role}")]
    if dataset.family:
        facts += [("family", f"{dataset.family}, generated")]
    if dataset.hub:
        address = f"{dataset.hub.repository}, configuration {dataset.hub.config}"
        facts += [("repository", address), ("revision", dataset.hub.revision or "the newest")]
    return [
        *facts,
        ("licence", dataset.licence),
        ("citation", dataset.citation),
        ("labels", ", ".join(f"{code}: {label}" for code, label in dataset.labels.items())),
        ("instruction", dataset.instruction),
        ("input", dataset.input),
    ]


def _loaded(store: Store, dataset: Dataset) -> list[tuple[str, str]]:
    asset = f"raw_{dataset.key}"
    if store.find(asset) is None:
        return [("rows", f"none yet; `symtune run --select {asset}` loads them")]
    raw = store.read_table(asset)
    classes = raw.group_by("label").len().sort(-pl.col("len").cast(pl.Int64), "label").rows()
    rows = [
        ("rows", f"{len(raw):,}"),
        ("by class", ", ".join(f"{label}: {count:,}" for label, count in classes)),
    ]
    if store.find("int_set_statistics"):
        for row in (
            store.read_table("int_set_statistics").filter(dataset=dataset.key).iter_rows(named=True)
        ):
            fates = ", ".join(f"{fate}: {row[fate]:,}" for fate in ("kept", *FATES) if row[fate])
            rows.append(("outcome", fates))
    # The first of every class, then the second.
    turn = pl.int_range(pl.len()).over("label")
    for row in raw.sort(turn, maintain_order=True).head(3).iter_rows(named=True):
        rows.append((row["label"], row["input"]))
    return rows
