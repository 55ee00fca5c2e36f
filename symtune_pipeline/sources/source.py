"""Where public sets come from: what the hub and a mirror of it have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import polars as pl

from symtune_pipeline.catalog.datasets import HubLocation

FileVersion = list[int]
"""A file's size in bytes and modification time in ns."""


class Source(Protocol):
    """Public sets by their location on the hub; a split is one of ours, 'train' or 'test'."""

    def where(self, hub: HubLocation, split: str) -> str:
        """What a split is read from, for messages."""

    def files(self, hub: HubLocation) -> list[FileVersion | None]:
        """The version of the file of each split, None where it is not there.

        Empty where a set is at a pinned revision, which never changes.
        """

    def read(self, hub: HubLocation, split: str) -> pl.DataFrame:
        """A split as it was published; raises MissingData where it cannot be had."""


def file_version(path: Path) -> FileVersion | None:
    """The version of a local file; None where there is none."""
    if not path.is_file():
        return None
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
