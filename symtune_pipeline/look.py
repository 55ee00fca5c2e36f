"""What a person asks of the store: a query, a table, a dataset, a model, the report.

It changes nothing.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from symtune_pipeline import catalog
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.storage import TABLE, Store

if TYPE_CHECKING:
    from rich.table import Table

MADE_OF_A_MODEL = ("base_model", "packed_mixture", "symbol_tuned_model")
Part = tuple[str, str | None, str]  # key, partition and file
FATES = ("duplicate", "conflict", "contaminated", "capped", "other_split", "empty")


def tables(store: Store) -> dict[str, list[Part]]:
    """The parts of each table by its name in SQL; all partitions are one table.

    A table has the name of its asset. One of several tables of an asset has its own name after it,
    as in `eval.algorithmic`.
    """
    found: dict[str, list[Part]] = {}
    for key, partition in store.made():
        for file in store.manifest(key, partition).rows:
            name = key if file == TABLE else f"{key}.{Path(file).stem}"
            found.setdefault(name, []).append((key, partition, file))
    return found


def print_query(store: Store, sql: str, rows: int) -> None:
    """Run a SELECT over the tables of the store and print its first and last `rows` / 2 rows.

    Raises UserError for anything but one SELECT, for a table that was not made, and for whatever
    DuckDB finds wrong.
    """
    with _database(store, sql) as database:
        statements = database.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise UserError(f"'{sql}' is not one SELECT, and tables can only be read; write one.")
        _print(database.sql(sql), rows)


def print_table(store: Store, name: str, rows: int) -> None:
    """Print the first rows of a table; raises UserError where it was not made."""
    files = tables(store)
    if name not in files:
        raise UserError(f"There is no table '{name}' in {store.address}; {_choice(files)}.")
    with _database(store, name) as database:
        _print(database.table(name).limit(rows), rows)


def dataset_table(store: Store, experiment: Experiment, key: str) -> Table:
    """What the catalogue says about a dataset, and what was loaded of it.

    Raises UserError for a dataset that neither the experiment nor the catalogue has.
    """
    from rich.table import Table
    from rich.text import Text

    own = {dataset.key: dataset for dataset in experiment.datasets()}
    dataset = own.get(key) or catalog.dataset(key)
    shown = Table.grid(padding=(0, 2))
    for name, text in (
        *_facts(dataset),
        *(_loaded(store, dataset) if key in own else [("rows", f"not in {experiment.name}")]),
    ):
        shown.add_row(Text(name, style="bold"), Text(text))
    return shown


def model_table(store: Store, key: str) -> Table:
    """What the catalogue says about a model, what was made of it, and where that lies.

    Raises UserError for a model that the catalogue does not have.
    """
    from rich.table import Table
    from rich.text import Text

    model = catalog.model(key)
    shown = Table.grid(padding=(0, 2))
    for name, text in (*_model_facts(model), *_made(store, model)):
        shown.add_row(Text(name, style="bold"), Text(text, overflow="fold"))
    return shown


def print_report(store: Store) -> Path:
    """Print the table that a run ends with and where its page lies; returns the page's path.

    Raises UserError where no report was made.
    """
    from rich.console import Console

    from symtune_pipeline.report.tables import terminal_table

    page = store.folder("eval_report") / "index.html"
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(terminal_table(store.read_table("mart_summary")))
    console.print(f"Report: {page}", soft_wrap=True)
    return page


def _model_facts(model: catalog.Model) -> list[tuple[str, str]]:
    tuning = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in model.tuning.model_dump(exclude_none=True).items()
    )
    package = model.package and f"{model.package.name} {model.package.version}"
    return [
        ("model", f"{model.key}: {model.parameters:,} parameters"),
        ("context", f"{model.context_tokens:,} tokens"),
        ("licence", model.licence),
        ("instruction-tuned", _at(model.instruct, model.revision) or "made here"),
        ("pretrained parent", _at(model.pretrained, model.pretrained_revision) or "none"),
        *([("weights also in", f"package {package}")] if package else []),
        ("tuned with", tuning),
    ]


def _at(repository: str | None, revision: str | None) -> str | None:
    return repository and f"{repository} at {revision or 'no pinned revision'}"


def _made(store: Store, model: catalog.Model) -> Iterator[tuple[str, str]]:
    for asset in MADE_OF_A_MODEL:
        manifest = store.find(asset, model.key)
        command = f"dagster asset materialize --select {asset} --partition {model.key}"
        yield (
            asset,
            str(store.location(asset, model.key, manifest))
            if manifest
            else f"not made yet; `{command}` makes it",
        )
    if store.find("mart_summary"):
        from symtune_pipeline.report.tables import accuracy_text, comparisons, setting_label

        for pair in comparisons(store.read_table("mart_summary").filter(partition=model.key)):
            answers = " → ".join(accuracy_text(row) for row in pair.rows.values())
            yield setting_label(pair.benchmark, pair.setting), answers


def _facts(dataset: catalog.Dataset) -> list[tuple[str, str]]:
    facts = [("dataset", f"{dataset.key}: {dataset.task_type}, for {dataset.role}")]
    if dataset.hub:
        place = f"{dataset.hub.repository}, configuration {dataset.hub.config}"
        facts += [("repository", place), ("revision", dataset.hub.revision or "the newest")]
    return [
        *facts,
        ("licence", dataset.licence),
        ("citation", dataset.citation),
        ("labels", ", ".join(f"{code}: {label}" for code, label in dataset.labels.items())),
        ("instruction", dataset.instruction),
        ("input", dataset.input),
    ]


def _loaded(store: Store, dataset: catalog.Dataset) -> list[tuple[str, str]]:
    asset = f"raw_{dataset.key}"
    if store.find(asset) is None:
        return [("rows", f"none yet; `dagster asset materialize --select {asset}` loads them")]
    raw = store.read_table(asset)
    classes = raw.group_by("label").len().sort(-pl.col("len").cast(pl.Int64), "label").rows()
    found = [
        ("rows", f"{len(raw):,}"),
        ("by class", ", ".join(f"{label}: {count:,}" for label, count in classes)),
    ]
    if store.find("int_set_statistics"):
        for row in (
            store.read_table("int_set_statistics").filter(dataset=dataset.key).iter_rows(named=True)
        ):
            fates = ", ".join(f"{fate}: {row[fate]:,}" for fate in ("kept", *FATES) if row[fate])
            found.append(("by fate", fates))
    # The first of every class, then the second.
    turn = pl.int_range(pl.len()).over("label")
    for row in raw.sort(turn, maintain_order=True).head(3).iter_rows(named=True):
        found.append((row["label"], row["input"]))
    return found


@contextmanager
def _database(store: Store, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """In memory, with a view for each table that `sql` may name."""
    files = tables(store)
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as database:
        try:
            for name, parts in files.items():
                # No others, since those of a store on s3 are fetched.
                if not all(word.lower() in sql.lower() for word in name.split(".")):
                    continue
                paths = [store.folder(key, partition) / file for key, partition, file in parts]
                if "." in name:
                    database.execute(f"CREATE SCHEMA IF NOT EXISTS {name.partition('.')[0]}")
                listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
                database.execute(
                    f"CREATE VIEW {name} AS FROM read_parquet([{listed}], union_by_name = true)"
                )
            yield database
        except duckdb.Error as error:
            reason = str(error).splitlines()[0].rstrip(".!")
            missing = reason.startswith("Catalog Error: Table")
            raise UserError(f"{reason}{f'; {_choice(files)}' if missing else ''}.") from error


def _choice(files: dict[str, list[Part]]) -> str:
    if not files:
        return "none was made yet, and `make sql` makes the first"
    return f"choose one of {', '.join(files)}"


def _print(result: duckdb.DuckDBPyRelation, rows: int) -> None:
    # As wide as the terminal; where there is none, a line need not be cut.
    result.show(max_rows=rows, max_width=shutil.get_terminal_size((1_000, 0)).columns)
