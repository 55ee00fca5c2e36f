"""The page's confusions: which class was answered for which, dataset by dataset.

It knows the columns of the marts `confusion` and `choices`, and nothing about how a figure was computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from symtune_pipeline.report.tables import fraction_text, in_order, several_models, split_number
from symtune_pipeline.report.template import rendered


@dataclass(frozen=True)
class Confusion:
    """What one variant answered in one setting of a dataset: counts by target, then by answer."""

    title: str
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]


def confusion_html(confusion: pl.DataFrame, choices: pl.DataFrame) -> str:
    """A folded table for each variant and setting of each dataset; empty where the mart has no row.

    Of several numbers of exemplars, that of the most is shown.
    """
    if confusion.is_empty():
        return ""
    several = several_models(confusion)
    datasets: dict[str, list[Confusion]] = {}
    for model, dataset, table in _tables(_with_most_exemplars(confusion), _commonest(choices)):
        name = f"{model}: {dataset}" if several else dataset
        datasets.setdefault(name, []).append(table)
    return rendered("confusion.html", datasets=datasets)


def _tables(
    confusion: pl.DataFrame, commonest: dict[tuple[str, ...], str]
) -> Iterator[tuple[str, str, Confusion]]:
    keys = ["model", "dataset", "setting", "variant"]
    # The mart has its rows in the order of the classes, which sorting by names would lose.
    ordered = in_order(confusion.with_row_index("place"), "dataset")
    for (model, dataset, setting, variant), rows in ordered.group_by(keys, maintain_order=True):
        cells = rows.sort("place")
        classes = cells["target"].unique(maintain_order=True).to_list()
        counts = cells["n"].to_list()
        by_target = [
            counts[start : start + len(classes)] for start in range(0, len(counts), len(classes))
        ]
        key = (str(model), str(dataset), str(setting), str(variant))
        title = f"{setting}, {variant}" + commonest.get(key, "")
        yield key[0], key[1], Confusion(title, classes, by_target)


def _with_most_exemplars(confusion: pl.DataFrame) -> pl.DataFrame:
    """The rows of the largest number of exemplars that each model was asked with."""
    numbers = [split_number(setting)[1] for setting in confusion["setting"]]
    numbered = confusion.with_columns(exemplars=pl.Series(numbers, dtype=pl.Int64))
    most = pl.col("exemplars").max().over("model")
    return numbered.filter(pl.col("exemplars") == most).drop("exemplars")


def _commonest(choices: pl.DataFrame) -> dict[tuple[str, ...], str]:
    """By model, dataset, setting and variant, what the mart `choices` says; no row, no words."""
    if choices.is_empty():
        return {}
    return {
        (row["model"], row["dataset"], row["setting"], row["variant"]): (
            f" · commonest choice {fraction_text(row['commonest_choice'])},"
            f" of the right labels {fraction_text(row['commonest_target'])}"
        )
        for row in choices.filter(pl.col("dataset").is_not_null()).iter_rows(named=True)
    }
