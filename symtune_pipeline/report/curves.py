"""The curves of a fine-tune: loss and accuracy, of the steps and on the held-out blocks."""

from __future__ import annotations

import polars as pl

from symtune_pipeline.report.plots import MAX_POINTS, inline, to_png

COLOURS = {"tuning": "#0072B2", "held out": "#D55E00"}


def curves(log: pl.DataFrame) -> bytes:
    """Loss and accuracy against the step, one above the other, as a PNG."""
    import altair as alt

    every = 1 + log.height // MAX_POINTS
    charts = []
    for measure in ("loss", "accuracy"):
        both = pl.concat(
            [
                log.gather_every(every).select("step", value=measure, blocks=pl.lit("tuning")),
                log.select("step", value=f"held_out_{measure}", blocks=pl.lit("held out")),
            ]
        )
        rows = both.fill_nan(None).drop_nulls().to_dicts()  # JSON has no word for NaN
        charts.append(
            alt.Chart(inline(rows), width=640, height=220)
            .mark_line(point={"size": 15})
            .encode(
                x=alt.X("step:Q", title="step"),
                y=alt.Y("value:Q", title=measure),
                color=alt.Color(
                    "blocks:N",
                    title=None,
                    scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
                ),
            )
        )
    return to_png(alt.vconcat(*charts))
