"""`symtune show table`: prints the first rows of a table."""

from __future__ import annotations

from typing import Annotated

import typer

from symtune_pipeline.commands.common import current_store
from symtune_pipeline.commands.query import choice, database_of, print_rows, tables
from symtune_pipeline.errors import UserError
from symtune_pipeline.store.folder import Store


def table(
    name: Annotated[
        str, typer.Argument(help="An asset, or one of its tables, such as eval.algorithmic.")
    ],
    rows: Annotated[int, typer.Option(min=1, help="Maximum number of rows.")] = 10,
) -> None:
    """Print the first rows of a table.

    Example: symtune show table int_examples --rows 3
    """
    print_table(current_store(), name, rows)


def print_table(store: Store, name: str, rows: int) -> None:
    """Print the first rows of a table; raises UserError where it was not made."""
    parts = tables(store, {name.lower()})
    if name not in parts:
        raise UserError(f"There is no table '{name}' in {store.address}; {choice(parts)}.")
    with database_of(store, {name.lower()}) as database:
        print_rows(database.table(name).limit(rows), rows)
