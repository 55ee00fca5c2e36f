"""A disk that is full and a folder that cannot be written, whichever library finds it out."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

# A disk that is full, and a place that cannot be written.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNSURE = (errno.EACCES, errno.EPERM, errno.ENOTDIR)
REFUSED = (*UNSURE, errno.EROFS)
DATABASE = re.compile(
    "No space left on device|database or disk is full|readonly database|unable to open database file"
    "|disk I/O error"
)


def disk_sentence(error: BaseException) -> str | None:
    """One sentence about what the disk does not take, and the way out; None for any other error."""
    for cause in causes(error):
        rust = re.search(r"\(os error (\d+)\)", str(cause))  # libraries in Rust pass it on as text
        number = int(rust[1]) if rust else getattr(cause, "errno", None)
        known = DATABASE.search(str(cause))
        if number in (*FULL, *REFUSED) or known:
            trouble = os.strerror(number) if isinstance(number, int) else str(known and known[0])
            where = getattr(cause, "filename", None) or "A file"
            either = number in UNSURE  # the error does not tell which was tried
            return (
                f"{where} cannot be {'read or ' if either else ''}written ({trouble}); make room or get leave"
                " to do so, or set SYMTUNE_HOME (where that is on s3, SYMTUNE_CACHE), DAGSTER_HOME or TMPDIR"
                " to a folder that can take it."
            )
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from or while, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
