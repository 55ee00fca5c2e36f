"""Reads SQL models from a folder; knows nothing about Dagster or where tables live.

A SQL model is a file with one SELECT. The tables that it names are its dependencies: other SQL
models, or sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from sqlglot import exp, parse
from sqlglot.errors import ParseError
from sqlglot.lineage import lineage
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.scope import traverse_scope

from symtune_pipeline.contract import Table
from symtune_pipeline.errors import UserError
from symtune_pipeline.sql.schema import Claim, TableEntry, read_schema


@dataclass(frozen=True)
class SqlModel:
    """One SQL file and what `schema.yml` says of the table that it makes."""

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


def load_models(folder: Path, sources: Mapping[str, Table]) -> dict[str, SqlModel]:
    """All SQL models under `folder` by name, each after those that it reads.

    `sources` are the tables that SQL reads and does not make, by the name that it uses. Raises
    UserError, naming the file, for SQL that is not one SELECT, a table that is neither a SQL model
    nor a source, a cycle, and a `schema.yml` that does not fit the files.
    """
    schema = read_schema(folder / "schema.yml")
    paths = {path.stem: path for path in sorted(folder.glob("*/*.sql"))}
    for name in sorted(schema.keys() ^ paths.keys()):
        raise UserError(
            f"{folder / 'schema.yml'}: {name} has an entry but no SQL file; add one or remove it."
            if name in schema
            else f"{paths[name]}: no entry in schema.yml; describe the SQL model there."
        )
    tables: dict[str, Table | TableEntry] = {**sources, **schema}
    declared = {name: tuple(table.columns) for name, table in tables.items()}
    models = {name: _model(path, schema[name], declared) for name, path in paths.items()}
    try:
        order = TopologicalSorter({m.name: m.depends_on for m in models.values()}).static_order()
        return {name: models[name] for name in order if name in models}
    except CycleError as error:
        circle = error.args[1]
        raise UserError(
            f"{paths[circle[0]]}: the SQL models read each other in a circle "
            f"({' → '.join(reversed(circle))}); break it."
        ) from None


def column_lineage(model: SqlModel) -> dict[str, list[tuple[str, str]]]:
    """For each column of the SQL model, the `(table, column)` pairs of its inputs that it shows.

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


def tables_read(statement: exp.Expr) -> set[str]:
    """The tables that a parsed statement reads, as `table` or `schema.table` in lower case.

    A common table expression is none, but in its own query it may stand for a table of its name.
    """
    lower = normalize_identifiers(statement.copy(), dialect="duckdb")
    scoped = {
        _address(source)
        for scope in traverse_scope(lower)
        for source in scope.sources.values()
        if isinstance(source, exp.Table)
    }
    # DESCRIBE and SUMMARIZE have no scopes.
    named = {_address(table) for table in lower.find_all(exp.Table)}
    expressions = {expression.alias for expression in lower.find_all(exp.CTE)}
    return (scoped | (named - expressions)) - {""}  # a table function has no name


def _address(table: exp.Table) -> str:
    return f"{table.db}.{table.name}" if table.db not in ("", "main") else table.name


def _model(path: Path, table: TableEntry, declared: Mapping[str, tuple[str, ...]]) -> SqlModel:
    sql = path.read_text(encoding="utf-8")
    query = _parse(path, sql)
    sources = tables_read(query)
    for name in sorted(sources - declared.keys()):
        raise UserError(
            f"{path}: table {name} is neither a SQL model nor a source; "
            "correct the name, or declare it in SOURCES of symtune_pipeline/tables.py."
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
                "which is no column of a table that it reads."
            )
    return SqlModel(
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
