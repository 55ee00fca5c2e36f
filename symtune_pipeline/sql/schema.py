"""What `schema.yml` says: every table that SQL makes in words, and what must hold of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import parse_yaml
from symtune_pipeline.tables import VOCABULARIES

UNKNOWN: Final = "unknown_vocabulary"


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

    @field_validator("accepted_values", mode="before")
    @classmethod
    def _of_a_vocabulary(cls, values: object) -> object:
        """The words of the vocabulary that a string names."""
        if not isinstance(values, str):
            return values
        if values not in VOCABULARIES:
            raise PydanticCustomError(
                UNKNOWN,
                "no vocabulary is called '{name}'; choose one of {known}",
                {"name": values, "known": ", ".join(VOCABULARIES)},
            )
        return list(VOCABULARIES[values])


class _Column(_Strict):
    description: str
    tests: list[Literal["unique", "not_null"] | _Accepted | _Relationship] = []


class _Unique(_Strict):
    unique: list[str]


class TableEntry(_Strict):
    """What `schema.yml` says of one table."""

    description: str
    columns: dict[str, _Column]
    tests: list[Literal["empty"] | _Unique] = []

    def claims(self) -> Iterator[Claim]:
        """What must hold: of the table as a whole, then of each column."""
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
    models: dict[str, TableEntry]


def read_schema(path: Path) -> dict[str, TableEntry]:
    """The entries by the name of the SQL model; raises UserError for a file that has none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; describe the SQL models there.")
    try:
        return _Schema.model_validate(
            parse_yaml(path.read_text(encoding="utf-8"), str(path))
        ).models
    except ValidationError as error:
        # A test has several forms: what is wrong with the vocabulary says more than that the test has
        # none of the other forms.
        first = min(error.errors(), key=lambda one: one["type"] != UNKNOWN)
        entry = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {entry}: {first['msg']}.") from None
