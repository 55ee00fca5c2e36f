"""tasksource's published prompts, with the places of their labels found in the text.

A published row has the columns task, inputs (exemplars with symbols for labels, then the query),
targets (the query's symbol) and symbols. How inputs are written is not known, but the query ends where
its label must come: with a mark such as `Output:` or `->`. So a label is a symbol that stands right
after that mark, at the end of its line if all labels do so; or else a symbol that has a line to itself.
The same white space as before the last of them joins the query's symbol to its text. This module knows
nothing about tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from symtune_pipeline.catalog.tasksource import tasksource
from symtune_pipeline.errors import UserError
from symtune_pipeline.sources.source import Source
from symtune_pipeline.tables import WRITTEN_PROMPTS

COLUMNS = {
    "task": pl.String, "inputs": pl.String, "targets": pl.String, "symbols": pl.List(pl.String),
}  # fmt: skip
SPLIT = "train"
CHUNK = 20_000  # rows at a time: bounds memory

# What stands before a label, and after it.
LINE_BEGINS, LINE_ENDS, WORD_ENDS = r"\n\s*", r"\s*(\n|$)", r"(?![\w'\u2019-])"

NO_TASK = "no task, text or target"
TARGET = "a target that is none of at least two different symbols"
NOT_FOUND = "a symbol that is no exemplar's label"


@dataclass(frozen=True)
class Found:
    """A prompt and the labels in it, the query's last."""

    text: str
    starts: list[int]  # in characters
    targets: list[int]  # indices of symbols
    symbols: list[str]


def written_prompts(source: Source, left_out: Counter[str]) -> Iterator[pl.DataFrame]:
    """All published prompts, in frames of `tables.WRITTEN_PROMPTS`; `prompt` is a row's number.

    Rows that cannot be right are left out, and counted in `left_out` by what is wrong with them.
    Raises MissingData where the set cannot be had, and UserError where its columns are others or no
    row is left.
    """
    hub = tasksource().hub
    where = source.where(hub, SPLIT)
    published = source.read(hub, SPLIT)
    _check_columns(published, where)
    kept = 0
    for start in range(0, len(published), CHUNK):
        frame = _found(published[start : start + CHUNK], start, left_out)
        kept += len(frame)
        yield frame
    if not kept:
        faults = ", ".join(f"{fault} in {rows:,}" for fault, rows in left_out.items())
        raise UserError(
            f"{where} has no prompt whose labels are found ({faults or 'it has no rows'}); compare its"
            " rows with docs/datasets.md, or set mixture.source to datasets."
        )


def _check_columns(published: pl.DataFrame, where: str) -> None:
    found = {name: published.schema.get(name) for name in COLUMNS}
    others = [name for name, dtype in COLUMNS.items() if found[name] != dtype]
    if others:
        raise UserError(
            f"{where} has no column '{others[0]}' of {COLUMNS[others[0]]}; it needs"
            f" {', '.join(COLUMNS)} as tasksource publishes them, so copy it again."
        )


def _found(published: pl.DataFrame, start: int, left_out: Counter[str]) -> pl.DataFrame:
    rows = []
    for number, (task, *of_row) in enumerate(published.select(*COLUMNS).iter_rows(), start):
        found = find_labels(*of_row) if task else NO_TASK
        if isinstance(found, str):
            left_out[found] += 1
        else:
            rows.append((number, task, found.text, found.starts, found.targets, found.symbols))
    return WRITTEN_PROMPTS.frame(rows, orient="row")


def find_labels(
    inputs: str | None, target: str | None, symbols: Sequence[str | None] | None
) -> Found | str:
    """The whole prompt with its labels, or what is wrong with the row."""
    # No text of a prompt holds a NUL: see prompts/encoding.py.
    text = (inputs or "").replace("\0", " ").rstrip()
    target = (target or "").strip()
    if not (text and target):
        return NO_TASK
    names = list(dict.fromkeys(symbol.strip() for symbol in symbols or () if symbol))
    if target not in names or len(names) < 2 or not all(names):
        return TARGET
    mark = rf"(?<!\S){re.escape(text.split()[-1])}\s*"
    for before, after in ((mark, LINE_ENDS), (mark, WORD_ENDS), (LINE_BEGINS, LINE_ENDS)):
        labels = _labels(text, before, after, names)
        if {symbol for _, symbol, _ in labels} == set(names):
            gap = labels[-1][2]
            starts = [start for start, _, _ in labels] + [len(text) + len(gap)]
            targets = [names.index(symbol) for _, symbol, _ in labels] + [names.index(target)]
            return Found(f"{text}{gap}{target}", starts, targets, names)
    return NOT_FOUND


def _labels(
    text: str, before: str, after: str, symbols: Sequence[str]
) -> list[tuple[int, str, str]]:
    """Where symbols stand as labels: the place, the symbol, and the white space before it."""
    longest_first = sorted(symbols, key=len, reverse=True)
    ends = re.compile(after)
    labels = []
    for found in re.finditer(before, text):
        place = found.end()
        for symbol in longest_first:
            if text.startswith(symbol, place) and ends.match(text, place + len(symbol)):
                shown = found.group()
                labels.append((place, symbol, shown[len(shown.rstrip()) :]))
                break
    return labels
