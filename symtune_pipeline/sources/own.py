"""The user's own files: CSV, TSV, JSONL and Parquet as one kind of frame.

Rows of text files come with the line where they stand, for messages.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.own import OWN_SUFFIXES
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import read_bounded

MOST_BYTES = 1 << 36  # of a file, which is read as a whole
SEPARATORS = {".csv": ",", ".tsv": "\t"}
NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}

Line = tuple[int, dict[str, Any]]


def read_own(dataset: Dataset, path: Path) -> tuple[pl.DataFrame, list[int] | None]:
    """The set's columns of a file, and the line of each row (from 1; None for Parquet).

    Raises UserError for a file that is missing, damaged or not UTF-8, for a column or key that comes
    twice, and for a line that lacks a column or holds another kind of value.
    """
    content = _content(path, f"correct data.own.{dataset.key}.files")
    if path.suffix == ".parquet":
        return _parquet(path, content), None
    columns = _columns(dataset)
    lines, rows = [], []
    for number, row in _lines(path, content, columns):
        lines.append(number)
        rows.append(_cells(dataset, columns, row, f"{path}, line {number}"))
    return pl.DataFrame(rows, dict.fromkeys(columns, pl.String), orient="row"), lines


def read_cells(path: Path) -> dict[str, tuple[list[str | None], bool]]:
    """All columns of a file: their cells as text, and whether all of these are texts in the file.

    Columns with a list, an object or what has no text are left out. Raises UserError as `read_own` does.
    """
    if path.suffix not in OWN_SUFFIXES:
        raise UserError(f"{path} must end with one of {', '.join(OWN_SUFFIXES)}.")
    content = _content(path, "choose a CSV, TSV, JSONL or Parquet file")
    if path.suffix == ".parquet":
        frame = _parquet(path, content)
        texts = (pl.String, pl.Categorical, pl.Enum)
        cells = {column.name: (_text_cells(column), column.dtype in texts) for column in frame}
        return {name: (found, text) for name, (found, text) in cells.items() if found is not None}
    rows = [row for _, row in _lines(path, content, [])]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {
        name: (
            [json.dumps(cell) if isinstance(cell, bool | int | float) else cell for cell in cells],
            all(isinstance(cell, str | None) for cell in cells),
        )
        for name, cells in columns.items()
        if all(isinstance(cell, str | bool | int | float | None) for cell in cells)
    }


def as_own(dataset: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    """A frame from wherever, with labels and ids as text, as the labels of a set of one's own are."""
    # Columns are taken as they are called: to an expression `*` and `^.*$` would be patterns.
    for name in dataset.columns:
        # Texts of few kinds are often kept as numbers and a dictionary.
        if name in frame.columns and frame.schema[name] in (pl.Categorical, pl.Enum):
            frame = frame.with_columns(frame.get_column(name).cast(pl.String))
    for key in {dataset.label_column, dataset.id_column or dataset.label_column}:
        with suppress(pl.exceptions.PolarsError):  # the normal form says what is wrong
            frame = frame.with_columns(_as_text(frame.get_column(key)))
    if frame.schema.get(dataset.label_column) != pl.String:
        return frame
    labels = frame.get_column(dataset.label_column)
    small = labels.str.to_lowercase()  # files write true and false in any case
    return frame.with_columns(
        labels.zip_with(~small.is_in(["true", "false"]).fill_null(False), small)
    )


def _text_cells(values: pl.Series) -> list[str | None] | None:
    """The cells as text; None for a type that has none, such as a list, a duration or other bytes."""
    try:
        return None if values.dtype.is_nested() else _as_text(values).to_list()
    except pl.exceptions.PolarsError:
        return None


def _as_text(values: pl.Series) -> pl.Series:
    """Numbers, truth values and dates as text; lists and structures stay what they are."""
    return values if values.dtype.is_nested() else values.cast(pl.String)


def _columns(dataset: Dataset) -> list[str]:
    ids = [dataset.id_column] if dataset.id_column else []
    return list(dict.fromkeys([*dataset.columns, dataset.label_column, *ids]))


def _content(path: Path, way_out: str) -> bytes:
    try:
        return read_bounded(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {way_out}.") from error


def _lines(path: Path, content: bytes, columns: Sequence[str]) -> Iterator[Line]:
    """The rows of a text file, each with its line."""
    text = _decoded(path, content)
    if path.suffix == ".jsonl":
        return _jsonl(path, text)
    return _csv(path, text, columns, SEPARATORS[path.suffix])


def _parquet(path: Path, content: bytes) -> pl.DataFrame:
    try:
        return pl.read_parquet(content)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is no readable Parquet file ({reason}); write it again."
        ) from error


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8."
        ) from error


class _KeyTwice(Exception):
    """A key of a JSON object that comes twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; `json` alone keeps the last of two equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _KeyTwice(next(key for key in found if keys.count(key) > 1))
    return found


def _jsonl(path: Path, text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except _KeyTwice as error:
            key = _printable(error.args)
            raise UserError(f"{where}: the key '{key}' comes twice; keep one.") from error
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where} is not JSON ({error.msg}, column {error.colno}); correct the line."
            ) from error
        except (ValueError, RecursionError) as error:
            trouble = (
                "brackets lie too deep within each other"
                if isinstance(error, RecursionError)
                else "a number has thousands of digits"
            )
            raise UserError(f"{where} cannot be read: {trouble}; correct the line.") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is no JSON object; write one on each line.")
        yield number, row


def _csv(path: Path, text: str, columns: Sequence[str], separator: str) -> Iterator[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    good = 0  # the last line of the last row
    try:
        for row in reader:
            good = reader.line_num
            where = f"{path}, line {good}"
            if not row:
                continue
            if not header:
                header = row
                _check_header(header, columns, separator, where)
            elif len(row) != len(header):
                raise UserError(_uneven(row, header, separator, where))
            else:
                yield good, dict(zip(header, row, strict=True))
    except csv.Error as error:
        # Of the row after the last good one, which may run on for lines.
        raise UserError(  # the separator, which it names, may be a tab
            f"{path}, line {good + 1} is not CSV ("
            + str(error).replace("\t", "\\t")
            + "); correct the line."
        ) from error


def _check_header(header: list[str], columns: Sequence[str], separator: str, where: str) -> None:
    for column in columns:
        if header.count(column) > 1:
            raise UserError(f"{where}: the column '{column}' comes twice; rename one of them.")
    other = next((name for sign, name in NAMES.items() if sign in header[0]), None)
    if len(header) == 1 and other and header[0] not in columns:
        raise UserError(
            f"{where}: the columns are separated by {other} where {NAMES[separator]} are needed; save the"
            " file as .csv with commas or as .tsv with tabs."
        )


def _uneven(row: list[str], header: list[str], separator: str, where: str) -> str:
    if len(row) > len(header):
        return (
            f"{where} has more cells than the header; quote the texts that hold {NAMES[separator]}."
        )
    lacking = ", ".join(f"'{name}'" for name in header[len(row) :])
    return f"{where} has fewer cells than the header: no {lacking}; complete the line."


def _cells(
    dataset: Dataset, columns: Sequence[str], row: dict[str, Any], where: str
) -> list[str | None]:
    cells: list[str | None] = []
    for column in columns:
        if column not in row:
            raise UserError(
                f"{where} has no '{column}' (it has {_printable(row)}); correct the line or the columns"
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


def _printable(names: Sequence[str] | dict[str, Any]) -> str:
    """Names for a sentence; what is no character is spelt out."""
    return ", ".join(names).encode(errors="backslashreplace").decode()


def _is_unicode(cell: str | None) -> bool:
    """JSON can escape half a surrogate pair, which is no character."""
    try:
        (cell or "").encode()
    except UnicodeEncodeError:
        return False
    return True
