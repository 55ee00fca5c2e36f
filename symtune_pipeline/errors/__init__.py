"""The errors that a user is meant to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from symtune_pipeline.errors.settings import UNKNOWN, missing_kind, unknown_setting

if TYPE_CHECKING:
    from pydantic import ValidationError


# How pydantic names, among the names that lead to a setting, a kind that the setting may be of, or a key.
KIND = re.compile(r"^constrained-|^[\w-]*\[.*\]$")


class UserError(Exception):
    """One sentence that names the file, the row or the setting, and the way out.

    What it quotes of a user's input can hold control characters, which would reach the terminal: these
    are written as escapes.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence))


class MissingData(UserError):
    """A public dataset cannot be had from where it should come from; others may be there."""


class JobLost(UserError):
    """The process of a job is gone through no fault of its settings; starting it again may help."""


def known(keys: tuple[str, ...], find: Callable[[str], object]) -> tuple[str, ...]:
    """The keys; raises ValueError with the sentence of `find` for one that it does not find."""
    try:
        for key in keys:
            find(key)
    except UserError as error:
        raise ValueError(str(error)) from error  # pydantic adds which setting it is
    return keys


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


@contextmanager
def memory_as(sentence: str) -> Iterator[None]:
    """Raises UserError with the sentence where memory runs out within."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(sentence) from error


def first_fault(error: ValidationError, schema: Mapping[str, Any]) -> tuple[list[str], str]:
    """The first wrong setting, as the names that lead to it, and what is wrong with it.

    An unknown setting comes before all else: where a name is misspelled, its section also lacks the
    right one. `schema` is the JSON schema that the settings were held against.
    """
    faults = error.errors()
    first = next((fault for fault in faults if fault["type"] == UNKNOWN), faults[0])
    if first["type"] == UNKNOWN:
        *sections, name = map(str, first["loc"])  # the name is the user's, whatever it looks like
        where = [*(part for part in sections if not KIND.search(part)), name]
        return where, unknown_setting(where, schema)
    if first["loc"] and KIND.search(str(first["loc"][-1])):
        about = first["loc"][:-1]  # of several kinds, the one that was read furthest
        alike = [fault for fault in faults if fault["loc"][: len(about)] == about]
        first = max(alike, key=lambda fault: len(fault["loc"]))
    where = [str(part) for part in first["loc"] if not KIND.search(str(part))]
    if first["type"] == "missing":
        return where, "a required setting is missing"
    if first["type"] == "union_tag_not_found" and isinstance(first["input"], dict):
        return where, missing_kind(first["ctx"]["discriminator"].strip("'"), first["input"])
    return where, first["msg"].removeprefix("Value error, ").rstrip(".")
