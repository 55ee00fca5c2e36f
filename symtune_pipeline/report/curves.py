"""The curves of a fine-tune: losses, and how symbols rank on held-out prompts, in all and by dataset."""

from __future__ import annotations

from typing import Any

import polars as pl

from symtune_pipeline.report.plots import (
    MAX_POINTS,
    WIDTH,
    colours,
    inline,
    symbol_chart,
    to_png,
)

LINES = {
    "steps": "#0072B2",
    "held out, first tokens": "#D55E00",
    "held out, later tokens": "#E69F00",
}
MARKS = {"untuned": "#808080", "tuned": "#0072B2", "chance": "black"}


def curves(log: pl.DataFrame, by_set: pl.DataFrame) -> bytes:
    """What was measured as a PNG, one chart below the other.

    `log` is of `tables.TUNING_LOG` and `by_set` of `tables.TUNING_LOG_BY_SET`.
    """
    import altair as alt

    charts = [_losses(log)]
    if by_set.height:
        charts += [symbol_chart(log), _sets(log, by_set)]
    return to_png(alt.vconcat(*charts).resolve_scale(color="independent"))


def _losses(log: pl.DataFrame) -> Any:
    """Of the steps; and of the first tokens of symbols apart from the later ones, which are copied."""
    import altair as alt

    logs = [log.gather_every(1 + log.height // MAX_POINTS), log, log]
    columns = ["loss", "first_token_loss", "later_token_loss"]
    lines = [
        log.select("step", value=column, tokens=pl.lit(name))
        for log, column, name in zip(logs, columns, LINES, strict=True)
    ]
    rows = pl.concat(lines).fill_nan(None).drop_nulls().to_dicts()  # JSON has no word for NaN
    return (
        alt.Chart(inline(rows), width=WIDTH, height=220)
        .mark_line(point={"size": 15})
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("value:Q", title="loss, nats per token"),
            color=colours("tokens", LINES),
        )
    )


def _sets(log: pl.DataFrame, by_set: pl.DataFrame) -> Any:
    """A row for each dataset."""
    import altair as alt

    kept = log.filter("kept")["step"].item()
    before, after = by_set.filter(step=0), by_set.filter(step=kept)
    named = zip(MARKS, ("symbol_accuracy", "symbol_accuracy", "symbol_chance"), strict=True)
    rows = pl.concat(
        frame.select("dataset", value=column, model=pl.lit(name))
        for frame, (name, column) in zip((before, after, before), named, strict=True)
    )
    shapes = alt.Scale(domain=list(MARKS), range=["circle", "circle", "diamond"])
    return (
        alt.Chart(inline(rows.to_dicts()), width=WIDTH)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("value:Q", title="symbol accuracy", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("dataset:N", title=None),
            color=colours("model", MARKS),
            shape=alt.Shape("model:N", legend=None, scale=shapes),
        )
    )
