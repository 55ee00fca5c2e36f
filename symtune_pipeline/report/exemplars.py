"""Tables of accuracy against the number of exemplars of each class, where several are asked.

Gains are of the largest number over the smallest, on the same queries. Units: as in `tables`. They are for
a page and for a terminal, and an empty mart gives none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from symtune_pipeline.report.robustness import plain_table
from symtune_pipeline.report.tables import (
    OVER_DRAWS,
    Row,
    accuracy_text,
    as_html,
    fraction_text,
    gain_text,
    in_order,
    p_text,
    setting_label,
    several_models,
    unbroken,
)

if TYPE_CHECKING:
    from rich.console import Console

Curve = list[Row]  # the rows of a variant in a setting, the fewest exemplars first


def html_tables(exemplars: pl.DataFrame) -> dict[str, str]:
    """HTML of the page's table `exemplars`, of choices that are not calibrated."""
    from great_tables import GT

    numbers = _numbers(curve for _, curves in by_setting(exemplars) for curve in curves)
    body = [
        {
            "setting": setting,
            "variant": curve[0]["variant"],
            "n": f"{curve[0]['n']:,}",
            **{name: unbroken(accuracy_text(row)) for name, row in _by_number(curve, numbers)},
            "points": unbroken(gain_text(curve[-1], OVER_DRAWS)),
            "p": p_text(curve[-1]["p"]),
        }
        for setting, curves in by_setting(exemplars)
        for curve in curves
    ]
    if not body:
        return {}
    table = GT(pl.DataFrame(body), groupname_col="setting")
    return {"exemplars": as_html("exemplars", table.cols_align("right", list(body[0])[2:]))}


def print_exemplars(console: Console, exemplars: pl.DataFrame) -> None:
    """Print a table a setting: a line a variant, and a column for each number of exemplars."""
    from rich.text import Text

    for setting, curves in by_setting(exemplars):
        numbers = _numbers(curves)
        table = plain_table(setting, (*map(_name, numbers), "points", "p"))
        for curve in curves:
            shares = (
                fraction_text(None if row is None else row["accuracy"])
                for _, row in _by_number(curve, numbers)
            )
            most = curve[-1]
            figures = (most["variant"], *shares, gain_text(most, OVER_DRAWS), p_text(most["p"]))
            table.add_row(*map(Text, figures))
        console.print("", table)


def by_setting(exemplars: pl.DataFrame) -> Iterator[tuple[str, list[Curve]]]:
    """By setting, and by model where there are several, the curve of each variant in reading order."""
    if exemplars.is_empty():
        return
    several = several_models(exemplars)
    raw = in_order(exemplars.filter(measure="accuracy"), "exemplars_per_class")
    keys = ["model", "benchmark", "setting"]
    for (model, benchmark, setting), rows in raw.group_by(keys, maintain_order=True):
        label = setting_label(str(benchmark), str(setting))
        curves: dict[str, Curve] = {}
        for row in rows.iter_rows(named=True):
            curves.setdefault(row["variant"], []).append(row)
        yield f"{model}: {label}" if several else label, list(curves.values())


def _numbers(curves: Iterable[Curve]) -> list[int]:
    """The numbers of exemplars of all curves; a model that was asked before may have others."""
    return sorted({row["exemplars_per_class"] for curve in curves for row in curve})


def _by_number(curve: Curve, numbers: Iterable[int]) -> Iterator[tuple[str, Row | None]]:
    """For each number of exemplars its name, and the curve's row where it has one."""
    rows = {row["exemplars_per_class"]: row for row in curve}
    return ((_name(number), rows.get(number)) for number in numbers)


def _name(exemplars: int) -> str:
    return f"k = {exemplars}"
