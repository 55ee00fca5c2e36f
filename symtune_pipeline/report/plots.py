"""Charts of the report, from the marts' rows of one model, or of one setting over models.

Each function returns an Altair chart whose width a page may stretch. It knows nothing about
files or pages, and computes no metric; the loss curve's moving mean is only a line to the eye.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.report.intervals import SPAN, axis_title, with_interval
from symtune_pipeline.report.robustness import FOLLOWED, followed
from symtune_pipeline.report.tables import IN_CONTEXT, in_order, setting_label
from symtune_pipeline.tables import VARIANTS

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.LayerChart | alt.FacetChart  # what `alt.layer` is declared to return

WIDTH = 640  # pixels, of a PNG before scaling; a page gives its own
VARIANT_COLOURS = dict(zip(VARIANTS, ("#E69F00", "#808080", "#0072B2"), strict=True))
OTHER_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "black")  # of variants
SETTING_COLOURS = dict(zip(IN_CONTEXT, ("#009E73", "#8FD3BD", "#D55E00", "#0072B2"), strict=True))
MAX_POINTS = 2_000  # more than a screen has pixels only makes the page heavy
ACCURACY = "accuracy (tick: chance)"
ACCURACY_OVER = "accuracy (dashed: chance)"
SHARE = "share of choices (tick: chance)"
MEAN_OF_STEPS = 20
TEXT = 12  # pixels
MOST_TOLD = 24  # figures that are read out; of more, a table is easier to follow


def settings_chart(summary: pl.DataFrame) -> Chart:
    """Accuracy of each variant per setting: a dot, its interval, and a mark at chance."""
    mart = in_order(summary)
    return share_chart(mart, named(mart), "Accuracy by setting", ACCURACY)


def category_chart(algorithmic: pl.DataFrame) -> Chart:
    """Accuracy of each variant per category of the algorithmic benchmarks."""
    mart = in_order(algorithmic, "category")
    names = [
        f"{name}, {category}" for name, category in zip(named(mart), mart["category"], strict=True)
    ]
    return share_chart(mart, names, "Algorithmic accuracy by category", ACCURACY)


def alignment_chart(alignment: pl.DataFrame) -> Chart:
    """What choices follow over all sets, where the most labels are flipped: a share per variant."""
    most = alignment.filter(
        pl.col("sets") == "all", pl.col("flipped_percent") == pl.col("flipped_percent").max()
    )
    pairs = [pair for _, pairs in followed(most) for pair in pairs]
    mart = pl.DataFrame(
        [row for pair in pairs for row in pair.rows.values()], infer_schema_length=None
    )
    names = [FOLLOWED[measure] for measure in mart["measure"]]
    return share_chart(mart, names, f"Choices with {most['setting'][0]} labels", SHARE)


def named(mart: pl.DataFrame) -> list[str]:
    """What a reader calls the setting of each row."""
    return [setting_label(*row) for row in mart.select("benchmark", "setting").iter_rows()]


def share_chart(mart: pl.DataFrame, names: Sequence[str], title: str, quantity: str) -> Chart:
    """Dots with intervals, one line per name (one a row of the mart), one colour per variant."""
    import altair as alt

    columns = ("variant", "n", *SPAN, "interval", "chance")
    measured = with_interval(mart).select(columns).to_dicts()
    rows = [{"row": name} | row for name, row in zip(names, measured, strict=True)]
    lines = list(dict.fromkeys(row["row"] for row in rows))
    variants = present(rows)

    base = alt.Chart(inline(rows)).encode(
        y=alt.Y("row:N", sort=lines, title=None, axis=wrapped_labels())
    )
    by_variant = base.encode(
        yOffset=alt.YOffset("variant:N", sort=variants),
        color=variant_colours(rows),
        tooltip=["row:N", "variant:N", "n:Q", *map(three_decimals, SPAN), "interval:N"],
    )
    words = axis_title(quantity, rows)
    fraction = alt.Scale(domain=[0, 1])
    return alt.layer(
        base.transform_filter("isValid(datum.chance)")
        .mark_tick(color="black", thickness=1.5, size=32)
        .encode(x=alt.X("chance:Q", scale=fraction), tooltip=["row:N", three_decimals("chance")]),
        by_variant.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", axis=alt.Axis(format=".1f", tickCount=5, title=words)),
            x2="high:Q",
        ),
        by_variant.mark_point(filled=True, size=70, opacity=1).encode(x="accuracy:Q"),
    ).properties(title=title, width=WIDTH, height=46 * len(lines))


def gains_chart(icl: pl.DataFrame) -> Chart:
    """Tuned minus untuned per dataset and setting, in points, with intervals where known."""
    import altair as alt

    tuned = with_interval(in_order(icl, "dataset"), "gain_").filter(
        pl.col("variant") == "tuned", pl.col("gain").is_not_null()
    )
    points = [pl.col(name) * 100 for name in ("gain", "gain_low", "gain_high")]
    rows = tuned.select("dataset", "setting", "n", "p", "interval", *points).to_dicts()
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    datasets = sorted({row["dataset"] for row in rows})

    # A page lets the reader pick settings in the legend, where four intervals a set are many.
    picked = alt.selection_point("picked", fields=["setting"], bind="legend")
    base = alt.Chart(inline(rows)).encode(
        y=alt.Y("dataset:N", sort=datasets, title=None, axis=wrapped_labels()),
        yOffset=alt.YOffset("setting:N", sort=settings),
        color=colours("setting", {name: SETTING_COLOURS.get(name, "#444") for name in settings}),
        tooltip=["dataset:N", "setting:N", "n:Q", alt.Tooltip("gain:Q", format="+.1f"), "p:Q"],
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1)),
    )
    zero = alt.Chart(inline([{"zero": 0}])).mark_rule(color="black").encode(x="zero:Q")
    return alt.layer(
        zero,
        base.transform_filter("isValid(datum.gain_low) && isValid(datum.gain_high)")
        .mark_rule(strokeWidth=1.5)
        .encode(x="gain_low:Q", x2="gain_high:Q")
        .add_params(
            picked
        ),  # in the layer that the legend is made of: in another it takes no click
        base.mark_point(filled=True, size=50).encode(
            x=alt.X("gain:Q", title=axis_title("tuned minus untuned, points", rows))
        ),
    ).properties(
        title="Gain by evaluation dataset",
        width=WIDTH,
        height=len(datasets) * (10 + 11 * len(settings)),
    )


def flipped_chart(flipped: pl.DataFrame) -> Chart:
    """Accuracy (following the flip) against the percentage of labels that were flipped."""
    import altair as alt

    columns = ("flipped_percent", "variant", "n", *SPAN, "interval", "chance")
    rows = with_interval(flipped).select(columns).sort("flipped_percent", "variant").to_dicts()

    base = alt.Chart(inline(rows)).encode(
        x=alt.X("flipped_percent:Q", title="labels flipped, %"),
        color=variant_colours(rows),
    )
    fraction = alt.Scale(domain=[0, 1])
    return alt.layer(
        base.transform_filter("isValid(datum.chance)")
        .mark_line(strokeDash=[3, 2], strokeWidth=1)
        .encode(y=alt.Y("chance:Q", scale=fraction), color=alt.value("black")),
        base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(point=True).encode(
            y=alt.Y("accuracy:Q", title=axis_title(ACCURACY_OVER, rows)),
            tooltip=["flipped_percent:Q", "variant:N", "n:Q", three_decimals("accuracy")],
        ),
    ).properties(title="Following flipped labels", width=WIDTH, height=300)


def exemplars_chart(exemplars: pl.DataFrame) -> Chart:
    """Accuracy against the number of exemplars of each class, of every variant in one setting."""
    import altair as alt

    columns = ("exemplars_per_class", "variant", "n", *SPAN, "interval", "chance")
    rows = with_interval(in_order(exemplars, "exemplars_per_class")).select(columns).to_dicts()
    numbers = sorted({row["exemplars_per_class"] for row in rows})
    others = dict.fromkeys(row["variant"] for row in rows if row["variant"] not in VARIANTS)
    own = dict(zip(others, cycle(OTHER_COLOURS), strict=False))
    base = alt.Chart(inline(rows)).encode(
        x=alt.X(
            "exemplars_per_class:Q",
            scale=alt.Scale(type="log", base=2, padding=20),
            axis=alt.Axis(title="exemplars of each class (k)", values=numbers, format="d"),
        ),
        color=colours("variant", {name: VARIANT_COLOURS[name] for name in present(rows)} | own),
        tooltip=["exemplars_per_class:Q", "variant:N", "n:Q", three_decimals("accuracy")],
    )
    fraction = alt.Scale(domain=[0, 1])
    return alt.layer(
        base.transform_filter("isValid(datum.chance)")
        .mark_line(strokeDash=[3, 2], strokeWidth=1)
        .encode(y=alt.Y("chance:Q", scale=fraction), color=alt.value("black")),
        base.mark_rule(opacity=0.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(point=True).encode(
            y=alt.Y("accuracy:Q", title=axis_title(ACCURACY_OVER, rows))
        ),
    ).properties(
        title=setting_label(exemplars["benchmark"][0], exemplars["setting"][0]),
        width=WIDTH,
        height=240,
    )


def scaling_chart(scaling: pl.DataFrame) -> Chart:
    """Accuracy against the cost of inference, over the models of one setting."""
    import altair as alt

    columns = ("model", "variant", "flops_per_token", "n", *SPAN, "interval", "chance")
    measured = with_interval(in_order(scaling)).select(columns)
    rows, sizes = measured.to_dicts(), measured.unique("model", maintain_order=True).to_dicts()
    cost = alt.X(
        "flops_per_token:Q",
        scale=alt.Scale(type="log", padding=40),
        axis=alt.Axis(format="~s", title="inference FLOPs per token", tickCount=4, grid=False),
    )
    base = alt.Chart(inline(rows)).encode(
        x=cost,
        color=variant_colours(rows),
        tooltip=["model:N", "variant:N", "n:Q", *map(three_decimals, SPAN), "interval:N"],
    )
    fraction = alt.Scale(domain=[0, 1])
    return alt.layer(
        alt.Chart(inline(sizes))
        .mark_text(baseline="top")
        .encode(x=cost, y=alt.value(2), text="model:N"),
        base.transform_filter("isValid(datum.chance)")
        .mark_line(strokeDash=[3, 2], strokeWidth=1)
        .encode(y=alt.Y("chance:Q", scale=fraction), color=alt.value("black")),
        base.mark_rule().encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(point=True).encode(
            y=alt.Y("accuracy:Q", title=axis_title(ACCURACY_OVER, rows))
        ),
    ).properties(
        title=setting_label(scaling["benchmark"][0], scaling["setting"][0]),
        width=WIDTH,
        height=240,
    )


def loss_chart(training_log: pl.DataFrame) -> Chart:
    """Training loss per step, faint, under its moving mean."""
    import altair as alt

    every = 1 + training_log.height // MAX_POINTS
    # A diverged run logs NaN, which JSON has no word for.
    rows = training_log.select("step", "loss").sort("step").gather_every(every).fill_nan(None)

    base = alt.Chart(inline(rows.to_dicts())).encode(x=alt.X("step:Q", title="step"))
    return alt.layer(
        base.mark_line(color=VARIANT_COLOURS["tuned"], opacity=0.3, strokeWidth=1).encode(
            y=alt.Y("loss:Q", title="loss"), tooltip=["step:Q", three_decimals("loss")]
        ),
        base.transform_window(mean="mean(loss)", frame=[1 - MEAN_OF_STEPS, 0])
        .mark_line(color=VARIANT_COLOURS["tuned"])
        .encode(y="mean:Q"),
    ).properties(
        title=f"Training loss and its mean over {MEAN_OF_STEPS} points",
        width=WIDTH,
        height=260,
    )


def symbol_chart(training_log: pl.DataFrame) -> Chart:
    """Symbol accuracy on the held-out prompts, beside chance; a bar at the step that is kept."""
    import altair as alt

    measured = training_log.drop_nulls("symbol_accuracy").sort("step")
    columns = ["step", "symbol_accuracy", "symbol_chance", "kept"]
    base = alt.Chart(inline(measured.select(columns).to_dicts())).encode(
        x=alt.X("step:Q", title="step")
    )
    fraction = alt.Scale(domain=[0, 1])
    title = alt.Y("symbol_accuracy:Q", title="symbol accuracy (dashed: chance)", scale=fraction)
    tip = [alt.Tooltip("step:Q"), three_decimals("symbol_accuracy")]
    return alt.layer(
        base.mark_line(strokeDash=[3, 2], strokeWidth=1, color="black").encode(y="symbol_chance:Q"),
        base.mark_line(point=True, color=VARIANT_COLOURS["tuned"]).encode(y=title, tooltip=tip),
        base.transform_filter("datum.kept").mark_rule(opacity=0.4),
    ).properties(
        title="Held-out prompts: correct symbol ranked first (bar: the step that is kept)",
        width=WIDTH,
        height=220,
    )


def in_words(chart: Chart) -> str:
    """The chart for whoever cannot see it: its title, and its figures where they are few."""
    spec = chart.to_dict()
    rows = [row for data in spec["datasets"].values() for row in data]
    rows = list({str(row): row for row in rows}.values())  # two layers may have the same
    title = spec["title"]
    if "step" in rows[0]:
        ends = [rows[0], rows[-1]]
        told = [f"at step {row['step']} {_figures(row, ('step', 'kept'))}" for row in ends]
    elif any("gain" in row for row in rows):
        told = [
            f"{row['dataset']}, {row['setting']} {row['gain']:+.1f}"
            for row in rows
            if "gain" in row
        ]
    else:
        told = [
            f"{_named(row)}, {row['variant']} {row['accuracy']:.2f}"
            for row in rows
            if row.get("accuracy") is not None
        ]
    if len(told) > MOST_TOLD:
        return f"{title}. The table below the chart has its {len(told)} figures."
    return f"{title}: {'; '.join(told)}."


def _named(row: dict[str, Any]) -> str:
    """What an accuracy is of: the line of the chart, or where it lies along the axis."""
    if "row" in row:
        return str(row["row"])
    name = next(key for key in ("exemplars_per_class", "flipped_percent", "model") if key in row)
    return f"{name.replace('_', ' ')} {row[name]}"


def _figures(row: dict[str, Any], without: Sequence[str]) -> str:
    """What a step measured, as `loss 0.512`."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.3f}"
        for name, value in row.items()
        if name not in without and value is not None
    )


def legible(chart: Chart) -> Chart:
    """The chart with text of at least 12 pixels."""
    text = {"labelFontSize": TEXT, "titleFontSize": TEXT}
    return chart.configure(axis=text, legend=text, text={"fontSize": TEXT})  # type: ignore[no-any-return]


def to_png(chart: Chart | alt.VConcatChart) -> bytes:
    """The chart as a PNG at twice its size, drawn without a browser or a network."""
    image = io.BytesIO()
    chart.save(image, format="png", scale_factor=2)
    return image.getvalue()


def present(rows: list[dict[str, Any]]) -> list[str]:
    """The variants that have rows, in reading order."""
    return [variant for variant in VARIANTS if any(row["variant"] == variant for row in rows)]


def variant_colours(rows: list[dict[str, Any]]) -> alt.Color:
    """One colour for each variant that has rows."""
    return colours("variant", {variant: VARIANT_COLOURS[variant] for variant in present(rows)})


def inline(rows: list[dict[str, Any]]) -> alt.InlineData:
    """The rows as data inside the chart."""
    import altair as alt

    return alt.InlineData(values=rows)


def colours(field: str, palette: dict[str, str]) -> alt.Color:
    """The field's colours, with a legend above the chart."""
    import altair as alt

    return alt.Color(
        f"{field}:N",
        scale=alt.Scale(domain=list(palette), range=list(palette.values())),
        # Settings have long names: side by side they would not fit a phone.
        legend=alt.Legend(
            orient="top", title=None, labelLimit=0, columns=1 if field == "setting" else 3
        ),
    )


def wrapped_labels() -> alt.Axis:
    """An axis whose labels break at commas, so that a phone has room for the chart."""
    import altair as alt

    return alt.Axis(labelExpr="split(datum.label, ', ')", labelLimit=150, grid=True)


def three_decimals(field: str) -> alt.Tooltip:
    """The field with three decimals where the pointer rests."""
    import altair as alt

    return alt.Tooltip(f"{field}:Q", format=".3f")
