"""The user's own files: CSV, JSONL and Parquet as one kind of frame.

The label and id columns come out as text, whatever the file held. Rows of CSV and JSONL come with
the line where they stand, for messages.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.errors import UserError

Line = tuple[int, dict[str, Any]]


def read_own(dataset: Dataset, path: Path) -> tuple[pl.DataFrame, list[int] | None]:
    """The set's columns of a file, and the line of each row (from 1; None for Parquet).

    Raises UserError for a file that is missing, damaged or not UTF-8, and for a line that lacks a
    column or holds another kind of value.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); correct data.own.{dataset.key}.files."
        ) from error
    if path.suffix == ".parquet":
        return _parquet(dataset, path, content), None
    text = _decoded(path, content)
    lines, rows = [], []
    for number, row in (_csv if path.suffix == ".csv" else _jsonl)(path, text):
        lines.append(number)
        rows.append(_cells(dataset, row, f"{path}, line {number}"))
    return pl.DataFrame(rows, dict.fromkeys(_columns(dataset), pl.String), orient="row"), lines


def _columns(dataset: Dataset) -> list[str]:
    ids = [dataset.id_column] if dataset.id_column else []
    return [*dataset.columns, dataset.label_column, *ids]


def _parquet(dataset: Dataset, path: Path, content: bytes) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(content)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is no readable Parquet file ({reason}); write it again."
        ) from error
    texts = [
        pl.col(column).cast(pl.String)
        for column in (dataset.label_column, dataset.id_column)
        if column in frame.columns and not frame.schema[column].is_nested()
    ]
    return frame.with_columns(texts)


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8."
        ) from error


def _jsonl(path: Path, text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number} is not JSON ({error.msg}, column {error.colno}); correct the line."
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is no JSON object; write one on each line.")
        yield number, row


def _csv(path: Path, text: str) -> Iterator[Line]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise UserError(
                    f"{path}, line {reader.line_num} has more cells than the header; quote the texts"
                    " that hold commas."
                )
            # A row that ends early lacks its last columns.
            yield reader.line_num, {name: cell for name, cell in row.items() if cell is not None}
    except csv.Error as error:
        # Of the row after the last good one, which may run on for lines.
        raise UserError(
            f"{path}, line {reader.line_num + 1} is not CSV ({error}); correct the line."
        ) from error


def _cells(dataset: Dataset, row: dict[str, Any], where: str) -> list[str | None]:
    cells: list[str | None] = []
    for column in _columns(dataset):
        if column not in row:
            raise UserError(
                f"{where} has no '{column}' (it has {', '.join(row)}); correct the line or the columns"
                f" of data.own.{dataset.key}."
            )
        cell = row[column]
        if column not in dataset.columns and isinstance(cell, bool | int | float):
            cell = json.dumps(cell)
        if not isinstance(cell, str | None) or not _is_unicode(cell):
            raise UserError(
                f"{where}, '{column}' holds {json.dumps(cell)[:60]} where text is needed; correct the"
                " line."
            )
        cells.append(cell)
    return cells


def _is_unicode(cell: str | None) -> bool:
    """JSON can escape half a surrogate pair, which is no character."""
    try:
        (cell or "").encode()
    except UnicodeEncodeError:
        return False
    return True
