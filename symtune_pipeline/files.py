"""Files: hashes, atomic text, and tables that are written and read a part at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
from pyarrow import parquet

TABLE = "data.parquet"  # the file of an artifact that holds one table


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(value: object) -> str:
    """SHA-256 of a value's JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_frames(path: Path, frames: Iterable[pl.DataFrame]) -> None:
    """Write frames of one schema as the row groups of one Parquet file, holding one at a time."""
    frames = iter(frames)
    oldest = pl.CompatLevel.oldest()  # kinds of columns that every reader of Parquet knows
    first = next(frames).to_arrow(compat_level=oldest)
    with parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for frame in frames:
            writer.write_table(frame.to_arrow(compat_level=oldest))


def read_frames(path: Path) -> Iterator[pl.DataFrame]:
    """The row groups of a Parquet file, one at a time."""
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield pl.DataFrame(pl.from_arrow(file.read_row_group(group)))


def write_text(path: Path, text: str) -> None:
    """Write a file beside, then rename, so that a reader sees the old one or the new one."""
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
