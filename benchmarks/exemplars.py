"""Accuracy on real sets before and after tuning, by the number of exemplars of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from benchmarks.kept import Kept
from benchmarks.marts import Measure, in_order, mart, untuned_rows
from symtune_pipeline.report.plots import VARIANT_COLOURS, colours, inline
from symtune_pipeline.report.tables import Row, setting_label
from symtune_pipeline.report.variants import OVER_SEEDS

if TYPE_CHECKING:
    import altair as alt

AT = ", k = "  # between a setting and its number of exemplars


def by_exemplars(kept: Kept, measure: Measure = "accuracy") -> list[Row]:
    """By setting and number of exemplars of each class the accuracies before and after, and the gain."""
    asked = kept.outcomes.filter(pl.col("setting").str.contains(AT), measure=measure)
    several = replace(kept, outcomes=asked)
    untuned, rows = untuned_rows(several), []
    for row in mart("mart_seeds", several).filter(recipe="tuned").iter_rows(named=True):
        before = untuned[row["benchmark"], row["setting"], measure]
        setting, k = row["setting"].split(AT)
        accuracies = {"untuned": before["accuracy"], "tuned": row["accuracy"]}
        rows.append(
            row | accuracies | {"setting": setting, "k": int(k), "chance": before["chance"]}
        )
    ordered = in_order(pl.DataFrame(rows, infer_schema_length=None).sort("k")).to_dicts()
    return [row | {"setting": setting_label(row["benchmark"], row["setting"])} for row in ordered]


def chart(rows: Sequence[Row]) -> alt.FacetChart:
    """The rows of `by_exemplars`: accuracy against the number, a panel a setting.

    The area around the tuned model's line is the interval of its gain, and the dashed line is chance.
    """
    import altair as alt

    shown = ("untuned", "tuned")
    drawn = [
        {
            "setting": row["setting"],
            "k": row["k"],
            "model": name,
            "accuracy": row[name],
            "chance": row["chance"],
            "low": row["untuned"] + row[f"{OVER_SEEDS}_low"] if name == "tuned" else None,
            "high": row["untuned"] + row[f"{OVER_SEEDS}_high"] if name == "tuned" else None,
        }
        for row in rows
        for name in shown
    ]
    numbers = sorted({row["k"] for row in rows})
    base = alt.Chart().encode(
        x=alt.X(
            "k:Q",
            scale=alt.Scale(type="log", base=2, nice=False, padding=15),
            axis=alt.Axis(title="examples of each class", values=numbers, format="d"),
        ),
        color=colours("model", {name: VARIANT_COLOURS[name] for name in shown}),
    )
    accuracy = alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(zero=False))
    lines = alt.layer(
        base.mark_line(strokeDash=[3, 2], strokeWidth=1).encode(
            y=alt.Y("chance:Q"), color=alt.value("black")
        ),
        base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title="accuracy"), y2="high:Q"),
        base.mark_line(point=True).encode(y=accuracy),
    ).properties(width=210, height=130)
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    by_setting = alt.Facet("setting:N", title=None, sort=settings)
    return lines.facet(by_setting, columns=3, data=inline(drawn))
