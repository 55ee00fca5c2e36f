"""A folder that an export fills: the whole of it or nothing, and never in place of other files."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from uuid import uuid4

from symtune_pipeline.errors import UserError

README = "README.md"
TAG = "symtune-pipeline"  # in the README of every export, and how an earlier one is recognised


@contextmanager
def replacing(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """A folder beside, which takes the place of `folder` when the block ends well.

    An export of this kind holds README.md and nothing but what `names` (patterns such as *.yaml)
    match. Raises UserError where `folder` cannot be written or holds anything else.
    """
    folder = folder.resolve()
    beside = folder.with_name(f".{folder.name}-{uuid4().hex[:8]}")
    try:
        _check_replaceable(folder, names)
        beside.mkdir(parents=True)
        yield beside
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
    except OSError as error:
        raise UserError(
            f"Folder {folder} cannot be written ({error.strerror}); choose another."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_replaceable(folder: Path, names: Collection[str]) -> None:
    """Raises UserError where replacing the folder would delete what no export has written."""
    found = [path.name for path in folder.iterdir()] if folder.exists() else []
    readme = folder / README
    known = all(any(fnmatch(name, pattern) for pattern in names) for name in found)
    if found and not (known and readme.is_file() and TAG.encode() in readme.read_bytes()):
        raise UserError(
            f"Folder {folder} holds something else than an earlier export; name an empty or a new one."
        )
