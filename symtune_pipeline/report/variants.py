"""Tables of an experiment's variants: each against the untuned model and against `tuned`, and over seeds.

Units: as in `tables`. They are for a page and for a terminal, and empty marts give none.
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
    setting_label,
    several_models,
    split_number,
    unbroken,
)

if TYPE_CHECKING:
    from great_tables import GT
    from rich.console import Console

VERSUS = ("untuned", "tuned")
OVER_SEEDS = "gain"  # the only interval of a gain in the mart


def html_tables(variants: pl.DataFrame, seeds: pl.DataFrame) -> dict[str, str]:
    """HTML of the page's tables `variants` and `seeds`, of choices that are not calibrated."""
    tables = {"variants": variants_table(raw(variants)), "seeds": seeds_table(raw(seeds))}
    return {name: as_html(name, table) for name, table in tables.items() if table is not None}


def print_variants(console: Console, variants: pl.DataFrame, seeds: pl.DataFrame) -> None:
    """Print a table a setting, of at most 80 columns, and what seeds have in common."""
    from rich.text import Text

    for setting, rows in by_setting(raw(variants)):
        table = plain_table(setting, ("accuracy", "over untuned", "over tuned"))
        for variant, pair in rows:
            gains = (gain_text(pair[name], OVER_DRAWS) if name in pair else "" for name in VERSUS)
            accuracy = fraction_text(pair["untuned"]["accuracy"])
            table.add_row(*map(Text, (variant, accuracy, *gains)))
        console.print("", table)
    for setting, of_recipes in grouped(raw(seeds)):
        table = plain_table(f"{setting}, over seeds", ("seeds", "accuracy", "points"))
        for row in of_recipes:
            figures = (row["recipe"], str(row["seeds"]), mean_text(row), gain_text(row, OVER_SEEDS))
            table.add_row(*map(Text, figures))
        console.print("", table)


def variants_table(variants: pl.DataFrame) -> GT | None:
    """Every variant's accuracy, and its gain over the untuned model and over `tuned`, by setting."""
    from great_tables import GT

    body = [
        {
            "setting": setting,
            "variant": variant,
            "n": f"{pair['untuned']['n']:,}",
            "accuracy": unbroken(accuracy_text(pair["untuned"])),
            **{
                column: unbroken(text(pair[name])) if name in pair else ""
                for name in VERSUS
                for column, text in (
                    (f"over {name}", lambda row: gain_text(row, OVER_DRAWS)),
                    (f"p, {name}", lambda row: p_text(row["p"])),
                )
            },
        }
        for setting, rows in by_setting(variants)
        for variant, pair in rows
    ]
    if not body:
        return None
    table = GT(pl.DataFrame(body), groupname_col="setting")
    return table.cols_align("right", list(body[0])[2:])


def seeds_table(seeds: pl.DataFrame) -> GT | None:
    """The mean over seeds, their spread, and the interval over seeds and draws, by setting."""
    from great_tables import GT

    body = [
        {
            "setting": setting,
            "variant": row["recipe"],
            "seeds": str(row["seeds"]),
            "n, each": f"{row['n']:,}",
            "accuracy": unbroken(mean_text(row)),
            "points": unbroken(gain_text(row, OVER_SEEDS)),
            "spread, points": f"{100 * row['gain_spread']:.1f}",
        }
        for setting, rows in grouped(seeds)
        for row in rows
    ]
    if not body:
        return None
    table = GT(pl.DataFrame(body), groupname_col="setting")
    return table.cols_align("right", list(body[0])[2:])


def raw(mart: pl.DataFrame) -> pl.DataFrame:
    """The rows of choices that are not calibrated."""
    return mart if mart.is_empty() else mart.filter(measure="accuracy")


def by_setting(variants: pl.DataFrame) -> Iterator[tuple[str, list[tuple[str, dict[str, Row]]]]]:
    """By setting, in the mart's order, its variants with the row of each comparison."""
    for setting, rows in grouped(variants):
        pairs: dict[str, dict[str, Row]] = {}
        for row in rows:
            pairs.setdefault(row["variant"], {})[row["versus"]] = row
        yield setting, list(pairs.items())


def grouped(mart: pl.DataFrame) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each setting in the mart's order, by model where there are several.

    Of a setting that is asked with several numbers of exemplars the smallest comes first.
    """
    several = not mart.is_empty() and several_models(mart)
    groups: dict[str, list[Row]] = {}
    for row in mart.iter_rows(named=True):
        label = setting_label(row["benchmark"], row["setting"])
        groups.setdefault(f"{row['model']}: {label}" if several else label, []).append(row)
    settings = [split_number(label)[0] for label in groups]
    yield from sorted(
        groups.items(),
        key=lambda group: (settings.index(split_number(group[0])[0]), split_number(group[0])[1]),
    )


def mean_text(row: Row) -> str:
    """The mean accuracy with its interval over seeds and draws, where it has one."""
    return fraction_text(row["accuracy"]) if row["low"] is None else accuracy_text(row)
