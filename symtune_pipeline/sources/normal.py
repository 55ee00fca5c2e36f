"""The one normal form of raw examples, and the errors of data that cannot take it.

Columns: example_id ('<dataset>/<split>/<row>'), dataset, task_type, split, input, label, label_id.
"""

from __future__ import annotations

import polars as pl

from symtune_pipeline.catalog import Dataset
from symtune_pipeline.errors import UserError


def normal_form(frame: pl.DataFrame, dataset: Dataset, split: str, where: str) -> pl.DataFrame:
    """Examples of one split in the normal form; `where` names the file or repository in errors.

    Rows with the dataset's hidden label (-1 on the hub, as a rule) are left out. Public sets hold a
    few empty texts: such a row keeps an empty input, for staging to drop and count. Raises UserError
    for a missing column or one of another kind, a label that the catalogue does not list, and a
    single class.
    """
    needed = [*dataset.columns, dataset.label_column]
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise UserError(
            f"{where} has no column '{missing[0]}' (it has {', '.join(frame.columns)}); correct the"
            f" columns of dataset '{dataset.key}' or the file."
        )
    labels_are_numbers = all(isinstance(label, int) for label in dataset.labels)
    for column in needed:
        is_number = column == dataset.label_column and labels_are_numbers
        kind = frame.schema[column]
        if not (kind.is_integer() if is_number else kind == pl.String):
            raise UserError(
                f"{where}, column '{column}' holds {kind} where dataset '{dataset.key}' needs"
                f" {'a whole number' if is_number else 'text'};"
                " convert the column."
            )
    rows = frame.select(needed).with_row_index("row")
    labels = pl.col(dataset.label_column)
    rows = rows.filter(labels.is_null() | (labels.cast(pl.String) != str(dataset.hidden_label)))
    unknown = rows.filter(labels.is_null() | ~labels.is_in(list(dataset.labels)))
    if len(unknown):
        row = unknown.row(0, named=True)
        raise UserError(
            f"{where}, row {row['row']}: label {row[dataset.label_column]!r} is none of"
            f" {sorted(dataset.labels)}; correct the row or the labels of dataset '{dataset.key}'."
        )
    if rows[dataset.label_column].n_unique() < 2:
        raise UserError(
            f"{where} holds a single class of dataset '{dataset.key}'; two are needed to learn a mapping."
        )
    return rows.select(
        example_id=pl.format("{}/{}/{}", pl.lit(dataset.key), pl.lit(split), "row"),
        dataset=pl.lit(dataset.key),
        task_type=pl.lit(dataset.task_type),
        split=pl.lit(split),
        input=pl.when(pl.any_horizontal(_is_empty(column) for column in dataset.columns))
        .then(pl.lit(""))
        .otherwise(_input(dataset)),
        label=labels.replace_strict(dataset.labels, return_dtype=pl.String),
        label_id=labels.replace_strict(
            {label: place for place, label in enumerate(dataset.labels)}, return_dtype=pl.Int64
        ),
    )


def empty_inputs(examples: pl.DataFrame, where: str) -> str | None:
    """One sentence about the examples with an empty text, or None where there are none."""
    empty = examples.filter(input="")["example_id"]
    if not len(empty):
        return None
    return (
        f"{where}: {len(empty)} of {len(examples)} examples have an empty text and are left out, the"
        f" first is {empty[0]}; fill or remove these rows."
    )


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
            pieces.append(pl.col(order[i]))
    return pl.concat_str(pieces)
