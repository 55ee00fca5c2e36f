"""Tables of four ways to ask the same queries, by what is done with the exemplars.

Units: as in `tables`. They are for a page and for a terminal, and an empty mart gives none.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    p_text,
    rank,
    several_models,
    unbroken,
)
from symtune_pipeline.tables import VARIANTS

if TYPE_CHECKING:
    from rich.console import Console


def html_tables(finetuned: pl.DataFrame) -> dict[str, str]:
    """HTML of the page's table `finetuned`."""
    from great_tables import GT

    body = [
        {
            "setting": setting,
            "variant": row["variant"],
            "way": row["way"],
            "n": f"{row['n']:,}",
            "accuracy": unbroken(accuracy_text(row)),
            "points": unbroken(gain_text(row, OVER_DRAWS)),
            "p": p_text(row["p"]),
            "alike": unbroken(_alike_text(row)),
        }
        for setting, rows in by_setting(finetuned)
        for row in rows
    ]
    if not body:
        return {}
    table = GT(pl.DataFrame(body), groupname_col="setting")
    return {"finetuned": as_html("finetuned", table.cols_align("right", list(body[0])[3:]))}


def print_finetuned(console: Console, finetuned: pl.DataFrame) -> None:
    """Print a table a setting: a line for each way of each variant."""
    from rich.text import Text

    for setting, rows in by_setting(finetuned):
        table = plain_table(f"{setting}: use of exemplars", ("accuracy", "points", "p", "alike"))
        for row in rows:
            figures = (gain_text(row, OVER_DRAWS), p_text(row["p"]), fraction_text(row["alike"]))
            name = f"{row['variant']}, {row['way']}"
            table.add_row(*map(Text, (name, fraction_text(row["accuracy"]), *figures)))
        console.print("", table)


def by_setting(finetuned: pl.DataFrame) -> Iterator[tuple[str, list[Row]]]:
    """By setting, and by model where there are several, the rows of each variant and way in order."""
    if finetuned.is_empty():
        return
    several = several_models(finetuned)
    for (model, setting), rows in finetuned.group_by("model", "setting", maintain_order=True):
        ordered = rows.sort(rank("variant", VARIANTS), "variant", maintain_order=True)
        yield f"{model}: {setting}" if several else str(setting), ordered.to_dicts()


def _alike_text(row: Row) -> str:
    """The share with its interval, and of how many answers; empty where it says nothing."""
    if row["alike"] is None:
        return ""
    low, high = (fraction_text(row[f"alike_{end}"]) for end in ("low", "high"))
    return f"{fraction_text(row['alike'])} [{low}, {high}] of {row['changed']:,}"
