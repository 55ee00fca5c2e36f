"""Runs SQL models and tests their claims: DuckDB in memory over Parquet files, Parquet out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import polars as pl

from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.database import sql_fault
from symtune_pipeline.sql.model import SqlModel
from symtune_pipeline.sql.schema import Claim
from symtune_pipeline.sql.statistics import FUNCTIONS

Tables = Mapping[str, Sequence[Path] | pl.DataFrame]
"""What stands behind each table's name: Parquet files (read as one, by column name) or a frame."""


@dataclass(frozen=True)
class TestResult:
    """How many rows of a table break a claim; `message` shows one of them."""

    test: Claim
    failures: int
    message: str

    @property
    def passed(self) -> bool:
        """Whether no row breaks the claim."""
        return self.failures == 0


def run_model(
    model: SqlModel, tables: Tables, variables: Mapping[str, int | float | str], out: Path
) -> int:
    """Write the table of a SQL model to `out` and return its number of rows.

    The same inputs give the same bytes. `out` appears as it is written: hand in a temporary name
    and rename it, if a reader could come by. Raises UserError for a missing table or variable and
    for whatever DuckDB finds wrong.
    """
    with _database(model, tables) as database:
        for name in model.variables:
            if name not in variables:
                raise UserError(f"{model.path}: no value is given for its variable '{name}'.")
            database.execute(f"SET VARIABLE {_quoted(name)} = ?", [variables[name]])
        query = model.sql.rstrip().removesuffix(";")
        target = str(out).replace("'", "''")
        database.execute(f"COPY (\n{query}\n) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        return int(database.fetchall()[0][0])


def run_tests(model: SqlModel, tables: Tables, own_path: Path) -> list[TestResult]:
    """Check the claims about a SQL model's table at `own_path`; `tables` are its inputs."""
    with _database(model, {**tables, model.name: [own_path]}, own=True) as database:
        return [_run_claim(database, model.name, claim) for claim in model.tests]


@contextmanager
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory, with the functions of `statistics`."""
    # One thread: sums of floating-point numbers and row groups come out in one order only.
    with (
        TemporaryDirectory() as spill,
        duckdb.connect(
            config={"threads": 1, "temp_directory": spill, "autoinstall_known_extensions": False}
        ) as database,
    ):
        for function in FUNCTIONS:
            database.create_function(function.__name__, function)  # types from its annotations
        try:
            yield database
        except (RuntimeError, duckdb.Error) as error:
            # What DuckDB makes of an interrupt, in a query and in one of our functions.
            if re.search("Query interrupted|KeyboardInterrupt|ExecutionInterrupted", str(error)):
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _database(
    model: SqlModel, tables: Tables, own: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        with engine() as database:
            for name in (*model.depends_on, *([model.name] if own else [])):
                _add_table(database, model, name, tables)
            yield database
    except duckdb.Error as error:
        raise UserError(f"{model.path}: {sql_fault(error, 'the SQL there')}.") from error


def _add_table(
    database: duckdb.DuckDBPyConnection, model: SqlModel, name: str, tables: Tables
) -> None:
    table = tables.get(name, ())
    if isinstance(table, pl.DataFrame):
        database.register(name, table)
    elif table:
        files = [escape(str(path)) for path in table]  # to DuckDB, a path is a pattern
        database.read_parquet(files, union_by_name=True, hive_partitioning=False).create_view(name)
    else:
        raise UserError(f"{model.path}: its table {name} has no files yet; make that table first.")


def _run_claim(database: duckdb.DuckDBPyConnection, table: str, claim: Claim) -> TestResult:
    query, values = _failing_rows(table, claim)
    failing = f"WITH failing AS ({query})"
    # For bandit, here and below: names are quoted, and values are parameters.
    database.execute(f"{failing} SELECT count(*) FROM failing", values)  # nosec B608
    failures = int(database.fetchall()[0][0])
    if not failures:
        return TestResult(claim, 0, f"{table}: {claim} holds.")
    database.execute(f"{failing} SELECT * FROM failing ORDER BY ALL LIMIT 1", values)  # nosec B608
    names = [column[0] for column in database.description or ()]
    row = dict(zip(names, database.fetchall()[0], strict=True))
    example = ", ".join(f"{name}={value!r}" for name, value in row.items())
    return TestResult(claim, failures, f"{table}: {claim} fails {failures} times, as in {example}.")


def _failing_rows(table: str, claim: Claim) -> tuple[str, list[Any]]:
    rows = f"SELECT * FROM {_quoted(table)}"  # nosec B608
    columns = ", ".join(map(_quoted, claim.columns))
    if claim.kind == "empty":
        return rows, []
    if claim.kind == "unique":
        return (
            f"SELECT {columns}, count(*) AS copies FROM {_quoted(table)} GROUP BY {columns} "  # nosec
            "HAVING count(*) > 1"
        ), []
    if claim.kind == "not_null":
        return f"{rows} WHERE {columns} IS NULL", []
    if claim.kind == "accepted_values":
        return f"{rows} WHERE NOT list_contains(?::VARCHAR[], {columns}::VARCHAR)", [
            list(claim.values)
        ]
    other, key = map(_quoted, claim.to)
    return f"{rows} WHERE {columns} NOT IN (SELECT {key} FROM {other} WHERE {key} IS NOT NULL)", []  # nosec


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
