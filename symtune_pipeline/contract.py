"""What a table is: its columns with their types and rules, and its file in an asset's folder.

Which tables there are is in `tables`. This module knows nothing about any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import TABLE, scan_table

if TYPE_CHECKING:
    from pandera.polars import DataFrameSchema


@dataclass(frozen=True)
class Column:
    """A column: its type, what it holds in words, and what its values must satisfy."""

    dtype: pl.DataType
    description: str
    allowed: tuple[str, ...] = ()  # none: anything
    least: float | None = None
    most: float | None = None
    unique: bool = False
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A table of an asset; `name` is `<asset>`, or `<asset>.<table>` where an asset has several."""

    name: str
    description: str
    columns: Mapping[str, Column]

    @property
    def asset(self) -> str:
        """The asset that holds it."""
        return self.name.partition(".")[0]

    @property
    def file(self) -> str:
        """The Parquet file in the asset's folder."""
        _, _, own = self.name.partition(".")
        return f"{own}.parquet" if own else TABLE

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """The types by column, as polars takes a schema."""
        return {name: column.dtype for name, column in self.columns.items()}

    @property
    def descriptions(self) -> dict[str, str]:
        """What each column holds, in words."""
        return {name: column.description for name, column in self.columns.items()}

    def frame(self, rows: Any = None, orient: Literal["row", "col"] | None = None) -> pl.DataFrame:
        """Rows, dictionaries or columns as a frame with the table's types; none: an empty one."""
        return pl.DataFrame(rows, schema=self.dtypes, orient=orient)

    def checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame itself where it fits; raises UserError naming the first breach otherwise."""
        from pandera.errors import SchemaError

        try:
            self._schema.validate(frame)
        except SchemaError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"A table breaks the contract of '{self.name}': {reason}.") from error
        return frame

    def write(self, frame: pl.DataFrame, folder: Path) -> None:
        """Write the checked frame into an asset's folder."""
        self.checked(frame).write_parquet(folder / self.file)

    def misfit(self, folder: Path) -> str | None:
        """How the columns of the written file differ from the contract; None where they do not.

        It reads the file's footer only: the values were checked before they were written.
        """
        from pandera.errors import SchemaError

        try:
            self._schema.validate(scan_table(folder / self.file))
        except SchemaError as error:
            return str(error).splitlines()[0]
        return None

    @cached_property
    def _schema(self) -> DataFrameSchema:
        from pandera.polars import DataFrameSchema

        columns = {name: _rules(column) for name, column in self.columns.items()}
        return DataFrameSchema(columns, strict=True, name=self.name)


def text(description: str, *allowed: str, unique: bool = False, nullable: bool = False) -> Column:
    """A column of texts; `allowed`, if any, are the only ones."""
    return Column(pl.String(), description, allowed, unique=unique, nullable=nullable)


def number(
    dtype: type[pl.DataType], description: str, *, unique: bool = False, nullable: bool = False
) -> Column:
    """A column of numbers that are not negative."""
    return Column(dtype(), description, least=0, unique=unique, nullable=nullable)


def list_of(
    dtype: type[pl.DataType] | pl.DataType, description: str, *, nullable: bool = False
) -> Column:
    """A column of lists."""
    return Column(pl.List(dtype), description, nullable=nullable)


def flag(description: str, *, nullable: bool = False) -> Column:
    """A column of what is true or false."""
    return Column(pl.Boolean(), description, nullable=nullable)


def measure(description: str) -> Column:
    """A column of what was measured, null where it was not."""
    return Column(pl.Float64(), description, nullable=True)


def _rules(column: Column) -> Any:
    from pandera.polars import Check
    from pandera.polars import Column as Rules

    checks = [Check.isin(column.allowed)] if column.allowed else []
    checks += [Check.ge(column.least)] if column.least is not None else []
    checks += [Check.le(column.most)] if column.most is not None else []
    # A number that its type cannot hold becomes null where polars puts it into a list.
    checks += [Check(_without_nulls)] if isinstance(column.dtype, pl.List) else []
    return Rules(column.dtype, checks, unique=column.unique, nullable=column.nullable)


def _without_nulls(data: Any) -> pl.LazyFrame:
    whole: pl.LazyFrame = data.lazyframe.select(~pl.col(data.key).list.contains(None))
    return whole
