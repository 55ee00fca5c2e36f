"""What `schema.yml` says: every table in words, and what must hold of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from symtune_pipeline.errors import UserError


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


class TableEntry(_Strict):
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


class Schema(_Strict):
    sources: dict[str, TableEntry]
    models: dict[str, TableEntry]

    @property
    def tables(self) -> dict[str, TableEntry]:
        return self.sources | self.models


def read_schema(path: Path) -> Schema:
    if not path.is_file():
        raise UserError(f"{path}: no such file; it declares the sources and describes the models.")
    try:
        return Schema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {place}: {first['msg']}.") from None
