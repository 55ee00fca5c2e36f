"""Reads SQL models from a folder and runs them; knows nothing about Dagster or where tables live.

A model is a file with one SELECT. The tables it names are its dependencies: other models, or the
sources that `schema.yml` declares. DuckDB runs it in memory over Parquet files and writes Parquet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlglot import exp, parse
from sqlglot.errors import ParseError
from sqlglot.lineage import lineage
from sqlglot.optimizer.scope import traverse_scope

from symtune_pipeline.errors import UserError
from symtune_pipeline.statistics import FUNCTIONS

Tables = Mapping[str, Sequence[Path] | pl.DataFrame]
"""What stands behind each table's name: Parquet files (read as one, by column name) or a frame."""


@dataclass(frozen=True)
class Claim:
    """Something that holds for every row of a table, as declared in `schema.yml`.

    `columns` is what must be unique or not null, or the one column whose values are limited to
    `values` or to those of the `(table, column)` in `to`. `empty` claims that there are no rows.
    """

    kind: Literal["unique", "not_null", "accepted_values", "relationships", "empty"]
    columns: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    to: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        """Fit for a check's name: `unique_dataset_input`."""
        return "_".join([self.kind, *self.columns])

    @property
    def sentence(self) -> str:
        """The claim in words."""
        columns = ", ".join(self.columns)
        return {
            "unique": f"No two rows have the same {columns}.",
            "not_null": f"{columns} is never null.",
            "accepted_values": f"{columns} is one of {', '.join(self.values)}.",
            "relationships": f"Every {columns} is a {self.to[1]} of {self.to[0]}.",
            "empty": "There is no row.",
        }[self.kind]


@dataclass(frozen=True)
class Model:
    """One SQL file and what `schema.yml` says about the table that it makes."""

    name: str
    layer: str
    sql: str
    path: Path
    inputs: Mapping[str, tuple[str, ...]]
    """The tables it reads, each with its declared columns."""
    variables: tuple[str, ...]
    """The parameters that it asks for with `getvariable('…')`."""
    description: str
    columns: Mapping[str, str]
    tests: tuple[Claim, ...]

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The names of the tables it reads, sorted."""
        return tuple(self.inputs)


@dataclass(frozen=True)
class TestResult:
    """How many rows of a model break a claim; `message` shows one of them."""

    test: Claim
    failures: int
    message: str

    @property
    def passed(self) -> bool:
        """Whether no row breaks the claim."""
        return self.failures == 0


def load_models(folder: Path) -> dict[str, Model]:
    """All models under `folder`, each after the models it reads.

    Raises UserError, naming the file, for SQL that is not one SELECT, a table that nobody declares,
    a cycle, and a `schema.yml` that does not fit the files.
    """
    schema = _read_schema(folder / "schema.yml")
    paths = {path.stem: path for path in sorted(folder.glob("*/*.sql"))}
    for name in sorted(schema.models.keys() ^ paths.keys()):
        raise UserError(
            f"{folder / 'schema.yml'}: {name} has an entry but no SQL file; add one or remove it."
            if name in schema.models
            else f"{paths[name]}: no entry in schema.yml; describe the model there."
        )
    declared = {name: tuple(table.columns) for name, table in schema.tables.items()}
    models = {name: _model(path, schema.models[name], declared) for name, path in paths.items()}
    try:
        order = TopologicalSorter({m.name: m.depends_on for m in models.values()}).static_order()
        return {name: models[name] for name in order if name in models}
    except CycleError as error:
        circle = error.args[1]
        raise UserError(
            f"{paths[circle[0]]}: the models read each other in a circle "
            f"({' → '.join(reversed(circle))}); break it."
        ) from None


def run_model(
    model: Model, tables: Tables, variables: Mapping[str, int | float | str], out: Path
) -> int:
    """Write the model's table to `out` and return its number of rows.

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


def run_tests(model: Model, tables: Tables, own_path: Path) -> list[TestResult]:
    """Check the claims about the model's table at `own_path`; `tables` are the model's inputs."""
    with _database(model, {**tables, model.name: [own_path]}, own=True) as database:
        return [_run_claim(database, model.name, claim) for claim in model.tests]


def column_lineage(model: Model) -> dict[str, list[tuple[str, str]]]:
    """For each column of the model, the `(table, column)` pairs of its inputs that it shows.

    What only filters, joins, groups or orders is not lineage.
    """
    schema = {table: dict.fromkeys(columns, "VARCHAR") for table, columns in model.inputs.items()}
    nodes = lineage(None, model.sql, schema, dialect="duckdb", trim_selects=False)
    return {
        column: sorted(
            {
                (node.source.name, exp.to_column(node.name).name)
                for node in nodes[column].walk()
                if isinstance(node.source, exp.Table)
            }
        )
        for column in model.columns
    }


# --- schema.yml ---------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Relationship(_Strict):
    relationships: str


class _Accepted(_Strict):
    accepted_values: list[str]


class _Column(_Strict):
    description: str
    tests: list[Literal["unique", "not_null"] | _Accepted | _Relationship] = []


class _Unique(_Strict):
    unique: list[str]


class _Table(_Strict):
    description: str
    columns: dict[str, _Column]
    tests: list[Literal["empty"] | _Unique] = []

    def claims(self) -> Iterator[Claim]:
        for test in self.tests:
            if isinstance(test, _Unique):
                yield Claim("unique", tuple(test.unique))
            else:
                yield Claim(test)
        for name, column in self.columns.items():
            for check in column.tests:
                if isinstance(check, _Accepted):
                    yield Claim("accepted_values", (name,), values=tuple(check.accepted_values))
                elif isinstance(check, _Relationship):
                    table, _, key = check.relationships.partition(".")
                    yield Claim("relationships", (name,), to=(table, key))
                else:
                    yield Claim(check, (name,))


class _Schema(_Strict):
    sources: dict[str, _Table]
    models: dict[str, _Table]

    @property
    def tables(self) -> dict[str, _Table]:
        return self.sources | self.models


def _read_schema(path: Path) -> _Schema:
    if not path.is_file():
        raise UserError(f"{path}: no such file; it declares the sources and describes the models.")
    try:
        return _Schema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {place}: {first['msg']}.") from None


# --- one model ----------------------------------------------------------------------------------


def _model(path: Path, table: _Table, declared: Mapping[str, tuple[str, ...]]) -> Model:
    sql = path.read_text(encoding="utf-8")
    query = _parse(path, sql)
    sources = {
        source.name
        for scope in traverse_scope(query)
        for source in scope.sources.values()
        if isinstance(source, exp.Table) and source.name
    }
    for name in sorted(sources - declared.keys()):
        raise UserError(
            f"{path}: table {name} is neither a model nor a source; "
            "correct the name or declare it under sources in schema.yml."
        )
    claims = tuple(table.claims())
    for claim in claims:
        if missing := set(claim.columns) - table.columns.keys():
            raise UserError(f"{path}: {claim} names {missing.pop()}, which is not among columns.")
        if claim.kind == "relationships" and (
            claim.to[0] not in sources or claim.to[1] not in declared[claim.to[0]]
        ):
            raise UserError(
                f"{path}: {claim} refers to {'.'.join(claim.to)}, "
                "which is no column of a table that the model reads."
            )
    return Model(
        name=path.stem,
        layer=path.parent.name,
        sql=sql,
        path=path,
        inputs={name: declared[name] for name in sorted(sources)},
        variables=_variables(query),
        description=table.description,
        columns={name: column.description for name, column in table.columns.items()},
        tests=claims,
    )


def _parse(path: Path, sql: str) -> exp.Query:
    try:
        statements = parse(sql, read="duckdb")
    except ParseError as error:
        where = error.errors[0]
        raise UserError(
            f"{path}: line {where['line']}: {where['description']}; correct the SQL."
        ) from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise UserError(f"{path}: holds {len(statements)} statements; write exactly one SELECT.")
    return statements[0]


def _variables(query: exp.Query) -> tuple[str, ...]:
    # DuckDB reads a variable that was never set as NULL, which a filter silently takes for false.
    calls = (call for call in query.find_all(exp.Anonymous) if call.name.lower() == "getvariable")
    return tuple(sorted({call.expressions[0].name for call in calls}))


# --- DuckDB -------------------------------------------------------------------------------------


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
    model: Model, tables: Tables, own: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        with engine() as database:
            for name in (*model.depends_on, *([model.name] if own else [])):
                _add_table(database, model, name, tables)
            yield database
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{model.path}: {reason}") from error


def _add_table(
    database: duckdb.DuckDBPyConnection, model: Model, name: str, tables: Tables
) -> None:
    table = tables.get(name, ())
    if isinstance(table, pl.DataFrame):
        database.register(name, table)
    elif table:
        files = [str(path) for path in table]
        database.read_parquet(files, union_by_name=True).create_view(name)
    else:
        raise UserError(f"{model.path}: its table {name} has no files yet; make that table first.")


def _run_claim(database: duckdb.DuckDBPyConnection, table: str, claim: Claim) -> TestResult:
    query, values = _failing_rows(table, claim)
    failing = f"WITH failing AS ({query})"
    database.execute(f"{failing} SELECT count(*) FROM failing", values)
    failures = int(database.fetchall()[0][0])
    if not failures:
        return TestResult(claim, 0, f"{table}: {claim} holds.")
    database.execute(f"{failing} SELECT * FROM failing ORDER BY ALL LIMIT 1", values)
    names = [column[0] for column in database.description or ()]
    row = dict(zip(names, database.fetchall()[0], strict=True))
    example = ", ".join(f"{name}={value!r}" for name, value in row.items())
    return TestResult(claim, failures, f"{table}: {claim} fails {failures} times, as in {example}.")


def _failing_rows(table: str, claim: Claim) -> tuple[str, list[Any]]:
    rows = f"SELECT * FROM {_quoted(table)}"
    columns = ", ".join(map(_quoted, claim.columns))
    if claim.kind == "empty":
        return rows, []
    if claim.kind == "unique":
        return (
            f"SELECT {columns}, count(*) AS copies FROM {_quoted(table)} GROUP BY {columns} "
            "HAVING count(*) > 1"
        ), []
    if claim.kind == "not_null":
        return f"{rows} WHERE {columns} IS NULL", []
    if claim.kind == "accepted_values":
        return f"{rows} WHERE NOT list_contains(?::VARCHAR[], {columns}::VARCHAR)", [
            list(claim.values)
        ]
    other, key = map(_quoted, claim.to)
    return f"{rows} WHERE {columns} NOT IN (SELECT {key} FROM {other} WHERE {key} IS NOT NULL)", []


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
