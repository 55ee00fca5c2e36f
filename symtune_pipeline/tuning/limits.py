"""What a machine runs out of, as sentences."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from symtune_pipeline.errors import UserError, memory_as

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_space(folder: Path, needed: int) -> Iterator[None]:
    """Raises UserError where writing the `needed` bytes into `folder` fails for want of space."""
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        if not _full(error):
            raise
        raise UserError(
            f"The disk or quota of {folder} is full: {needed / 2**20:,.1f} MiB are needed there; free"
            " some space and start again, which goes on from the last checkpoint."
        ) from error


def _full(error: BaseException) -> bool:
    if isinstance(error, CheckpointException):  # what happened on each rank that failed
        return any(_full(cause) for cause, _ in error.failures.values())
    if isinstance(error, SafetensorError):  # Rust's errors come as text
        return any(f"(os error {number})" in str(error) for number in FULL)
    return isinstance(error, OSError) and error.errno in FULL


def memory() -> AbstractContextManager[None]:
    """Raises UserError where memory runs out within."""
    return memory_as(
        "Tuning ran out of memory; lower tuning.block_tokens, use tuning.lora or"
        " tuning.activation_checkpointing, or start more processes, each with a GPU of its own."
    )
