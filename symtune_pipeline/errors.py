"""The errors that a user is meant to read."""

from __future__ import annotations

from collections.abc import Mapping


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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python's or PyTorch's says that memory ran out."""
    import torch

    # On a CPU PyTorch raises a plain RuntimeError in its allocator's name.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in str(error)
    )
