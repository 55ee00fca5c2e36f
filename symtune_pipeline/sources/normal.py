"""The one normal form of raw examples, and the errors of data that cannot take it.

It is the table `RAW_EXAMPLES`; an example_id is '<dataset>/<split>/<row or id>'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.errors import UserError
from symtune_pipeline.tables import RAW_EXAMPLES

SHOWN = 10  # labels that a sentence names
MAX_CHARACTERS = 100_000  # of one text: far beyond any context, so rather a damaged file


def normal_form(
    frame: pl.DataFrame,
    dataset: Dataset,
    split: str,
    where: str,
    lines: Sequence[int] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """Examples of one split in the normal form.

    `where` names the file or repository in errors, and `lines` the line of each row where the file
    is text. Rows with what the dataset has in place of a label (-1 on the hub, as a rule) are left out,
    and `say` is told how many. Public sets hold a few empty texts: such a row keeps an empty input,
    for staging to drop and count.
    Raises UserError for a missing column or one of another kind, a label that is not listed, a
    single class, an id that comes twice, and a text that is too long or holds a NUL.
    """
    _check_columns(frame, dataset, where)

    def refuse(row: int, problem: str) -> UserError:
        return UserError(f"{where}, {f'line {lines[row]}' if lines else f'row {row}'}: {problem}.")

    # Under names of our own, which no column of the file can have, and which are no pattern.
    named = {f"text {column}": column for column in dataset.columns}
    named |= {"label": dataset.label_column} | ({"id": name} if (name := dataset.id_column) else {})
    rows = pl.DataFrame({ours: frame.get_column(theirs) for ours, theirs in named.items()})
    rows = rows.with_columns(row=pl.row_index())
    if not dataset.id_column:
        rows = rows.with_columns(id=pl.col("row").cast(pl.String))
    rows = _labelled(rows, dataset, where, say)
    _check_values(rows, dataset, where, refuse)
    label_ids = {label: label_id for label_id, label in enumerate(dataset.labels)}
    return rows.select(
        example_id=pl.format("{}/{}/{}", pl.lit(dataset.key), pl.lit(split), "id"),
        dataset=pl.lit(dataset.key),
        task_type=pl.lit(dataset.task_type),
        split=pl.lit(split),
        input=pl.when(pl.any_horizontal(_is_empty(f"text {name}") for name in dataset.columns))
        .then(pl.lit(""))
        .otherwise(_input(dataset)),
        label=pl.col("label").replace_strict(dataset.labels, return_dtype=pl.String),
        label_id=pl.col("label").replace_strict(label_ids, return_dtype=pl.Int64),
    )


def no_examples() -> pl.DataFrame:
    """The normal form of a dataset that is left out."""
    return RAW_EXAMPLES.frame()


def empty_inputs(examples: pl.DataFrame, where: str) -> str | None:
    """One sentence about the examples with an empty text, or None where there are none."""
    empty = examples.filter(input="")["example_id"]
    if not len(empty):
        return None
    return (
        f"{where}: {len(empty)} of {len(examples)} examples have an empty text and are left out, the"
        f" first is {empty[0]}; fill or remove these rows."
    )


def _labelled(
    rows: pl.DataFrame, dataset: Dataset, where: str, say: Callable[[str], None]
) -> pl.DataFrame:
    """The rows that have a label."""
    signs = [str(sign) for sign in dataset.unlabelled if sign is not None]
    label = pl.col("label").cast(pl.String)
    without = label.is_in(signs).fill_null(None in dataset.unlabelled)
    kept = rows.filter(~without)
    if len(kept) < len(rows):
        say(f"{where}: {len(rows) - len(kept):,} of {len(rows):,} rows have no label; left out")
    return kept


def _check_columns(frame: pl.DataFrame, dataset: Dataset, where: str) -> None:
    ids = [dataset.id_column] if dataset.id_column else []
    labels_are_numbers = all(isinstance(label, int) for label in dataset.labels)
    for column in [*dataset.columns, dataset.label_column, *ids]:
        if column not in frame.columns:
            raise UserError(
                f"{where} has no column '{column}' (it has {', '.join(frame.columns)}); correct the"
                f" columns of dataset '{dataset.key}' or the file."
            )
        is_number = column == dataset.label_column and labels_are_numbers
        kind = frame.schema[column]
        if not (kind.is_integer() if is_number else kind == pl.String):
            raise UserError(
                f"{where}, column '{column}' holds {kind} where dataset '{dataset.key}' needs"
                f" {'a whole number' if is_number else 'text'};"
                " convert the column."
            )


def _check_values(
    rows: pl.DataFrame, dataset: Dataset, where: str, refuse: Callable[[int, str], UserError]
) -> None:
    """Labels, ids and texts; `refuse` makes the error of a row."""
    unknown = rows.filter(pl.col("label").is_null() | ~pl.col("label").is_in(list(dataset.labels)))
    for row, label in unknown.select("row", "label").head(1).iter_rows():
        raise refuse(
            row,
            f"label {label!r} is none of {_some(sorted(dataset.labels))}; correct the row or the labels"
            f" of dataset '{dataset.key}'",
        )
    twice = rows.filter(pl.col("id").is_null() | ~pl.col("id").is_first_distinct())
    for row, name in twice.select("row", "id").head(1).iter_rows():
        problem = "is empty" if name is None else f"{name!r} stands in an earlier row too"
        raise refuse(row, f"'{dataset.id_column}' {problem}; give each row an id of its own")
    for column in dataset.columns:
        _check_texts(rows, column, refuse)
    if rows["label"].n_unique() < 2:
        number = "a single class" if len(rows) else "no example"
        raise UserError(
            f"{where} holds {number} of dataset '{dataset.key}'; two classes are needed to learn a"
            " mapping."
        )


def _check_texts(rows: pl.DataFrame, column: str, refuse: Callable[[int, str], UserError]) -> None:
    text = pl.col(f"text {column}")
    length = text.str.len_chars()
    bad = rows.filter((length > MAX_CHARACTERS) | text.str.contains("\0", literal=True))
    for row, characters in bad.select("row", length).head(1).iter_rows():
        if characters > MAX_CHARACTERS:
            raise refuse(
                row,
                f"the text in '{column}' has {characters:,} characters; {MAX_CHARACTERS:,} are the"
                " most, so shorten or remove it",
            )
        raise refuse(row, f"the text in '{column}' holds a NUL character; remove it")


def _some(labels: Sequence[int | str]) -> str:
    """The labels as a list; of hundreds the first ten."""
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return f"{list(labels[:SHOWN])}{more}"


def _is_empty(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")


def _input(dataset: Dataset) -> pl.Expr:
    """The dataset's input template ('Premise: {premise} Hypothesis: {hypothesis}') as an expression."""
    template = dataset.input
    for column in dataset.columns:
        template = template.replace(f"{{{column}}}", "\0")
    order = sorted(dataset.columns, key=lambda column: dataset.input.index(f"{{{column}}}"))
    pieces: list[pl.Expr] = []
    for i, text in enumerate(template.split("\0")):
        pieces.append(pl.lit(text))
        if i < len(order):
            pieces.append(pl.col(f"text {order[i]}"))
    return pl.concat_str(pieces)
