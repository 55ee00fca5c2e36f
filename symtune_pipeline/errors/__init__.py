"""The errors that a user is meant to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """One sentence that names the file, the row or the setting, and the way out."""


class MissingData(UserError):
    """A public dataset cannot be had from where it should come from; others may be there."""


class JobLost(UserError):
    """The process of a job is gone through no fault of its settings; starting it again may help."""


def all_missing(missing: Mapping[str, MissingData], among: int) -> str:
    """Which datasets of `among` cannot be had and why the first, without a way out or full stop."""
    first = str(next(iter(missing.values()))).removesuffix(".")
    return f"Of {among} datasets {len(missing)} cannot be had: {', '.join(missing)} (the first: {first})"


def brief(error: Exception) -> str:
    """Kind and first line of a library's error, for the brackets of a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no message'}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python's or PyTorch's says that memory ran out."""
    import torch

    # On a CPU PyTorch raises a plain RuntimeError in its allocator's name.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in str(error)
    )


def first_fault(error: ValidationError, schema: Mapping[str, Any]) -> tuple[list[str], str]:
    """The first wrong setting, as the names that lead to it, and what is wrong with it.

    `schema` is the JSON schema that the settings were held against: of an unknown setting it gives
    the nearest name.
    """
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] != "extra_forbidden":
        return where, first["msg"].removeprefix("Value error, ").rstrip(".")
    names = list(_section(schema, where[:-1]).get("properties", ()))
    near = get_close_matches(where[-1], names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return where, f"unknown setting ({hint})"


def _section(schema: Mapping[str, Any], where: Sequence[str]) -> Mapping[str, Any]:
    """The part of a JSON schema where names lead to: settings, a set's name, a launcher's kind."""
    found = schema
    for part in [*where, None]:
        while "$ref" in found or "anyOf" in found:
            found = found.get("anyOf", [found])[0]  # what may be left out stands before null
            found = schema["$defs"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found
        if part is not None:
            kinds = found.get("discriminator", {}).get("mapping", {})
            names = found.get("properties", {}) | {k: {"$ref": ref} for k, ref in kinds.items()}
            any_name = [*found.get("patternProperties", {}).values(), {}][0]
            found = names.get(part, any_name)
    return found
