"""The table of the paper's figures beside ours, from `paper.yaml`."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import polars as pl
import yaml

from symtune_pipeline.report.tables import (
    Row,
    comparisons,
    p_relation,
    points_text,
    several_models,
    split_number,
    unbroken,
)

if TYPE_CHECKING:
    from great_tables import GT

FIGURES = ("accuracy", "chance", "gain")
ARROW = "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}"


def paper_table(summary: pl.DataFrame) -> GT:
    """The paper's figures for each of its models beside ours, which are means over datasets, too.

    `summary` is the mart of that name. Of algorithmic benchmarks, ours are means over queries.
    """
    from great_tables import GT

    several = several_models(summary)
    means = summary.with_columns(
        pl.coalesce(f"mean_{figure}", figure).alias(figure) for figure in FIGURES
    )
    measured = [pair for pair in comparisons(means) if pair.tuned.get("gain") is not None]

    def ours(wanted: Row) -> str:
        return unbroken(
            "; ".join(
                (f"{pair.model}, " if several else "")
                + (f"{pair.setting}: " if len(wanted["settings"]) > 1 else "")
                + (f"k = {number}: " if number else "")
                + f"{_percent(pair.rows['untuned'], 'accuracy')}{ARROW}"
                + f"{_percent(pair.tuned, 'accuracy')}, "
                + f"{points_text(pair.tuned['gain'])} (p {p_relation(pair.tuned['p'])})"
                for pair in measured
                for setting, number in [split_number(pair.setting)]
                if pair.benchmark == wanted["benchmark"] and setting in wanted["settings"]
            )
        )

    facts = paper()
    rows = [
        {
            "result": row["result"] if row.get("checked", True) else f"{row['result']} †",
            **{model: _of_paper(row, model) for model in facts["models"]},
            "ours": (ours(row["ours"]) if "ours" in row else "") or "not measured",
        }
        for row in facts["results"]
    ]
    note = f"{facts['paper']}. {facts['note']} {facts['note on ours']}"
    chances = {_percent(pair.first, "chance") for pair in measured if pair.benchmark == "icl"}
    if chances:
        note += f" In the first four rows, our chance is {' or '.join(sorted(chances))}."
    table = GT(pl.DataFrame(rows)).tab_source_note(note)
    return table.cols_align("right", facts["models"])


def _percent(row: Row, figure: str) -> str:
    """A fraction as the paper writes it."""
    return f"{100 * row[figure]:.1f}"


def _of_paper(row: Row, model: str) -> str:
    """A figure of the paper, on one line; empty where it has none."""
    return str(row["figures"].get(model, "")).replace(" ", "\N{NO-BREAK SPACE}")


def paper() -> Row:
    """The paper's citation, a note and its results, as `paper.yaml` states them."""
    facts: Row = yaml.safe_load((files(__package__) / "paper.yaml").read_text(encoding="utf-8"))
    return facts
