"""`symtune query`: SQL over the tables that the pipeline has made; it changes nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import duckdb
import typer
from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from symtune_pipeline.commands.common import current_store
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import TABLE
from symtune_pipeline.sql.model import tables_read
from symtune_pipeline.store.folder import Damaged, Store

# No extension is fetched or loaded, and no name means an object of this program.
_ALONE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}
Part = tuple[str, str | None, str]  # key, partition and file

# sqlglot warns of a statement that it does not know; we refuse it in a sentence.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to print at most.")] = 50,
) -> None:
    """Run SQL over the tables that the pipeline has made, all partitions of a table as one.

    It reads these tables and nothing else: no other file, no network, no name of a Python object.

    Example: symtune query "SELECT role, sum(kept) FROM int_set_statistics GROUP BY role"
    """
    print_query(current_store(), sql, rows)


def tables(store: Store, needed: Collection[str] = ()) -> dict[str, list[Part]]:
    """The parts of each table by its name in SQL; all partitions are one table.

    A table has the name of its asset. One of several tables of an asset has its own name after it,
    as in `eval.algorithmic`. A damaged manifest is raised where it is that of a table among `needed`,
    in lower case; the others can be read without it.
    """
    parts: dict[str, list[Part]] = {}
    for key, partition in store.artifacts():
        try:
            manifest = store.manifest(key, partition)
        except Damaged:
            if key.lower() in {name.partition(".")[0] for name in needed}:
                raise
            continue
        for file in manifest.rows:
            name = key if file == TABLE else f"{key}.{Path(file).stem}"
            parts.setdefault(name, []).append((key, partition, file))
    return parts


def print_query(store: Store, sql: str, rows: int) -> None:
    """Run a SELECT over the tables of the store and print its first and last `rows` / 2 rows.

    Raises UserError for anything but one SELECT, for a table that was not made, and for whatever
    DuckDB finds wrong.
    """
    with database_of(store, _tables_named(sql)) as database:
        print_rows(database.sql(sql), rows)


@contextmanager
def database_of(store: Store, names: Collection[str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """In memory, with a view for each of the store's tables among `names`, in lower case.

    There are no other views, because the tables of a store on s3 are fetched.
    """
    parts = tables(store, names)
    with TemporaryDirectory() as spill, duckdb.connect(config=_ALONE) as database:
        database.execute("SET temp_directory = ?", [spill])
        try:
            for name in parts:
                if name.lower() in names:
                    _add_view(database, store, name, parts[name])
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            yield database
        except duckdb.Error as error:
            reason = _reason(error)
            missing = reason.startswith("Catalog Error: Table")
            raise UserError(f"{reason}{f'; {choice(parts)}' if missing else ''}.") from error


def choice(parts: Mapping[str, list[Part]]) -> str:
    """The end of a sentence about a table that was not made: which others there are."""
    if not parts:
        return "none was made yet, and `make sql` makes the first"
    return f"choose one of {', '.join(parts)}"


def print_rows(result: duckdb.DuckDBPyRelation, rows: int) -> None:
    """Print the first and last `rows` / 2 rows."""
    # As wide as the terminal; where there is none, a line need not be cut.
    result.show(max_rows=rows, max_width=shutil.get_terminal_size((1_000, 0)).columns)


def _tables_named(sql: str) -> set[str]:
    """The names in lower case; raises UserError for anything but one SELECT."""
    try:
        kinds = [statement.type for statement in duckdb.extract_statements(sql)]
    except duckdb.Error as error:
        raise UserError(f"{_reason(error)}.") from error
    refusal = UserError(f"'{sql}' is not one SELECT, and tables can only be read; write one.")
    if kinds != [duckdb.StatementType.SELECT]:
        raise refusal
    try:
        statement = parse_one(sql, read="duckdb")
        named = tables_read(statement)
    except SqlglotError as error:
        raise UserError(
            f"The tables that '{sql}' names cannot be read from it; write it in another way."
        ) from error
    # To DuckDB, SHOW TABLES is a SELECT. It would list only the tables that the query names: none.
    if isinstance(statement, exp.Show | exp.Command):
        raise refusal
    return named


def _add_view(
    database: duckdb.DuckDBPyConnection, store: Store, name: str, parts: list[Part]
) -> None:
    """A view of a table's parts, which are read as one, by column name."""
    schema, _, own = name.rpartition(".")
    if schema:
        database.execute(f"CREATE SCHEMA IF NOT EXISTS {exp.to_identifier(schema, quoted=True)}")
    view = exp.table_(own, schema or None, quoted=True).sql("duckdb")
    # To DuckDB a path is a pattern, and `=` in it a column.
    files = [str(store.folder(key, partition) / file) for key, partition, file in parts]
    # It may read what the pattern names, and the pattern itself is held against the list too.
    allowed = [*files, *map(escape, files)]
    database.execute("SET allowed_paths = current_setting('allowed_paths') || ?", [allowed])
    listed = exp.array(*(exp.Literal.string(escape(file)) for file in files)).sql("duckdb")
    options = "union_by_name = true, hive_partitioning = false"
    database.execute(f"CREATE VIEW {view} AS FROM read_parquet({listed}, {options})")


def _reason(error: duckdb.Error) -> str:
    return str(error).splitlines()[0].rstrip(".!")
