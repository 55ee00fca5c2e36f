"""A first look at a file of the user's own: its columns, and what each is likely for.

Nothing here decides: `symtune init` writes the guesses down, for the user to correct.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from symtune_pipeline.catalog.own import label_as_text
from symtune_pipeline.errors import UserError
from symtune_pipeline.sources.own import read_cells

LABEL_NAMES = (
    *("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "answer"),
    *("stars", "rating", "score", "polarity", "emotion", "y"),
)
MOST_CLASSES = 50  # of a column that is taken for labels without being named
LONGEST_LABEL = 60  # characters, on average
WORDS = 3  # of a text on average; fewer are names, codes and the like


@dataclass(frozen=True)
class Column:
    """A column of a file: its name, its cells as text, and whether a prompt can show them."""

    name: str
    cells: Sequence[str | None]
    is_text: bool

    @cached_property
    def values(self) -> dict[str, int]:
        """The values as labels are compared, each with its number of rows, in order of name."""
        counts = Counter(label_as_text(cell) for cell in self.cells if cell)
        return dict(sorted(counts.items()))

    @property
    def empty(self) -> list[str | None]:
        """What stands in cells without a value: an empty text, a missing one, or both."""
        return [sign for sign in ("", None) if sign in self.cells]

    def mean(self, size: str) -> float:
        """The mean length of a cell in 'words' or 'characters'."""
        filled = [cell for cell in self.cells if cell]
        sizes = (len(cell.split()) if size == "words" else len(cell) for cell in filled)
        return sum(sizes) / max(1, len(filled))

    @property
    def tells_rows_apart(self) -> bool:
        """Whether every row has another value."""
        return None not in self.cells and len(set(self.cells)) == len(self.cells)


def look_at(path: Path) -> list[Column]:
    """The columns of a CSV, TSV, JSONL or Parquet file; lists and objects are left out.

    Raises UserError for a file that cannot be read or has no row.
    """
    columns = [Column(name, *cells) for name, cells in read_cells(path).items()]
    if not columns or not columns[0].cells:
        raise UserError(f"{path} holds no row with columns; choose a file with examples.")
    return columns


def column(columns: Sequence[Column], name: str, path: Path) -> Column:
    """The column called `name`; raises UserError where there is none."""
    for each in columns:
        if each.name == name:
            return each
    raise UserError(
        f"{path} has no column '{name}'; choose one of {', '.join(c.name for c in columns)}."
    )


def likely_label(columns: Sequence[Column]) -> Column | None:
    """The column that most likely has the label: one with a usual name, else the fewest values.

    Of two with as few the last is taken, as it stands in most files. None where no column has a few
    values that come again.
    """
    fitting = [
        each
        for each in columns
        if 2 <= len(each.values) <= min(MOST_CLASSES, len(each.cells) // 2)
        and each.mean("characters") <= LONGEST_LABEL
    ]
    by_name = {each.name.lower(): each for each in fitting}
    named = [by_name[name] for name in LABEL_NAMES if name in by_name]
    return named[0] if named else min(reversed(fitting), key=lambda c: len(c.values), default=None)


def likely_texts(columns: Sequence[Column], label: Column) -> list[Column]:
    """The columns that most likely are the input: those of several words, else the longest."""
    others = [each for each in columns if each.is_text and each is not label]
    texts = [c for c in others if c.mean("words") >= WORDS and len(c.values) > len(label.values)]
    longest = sorted(others, key=lambda c: c.mean("characters"))[-1:]
    return texts or longest


def likely_id(columns: Sequence[Column], used: Sequence[Column]) -> Column | None:
    """The column that tells rows apart: one of those that are left, whose name says so."""
    named = [each for each in columns if each.name.lower() in ("id", "uid", "uuid", "example_id")]
    return next((each for each in named if each not in used and each.tells_rows_apart), None)


def words_for(columns: Sequence[Column], label: Column) -> dict[str, str]:
    """What a prompt says for each label: the word of another column that has one for each, else itself."""
    itself = {value: value for value in label.values}
    if any(any(c.isalpha() for c in value) for value in itself):
        return itself
    for other in columns:
        cells = zip(label.cells, other.cells, strict=True)
        pairs = {(label_as_text(x), y) for x, y in cells if x and y}
        if other is not label and other.is_text and len(pairs) == len(other.values) == len(itself):
            return itself | {value: word for value, word in pairs}
    return itself
