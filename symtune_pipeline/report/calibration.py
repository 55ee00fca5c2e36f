"""What stands behind the calibration error: how often confident choices are right, and the commonest choice.

It knows the columns of the marts `reliability` and `choices`, and nothing about how a figure was computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from symtune_pipeline.report.plots import WIDTH, inline, three_decimals, variant_colours
from symtune_pipeline.report.tables import (
    as_html,
    comparisons,
    fraction_text,
    setting_label,
    several_models,
)
from symtune_pipeline.tables import VARIANTS

if TYPE_CHECKING:
    from symtune_pipeline.report.plots import Chart


def reliability_chart(reliability: pl.DataFrame) -> Chart:
    """Accuracy against confidence in ten bins, of each variant in one setting; the diagonal is the ideal."""
    import altair as alt

    columns = ("variant", "n", "confidence", "accuracy", "low", "high")
    rows = [
        {"row": f"confidence {row['confidence']:.2f}"} | row
        for row in reliability.sort("variant", "bin").select(columns).to_dicts()
    ]
    fraction = alt.Scale(domain=[0, 1])
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("confidence:Q", title="confidence of the choice among the labels", scale=fraction),
        color=variant_colours(rows),
        tooltip=["variant:N", "n:Q", *map(three_decimals, ("confidence", "accuracy"))],
    )
    ideal = alt.Chart(inline([{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
    return alt.layer(
        ideal.mark_line(strokeDash=[3, 2], strokeWidth=1, color="black").encode(x="x:Q", y="y:Q"),
        base.mark_rule(opacity=0.5).encode(y=alt.Y("low:Q", scale=fraction), y2="high:Q"),
        base.mark_line(strokeWidth=1.5).encode(
            y=alt.Y("accuracy:Q", title="accuracy (dashed: as confident as right)")
        ),
        base.mark_point(filled=True, opacity=1).encode(
            y="accuracy:Q", size=alt.Size("n:Q", legend=None)
        ),
    ).properties(title=f"Reliability: {reliability['setting'][0]}", width=WIDTH, height=260)


def html_tables(choices: pl.DataFrame) -> dict[str, str]:
    """HTML of the page's table `choices`, over all datasets; none where the mart has no row."""
    from great_tables import GT

    over_all = choices.filter(pl.col("dataset").is_null()) if len(choices) else choices
    if over_all.is_empty():
        return {}
    several = several_models(over_all)
    body = [
        {
            "setting": (f"{pair.model}, " if several else "")
            + setting_label(pair.benchmark, pair.setting),
            **{
                variant: fraction_text(pair.rows.get(variant, {}).get("commonest_choice"))
                for variant in VARIANTS
                if variant in over_all["variant"]
            },
            "right labels": fraction_text(pair.first["commonest_target"]),
        }
        for pair in comparisons(over_all)
    ]
    table = GT(pl.DataFrame(body)).cols_align("right", list(body[0])[1:])
    return {"choices": as_html("choices", table)}
