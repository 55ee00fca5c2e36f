"""What every kind of fact has: a strict model, its YAML file, and a lookup that names the known keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import parse_yaml

# A file or folder of this machine. What is kept or published has its name alone: where it lies is nobody's
# business, and two ways to write the same path are no difference.
LocalPath = Annotated[
    Path, PlainSerializer(lambda path: path.name, return_type=str, when_used="json")
]


class Fact(BaseModel):
    """An entry of the catalogue; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


F = TypeVar("F", bound=Fact)


def named(facts: Mapping[str, F], key: str, kind: str) -> F:
    """The fact called `key`; raises UserError with the known keys for any other."""
    if key not in facts:
        raise UserError(
            f"There is no {kind} '{key}' in the catalogue; choose one of {', '.join(facts)}."
        )
    return facts[key]


def read_beside(module: str) -> Any:
    """The YAML file that lies beside a module of the catalogue and has its name."""
    path = Path(module).with_suffix(".yaml")
    return parse_yaml(path.read_text(encoding="utf-8"), str(path))
