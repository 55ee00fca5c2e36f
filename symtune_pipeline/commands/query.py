"""`symtune query`: runs SQL on the tables of the pipeline; it changes nothing."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import duckdb
import polars as pl
import typer
from duckdb.sqltypes import DuckDBPyType
from polars.datatypes import DataTypeClass
from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from symtune_pipeline.commands.common import current_store
from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.database import sql_fault
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
Format = Literal["table", "csv", "json", "markdown"]
ROWS = 50  # of a table on a screen
NO_TEXT = {"blob", "bit", "interval", "union", "variant", "geometry"}  # types of DuckDB

# sqlglot warns of a statement that it does not know; we refuse it in a sentence.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT, or SHOW TABLES.")],
    rows: Annotated[
        int | None,
        typer.Option(min=1, help=f"Maximum number of rows. Default: {ROWS} as a table, else all."),
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.")] = "table",
) -> None:
    """Run SQL on the tables of the pipeline.

    A table has the rows of all its partitions.
    A query can read these tables only: no other file, no network and no Python object.

    Example: symtune query "SELECT role, sum(kept) FROM int_set_statistics GROUP BY role"

    Example: symtune query --format csv "FROM mart_summary" > summary.csv
    """
    print_query(current_store(), sql, rows, format)


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


def print_query(store: Store, sql: str, rows: int | None = None, form: Format = "table") -> None:
    """Run a SELECT over the tables of the store, or list these, and print the rows.

    Raises UserError for anything but one SELECT or SHOW TABLES, for a table that was not made, and for
    whatever DuckDB finds wrong.
    """
    if sql.strip().rstrip("; ").lower() == "show tables":
        print_frame(_every_table(store), rows, form)
        return
    with database_of(store, _tables_named(sql)) as database:
        found = database.sql(sql)
        if form == "table":
            print_rows(found, rows or ROWS)
        else:
            _check_columns(found)
            print_frame(found.pl(), rows, form)


def _check_columns(found: duckdb.DuckDBPyRelation) -> None:
    """Raises UserError for a column of a type that other formats than a table have no text for."""
    for name, kind in zip(found.columns, found.types, strict=True):
        if unknown := NO_TEXT.intersection(_types_within(kind)):
            raise UserError(
                f"Column '{name}' has the type {min(unknown).upper()}, which only a table shows; leave out"
                " --format, or cast the column to VARCHAR."
            )


def _types_within(kind: DuckDBPyType) -> Iterator[str]:
    """The name of a type, and those of the types that it is made of."""
    yield kind.id
    if kind.id in ("list", "array", "struct", "map"):
        for _, inner in kind.children:
            if isinstance(inner, DuckDBPyType):  # an array also has its length
                yield from _types_within(inner)


def _every_table(store: Store) -> pl.DataFrame:
    """The name of each table, how many partitions it has, and its rows in all."""
    listed = [
        (name, len(parts), sum(store.manifest(key, part).rows[file] for key, part, file in parts))
        for name, parts in tables(store).items()
    ]
    schema = {"table": pl.String, "partitions": pl.Int64, "rows": pl.Int64}
    return pl.DataFrame(listed, schema=schema, orient="row")


def print_frame(frame: pl.DataFrame, rows: int | None, form: Format) -> None:
    """Print the first rows of a frame; None: all. In CSV and Markdown a list is JSON."""
    frame = frame if rows is None else frame.head(rows)
    if form == "table":
        print_rows(duckdb.from_arrow(frame.to_arrow()), rows or len(frame))
        return
    if form == "json":
        kinds = pl.Schema({name: _numeric(kind) for name, kind in frame.schema.items()})
        typer.echo(frame.cast(kinds).write_json())
        return
    flat = frame.with_columns(_as_json(column) for column in frame if column.dtype.is_nested())
    if form == "csv":
        typer.echo(flat.write_csv(), nl=False)
        return
    cells = [
        [str(value).replace("|", r"\|").replace("\n", " ") for value in row]
        for row in [flat.columns, ["---"] * flat.width, *flat.rows()]
    ]
    typer.echo("\n".join(f"| {' | '.join(row)} |" for row in cells))


def _numeric(kind: pl.DataType | DataTypeClass) -> pl.DataType | DataTypeClass:
    """The type with numbers for decimals, which polars writes as strings; a sum in DuckDB is a decimal."""
    match kind:
        case pl.Decimal():
            return pl.Float64() if kind.scale else pl.Int128()
        case pl.List():
            return pl.List(_numeric(kind.inner))
        case pl.Array():
            return pl.Array(_numeric(kind.inner), kind.size)
        case pl.Map():
            return pl.Map(_numeric(kind.key), _numeric(kind.value))
        case pl.Struct():
            return pl.Struct({field.name: _numeric(field.dtype) for field in kind.fields})
    return kind


def _as_json(column: pl.Series) -> pl.Series:
    column = column.cast(_numeric(column.dtype))
    texts = [json.dumps(value, default=str) for value in column.to_list()]
    return pl.Series(column.name, texts, dtype=pl.String)


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
            fault = sql_fault(error, "the query")
            if fault.startswith("Catalog Error: Table"):  # DuckDB takes one of its own to be meant
                fault = f"{fault.partition('; ')[0]}; {choice(parts)}"
            raise UserError(f"{fault}.") from error


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
        sql.encode()
        kinds = [statement.type for statement in duckdb.extract_statements(sql)]
    except UnicodeEncodeError as error:
        raise UserError("The query holds what is not UTF-8; write it again.") from error
    except duckdb.Error as error:
        raise UserError(f"{sql_fault(error, 'the query')}.") from error
    refusal = UserError(f"'{sql}' is not one SELECT, and tables can only be read; write one.")
    if kinds != [duckdb.StatementType.SELECT]:
        raise refusal
    try:
        statement = parse_one(sql, read="duckdb")
        named = tables_read(statement)
    except (SqlglotError, RecursionError) as error:
        raise UserError(
            f"The tables that '{sql}' names cannot be read from it; write it in another way."
        ) from error
    # To DuckDB SHOW is a SELECT, too.
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
