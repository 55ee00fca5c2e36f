"""Tables of the report: the mart rows of each variant side by side, for a terminal, a page and JSON.

It knows the marts' columns and the order in which a reader wants their rows. It knows nothing
about how a figure was computed, nor about where a table is put.

Units: accuracy, chance, ece, gain and the ends of intervals are fractions, as in the marts. Tables
show gains in percentage points.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.catalog.models import all_models
from symtune_pipeline.tables import BENCHMARKS, EXEMPLARS, SETTINGS, VARIANTS

if TYPE_CHECKING:
    from great_tables import GT
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

IN_CONTEXT = tuple(setting.name for setting in SETTINGS)
# The marts' two intervals of a gain: over queries, and over draws of exemplars.
OVER_QUERIES, OVER_DRAWS = "gain", "gain_cluster"

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One setting (of one dataset or category, where given) and the mart row of each variant."""

    model: str
    benchmark: str
    setting: str
    detail: str | None
    rows: dict[str, Row]

    @property
    def tuned(self) -> Row:
        """The row that carries gain and p; empty where the tuned variant was not measured."""
        return self.rows.get("tuned", {})

    @property
    def first(self) -> Row:
        """A row to read what all variants share: n and chance."""
        return next(iter(self.rows.values()))


def print_summary(console: Console, summary: pl.DataFrame) -> None:
    """Print the table that a run ends with, or the same in lines where the console is too narrow.

    `summary` has a row per model, benchmark, setting and variant.
    """
    from rich.measure import Measurement

    table = terminal_table(summary)
    wide = console.options.update(width=1_000)
    fits = Measurement.get(console, wide, table).maximum <= console.width
    for part in [table] if fits else terminal_lines(summary):
        console.print(part)


def terminal_lines(summary: pl.DataFrame) -> Iterator[Text]:
    """Three lines a setting, of at most 60 columns where there are two variants."""
    from rich.text import Text

    for model in models(summary):
        if several_models(summary):
            yield Text(model, style="bold underline")
        for pair in comparisons(summary.filter(pl.col("model") == model)):
            chance = fraction_text(pair.first["chance"])
            shared = f"n {pair.first['n']}" + (f", chance {chance}" if chance else "")
            found = [
                f"{variant} {accuracy_text(pair.rows[variant])}"
                for variant in VARIANTS
                if variant in pair.rows
            ]
            yield Text.assemble(
                (setting_label(pair.benchmark, pair.setting), "bold"), f"  {shared}"
            )
            yield Text(f"  {', '.join(found)}")
            if pair.tuned:
                gain, p = gain_text(pair.tuned, OVER_DRAWS), p_text(pair.tuned.get("p"))
                yield Text(f"  points {gain}" + (f", p {p}" if p else ""))


def terminal_table(summary: pl.DataFrame) -> Table:
    """One line a setting, in sections where models differ; 112 columns where there are two variants."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("setting")
    variants = [variant for variant in VARIANTS if variant in summary["variant"]]
    for name in ("n", *variants, "chance", "points", "p"):
        table.add_column(name, justify="right", no_wrap=True)

    for model in models(summary):
        if several_models(summary):
            table.add_section()
            table.add_row(Text(model, style="bold"))
        for pair in comparisons(summary.filter(pl.col("model") == model)):
            cells = (
                setting_label(pair.benchmark, pair.setting),
                str(pair.first["n"]),
                *(accuracy_text(pair.rows.get(variant)) for variant in variants),
                fraction_text(pair.first["chance"]),
                gain_text(pair.tuned, OVER_DRAWS),
                p_text(pair.tuned.get("p")),
            )
            table.add_row(*(Text(cell) for cell in cells))
    return table


def summary_records(summary: pl.DataFrame) -> list[Row]:
    """The records of summary.json: one per model, benchmark, setting and variant.

    Every record has model, benchmark, setting, variant, n, accuracy and its interval low and
    high, chance and ece; records of the tuned variant also have gain, its interval over draws of
    exemplars, and p. Figures are the mart's own, unrounded.
    """
    shared = ("model", "benchmark", "setting", "variant", "n", "accuracy", "low", "high")
    paired = ("gain", "gain_cluster_low", "gain_cluster_high", "p")
    return [
        {
            key: row[key]
            for key in (*shared, "chance", "ece", *(paired if row["variant"] == "tuned" else ()))
        }
        for row in in_order(summary).iter_rows(named=True)
    ]


def html_tables(
    *, summary: pl.DataFrame, icl: pl.DataFrame, algorithmic: pl.DataFrame, scaling: pl.DataFrame
) -> dict[str, str]:
    """HTML of the page's tables, escaped: `settings`, `scaling`, `sets` and `algorithmic`.

    A table whose mart is empty is left out, and `scaling` where there is one model only. The
    arguments are those of `write_report`.
    """
    tables = {
        "settings": settings_table(summary),
        "scaling": scaling_table(scaling),
        "sets": detail_table(icl, "dataset"),
        "algorithmic": detail_table(algorithmic, "category"),
    }
    return {name: as_html(name, table) for name, table in tables.items() if table is not None}


def settings_table(summary: pl.DataFrame) -> GT:
    """Every setting with its variants; grouped by model where there are several."""
    several = several_models(summary)
    rows = [
        (pair.model if several else None, setting_label(pair.benchmark, pair.setting), pair)
        for pair in comparisons(summary)
    ]
    return comparison_table(rows, "setting", OVER_DRAWS)


def detail_table(mart: pl.DataFrame, detail: str) -> GT | None:
    """Every dataset or category, grouped by setting; None where the mart has no row."""
    if mart.is_empty():
        return None
    several = several_models(mart)
    rows = []
    for pair in comparisons(mart, detail):
        label = setting_label(pair.benchmark, pair.setting)
        rows.append((f"{pair.model}: {label}" if several else label, str(pair.detail), pair))
    return comparison_table(rows, detail, OVER_DRAWS, OVER_QUERIES)


def scaling_table(scaling: pl.DataFrame) -> GT | None:
    """The models of each setting by size; None where there are not several."""
    from great_tables import GT

    if not several_models(scaling):
        return None
    variants = [variant for variant in VARIANTS if variant in scaling["variant"]]
    body = pl.DataFrame(
        [
            {
                "setting": setting_label(pair.benchmark, pair.setting),
                "model": pair.model,
                "GFLOPs per token": f"{pair.first['flops_per_token'] / 1e9:.3g}",
                **accuracies(pair, variants),
                "as good untuned": as_good_text(pair.tuned),
            }
            for pair in comparisons(scaling)
        ]
    )
    table = GT(body, groupname_col="setting")  # which gathers the rows of a setting
    return table.cols_align("right", ["GFLOPs per token", *variants])


def comparison_table(
    rows: Sequence[tuple[str | None, str, Comparison]], first_column: str, *intervals: str
) -> GT:
    """Rows of (group or None, name, comparison) as a table with a column for each variant present.

    `intervals` says which of the gain's is shown: the first that the mart has.
    """
    from great_tables import GT

    figures = ("n", *VARIANTS, "chance", "points", "p", "p, Holm", "ECE")
    body = pl.DataFrame(
        [
            {
                "group": group,
                first_column: name,
                "n": counts_text(row["n"] for row in shown(pair)),
                **accuracies(pair, VARIANTS),
                "chance": fraction_text(pair.first["chance"]),
                "points": unbroken(gain_text(pair.tuned, *intervals)),
                "p": p_text(pair.tuned.get("p")),
                "p, Holm": p_text(pair.tuned.get("p_holm")),
                "ECE": calibration_text(pair),
            }
            for group, name, pair in rows
        ]
    )
    # Most algorithmic tables have no chance, and a single model no group: no empty columns.
    body = body.select(name for name in body.columns if body[name].fill_null("").ne("").any())
    table = GT(body, groupname_col="group" if "group" in body.columns else None)
    return table.cols_align("right", [name for name in body.columns if name in figures])


def shown(pair: Comparison) -> list[Row]:
    """The rows of a comparison that a table has a column for, in the order of the columns."""
    return [pair.rows[variant] for variant in VARIANTS if variant in pair.rows]


def accuracies(pair: Comparison, variants: Sequence[str]) -> dict[str, str]:
    """The cells of accuracy by variant; empty where a variant was not measured."""
    return {variant: unbroken(accuracy_text(pair.rows.get(variant))) for variant in variants}


def as_html(name: str, table: GT) -> str:
    """The table as HTML, always with the same bytes."""
    # A fixed id: the library would draw a random one, and equal inputs must give equal bytes.
    html: str = table.with_id(f"table-{name}").as_raw_html()
    return html


def comparisons(mart: pl.DataFrame, detail: str | None = None) -> list[Comparison]:
    """The mart's rows gathered by setting (and by the column `detail`), in reading order."""
    gathered: dict[tuple[str, str, str, str | None], dict[str, Row]] = {}
    for row in in_order(mart, detail).iter_rows(named=True):
        key = (row["model"], row["benchmark"], row["setting"], row[detail] if detail else None)
        gathered.setdefault(key, {})[row["variant"]] = row
    return [Comparison(*key, rows) for key, rows in gathered.items()]


def in_order(mart: pl.DataFrame, detail: str | None = None) -> pl.DataFrame:
    """The mart sorted as a reader wants it, small models first, whatever order its rows came in."""
    without, number = (
        pl.col("setting").str.replace(EXEMPLARS, ""),
        pl.col("setting").str.extract(EXEMPLARS),
    )
    return mart.sort(
        rank("model", tuple(all_models())),
        "model",
        rank("benchmark", tuple(BENCHMARKS)),
        rank(without, IN_CONTEXT),
        without,
        number.cast(pl.Int64),
        *([detail] if detail else []),
        rank("variant", VARIANTS),
    )


def rank(column: str | pl.Expr, known: Sequence[str]) -> pl.Expr:
    """The position of the column's values in `known`; what is not there comes last."""
    positions = {name: position for position, name in enumerate(known)}
    values = pl.col(column) if isinstance(column, str) else column
    return values.replace_strict(positions, default=len(known), return_dtype=pl.Int64)


def models(mart: pl.DataFrame) -> list[str]:
    """The models present, small models first."""
    return in_order(mart)["model"].unique(maintain_order=True).to_list()


def several_models(mart: pl.DataFrame) -> bool:
    """Whether rows must say which model they are about."""
    return not mart.is_empty() and mart["model"].n_unique() > 1


def split_number(setting: str) -> tuple[str, int]:
    """The setting without its number of exemplars, and that number: 0 where only one is asked."""
    found = re.search(EXEMPLARS, setting)
    return (setting[: found.start()], int(found[1])) if found else (setting, 0)


def setting_label(benchmark: str, setting: str) -> str:
    """What a reader calls the setting; in-context settings name themselves."""
    if split_number(setting)[0] in IN_CONTEXT:
        return setting
    title = BENCHMARKS[benchmark].title if benchmark in BENCHMARKS else benchmark
    return f"{title}, {setting}"


def accuracy_text(row: Row | None) -> str:
    """Accuracy with its 95% interval, as `0.52 [0.47, 0.57]`; empty where there is no row."""
    if row is None or row["accuracy"] is None:
        return ""
    return f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def counts_text(counts: Iterable[int]) -> str:
    """One number where all variants share it, else each one's, as `21 / 25`."""
    shown = [f"{count:,}" for count in counts]
    return " / ".join(shown if len(set(shown)) > 1 else shown[:1])


def gain_text(row: Row, *intervals: str) -> str:
    """The gain in points, with the first of these intervals of it that the mart has."""
    for interval in intervals:
        low, high = (row.get(f"{interval}_{end}") for end in ("low", "high"))
        if low is not None and high is not None:
            return f"{points_text(row['gain'])} [{points_text(low)}, {points_text(high)}]"
    return points_text(row.get("gain"))


def as_good_text(tuned: Row) -> str:
    """The smallest untuned model that is as accurate and its cost, as `smollm2-360m (2.7x FLOPs)`.

    Empty where the mart compares none, because not all labels are flipped.
    """
    if not tuned or tuned["flipped_percent"] not in (None, 100):
        return ""
    if tuned["as_good_untuned"] is None:
        return "none"
    return f"{tuned['as_good_untuned']} ({tuned['as_good_flops']:.2g}x FLOPs)"


def calibration_text(pair: Comparison) -> str:
    """The expected calibration error of the variants present, as `0.19 → 0.11`."""
    errors = [pair.rows[variant].get("ece") for variant in VARIANTS if variant in pair.rows]
    return " → ".join(fraction_text(error) for error in errors if error is not None)


def unbroken(text: str) -> str:
    """The text with every [interval] and `p = …` kept on one line by a page, however narrow."""
    whole = r"\[[^]]*\]|\b[np] [=<] [\d.]+"
    return re.sub(whole, lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def points_text(gain: float | None) -> str:
    """A fraction as signed percentage points, as `+9.1`."""
    # Adding 0.0 turns a rounded -0.0 into 0.0, which would otherwise read as a loss.
    return "" if gain is None else f"{round(100 * gain, 1) + 0.0:+.1f}"


def fraction_text(fraction: float | None) -> str:
    """A fraction with two decimals; empty where it does not apply."""
    return "" if fraction is None else f"{fraction:.2f}"


def p_text(p: float | None) -> str:
    """A p value with three decimals, or `<0.001`; empty where no test was made."""
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def p_relation(p: float | None) -> str:
    """A p value as the end of a sentence: `= 0.003`, `< 0.001` or `unknown`."""
    if p is None:
        return "unknown"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
