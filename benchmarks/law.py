"""The law of `experiments/law.yaml`: gains on real sets by the tokens, and by the sets, of tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from benchmarks.kept import Kept
from symtune_pipeline.report.plots import inline
from symtune_pipeline.report.tables import Row, setting_label
from symtune_pipeline.report.variants import OVER_SEEDS

if TYPE_CHECKING:
    import altair as alt

Varied = Literal["tokens", "sets"]
TITLES: dict[Varied, str] = {"tokens": "tokens of tuning", "sets": "tuning sets"}


def measured_at(kept: Kept, varied: Varied) -> list[tuple[int, str]]:
    """The recipes that differ from `tuned` in nothing else, with `tuned`: (figure, recipe), least first.

    The figure is that of the recipe's first seed.
    """
    (cost,) = kept.facts["cost"].values()
    same = "sets" if varied == "tokens" else "steps"
    first = set(kept.facts["recipes"].values())
    return sorted(
        (of[varied], name)
        for name, of in cost.items()
        if name in first and of[same] == cost["tuned"][same]
    )


def chart(rows: Sequence[Row], points: Sequence[tuple[int, str]], varied: Varied) -> alt.FacetChart:
    """Gains with their intervals, in points, against `varied`; a panel a setting.

    `rows` are gains of recipes over the untuned model.
    """
    import altair as alt

    figure = {name: value for value, name in points}
    drawn = [
        {
            "x": figure[row["recipe"]],
            "setting": setting_label(row["benchmark"], row["setting"]),
            "gain": 100 * row["gain"],
            "low": 100 * row[f"{OVER_SEEDS}_low"],
            "high": 100 * row[f"{OVER_SEEDS}_high"],
        }
        for row in rows
        if row["recipe"] in figure
    ]
    base = alt.Chart().encode(
        x=alt.X(
            "x:Q",
            scale=alt.Scale(type="log", nice=False, padding=20),
            axis=alt.Axis(title=TITLES[varied], values=sorted(figure.values()), format=".3~s"),
        )
    )
    gains = alt.layer(
        alt.Chart().mark_rule(color="black").encode(y=alt.datum(0)),
        base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title="points"), y2="high:Q"),
        base.mark_line(point=True).encode(y="gain:Q"),
    ).properties(width=210, height=130)
    settings = list(dict.fromkeys(row["setting"] for row in drawn))
    by_setting = alt.Facet("setting:N", title=None, sort=settings)
    return gains.facet(by_setting, columns=3, data=inline(drawn))
