"""`symtune query`: SQL over the tables that the pipeline has made; it changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import duckdb
import typer

from symtune_pipeline.commands.common import current_store
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import TABLE
from symtune_pipeline.store.folder import Store

Part = tuple[str, str | None, str]  # key, partition and file


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to print at most.")] = 50,
) -> None:
    """Run SQL over the tables that the pipeline has made, all partitions of a table as one.

    Example: symtune query "SELECT role, sum(kept) FROM int_set_statistics GROUP BY role"
    """
    print_query(current_store(), sql, rows)


def tables(store: Store) -> dict[str, list[Part]]:
    """The parts of each table by its name in SQL; all partitions are one table.

    A table has the name of its asset. One of several tables of an asset has its own name after it,
    as in `eval.algorithmic`.
    """
    found: dict[str, list[Part]] = {}
    for key, partition in store.artifacts():
        for file in store.manifest(key, partition).rows:
            name = key if file == TABLE else f"{key}.{Path(file).stem}"
            found.setdefault(name, []).append((key, partition, file))
    return found


def print_query(store: Store, sql: str, rows: int) -> None:
    """Run a SELECT over the tables of the store and print its first and last `rows` / 2 rows.

    Raises UserError for anything but one SELECT, for a table that was not made, and for whatever
    DuckDB finds wrong.
    """
    with database_of(store, sql) as database:
        statements = database.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise UserError(f"'{sql}' is not one SELECT, and tables can only be read; write one.")
        print_rows(database.sql(sql), rows)


@contextmanager
def database_of(store: Store, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
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
            raise UserError(f"{reason}{f'; {choice(files)}' if missing else ''}.") from error


def choice(files: dict[str, list[Part]]) -> str:
    if not files:
        return "none was made yet, and `make sql` makes the first"
    return f"choose one of {', '.join(files)}"


def print_rows(result: duckdb.DuckDBPyRelation, rows: int) -> None:
    # As wide as the terminal; where there is none, a line need not be cut.
    result.show(max_rows=rows, max_width=shutil.get_terminal_size((1_000, 0)).columns)
