"""Tables of what stands behind a gain, for a terminal and a page.

Whether it stays where the labels are calibrated, what choices follow where labels are flipped, and what
tuning has cost of plain language. It knows the marts' columns, and nothing about how a figure was computed.

Units: losses are in nats a token; all else as in `tables`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import polars as pl

from symtune_pipeline.report.tables import (
    OVER_DRAWS,
    Comparison,
    Row,
    accuracy_text,
    as_html,
    comparison_table,
    comparisons,
    counts_text,
    fraction_text,
    gain_text,
    in_order,
    models,
    p_text,
    setting_label,
    several_models,
    shown,
    unbroken,
)
from symtune_pipeline.tables import EXEMPLARS, VARIANTS

if TYPE_CHECKING:
    from great_tables import GT
    from rich.console import Console
    from rich.table import Table

CHOICES: Final = ("raw", "calibrated", "channel")
TITLES: Final = {"calibrated": "labels calibrated", "channel": "query after each label"}
FOLLOWED: Final = {
    "truth": "follow the true label",
    "prior": "follow the zero-shot choice",
    "prompt": "follow the flipped label",
    "override": "override rate",
    "zero-shot": "zero-shot choice is true",
}
SETS: Final = {"all": "all datasets", "two labels": "two labels"}

Line = tuple[str, Comparison]


def print_robustness(
    console: Console, calibrated: pl.DataFrame, alignment: pl.DataFrame, language: pl.DataFrame
) -> None:
    """Print what stands behind a summary, in tables of at most 80 columns where there are two variants.

    The arguments are the marts of these names. What is empty is left out.
    """
    for model in models(calibrated):
        title = f"{model}: " if several_models(calibrated) else ""
        of_model = calibrated.filter(pl.col("model") == model)
        for choice, name in TITLES.items():
            pairs = over_all_sets(of_model.filter(choice=choice))
            lines = [(setting_label(pair.benchmark, pair.setting), pair) for pair in pairs]
            if lines:
                console.print("", share_lines(f"{title}{name}", lines))
        for (sets, setting), pairs in followed(alignment.filter(pl.col("model") == model)):
            lines = [(FOLLOWED[str(pair.detail)], pair) for pair in pairs]
            console.print("", share_lines(f"{title}{setting}, {SETS[sets]}", lines))
    if not language.is_empty():
        console.print("", loss_lines(language.filter(pl.col("dataset").is_null())))


def share_lines(title: str, lines: list[Line]) -> Table:
    """A line a name, with the share of each variant and the gain with its interval over draws."""
    from rich.text import Text

    variants = [name for name in VARIANTS if any(name in pair.rows for _, pair in lines)]
    table = plain_table(title, ("n", *variants, "points", "p"))
    for name, pair in lines:
        shares = (fraction_text(pair.rows.get(key, {}).get("accuracy")) for key in variants)
        gain, p = gain_text(pair.tuned, OVER_DRAWS), p_text(pair.tuned.get("p"))
        n = counts_text(row["n"] for row in shown(pair))
        table.add_row(*map(Text, (name, n, *shares, gain, p)))
    return table


def loss_lines(language: pl.DataFrame) -> Table:
    """A line a model, with the loss of each variant and the change with its interval over texts."""
    from rich.text import Text

    variants = [name for name in VARIANTS if name in language["variant"]]
    table = plain_table("plain texts, nats per token", ("tokens", *variants, "change"))
    for row in losses(language):
        values = (row[name].split(" ")[0] for name in variants)
        table.add_row(*map(Text, (row["model"], row["tokens"], *values, row["change"])))
    return table


def plain_table(title: str, figures: Sequence[str]) -> Table:
    """An empty table as a terminal shows it: a name, then figures on the right; text is no markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(Text(title))
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def html_tables(
    *, calibrated: pl.DataFrame, alignment: pl.DataFrame, language: pl.DataFrame
) -> dict[str, str]:
    """HTML of the page's tables `calibrated`, `alignment` and `language`; an empty one is left out."""
    several = several_models(calibrated)
    tables = {
        "calibrated": calibrated_table(calibrated, several),
        "alignment": alignment_table(alignment, several),
        "language": language_table(language),
    }
    return {name: as_html(name, table) for name, table in tables.items() if table is not None}


def calibrated_table(mart: pl.DataFrame, several: bool) -> GT | None:
    """Every setting with its labels ranked as they are, calibrated, and by channel where it was asked."""
    rows = [
        (
            (f"{pair.model}: " if several else "") + setting_label(pair.benchmark, pair.setting),
            str(pair.detail),
            pair,
        )
        for pair in over_all_sets(mart)
    ]
    return comparison_table(rows, "labels", OVER_DRAWS) if rows else None


def alignment_table(mart: pl.DataFrame, several: bool) -> GT | None:
    """What choices follow at each share of flipped labels, over all sets and over those with two labels."""
    rows = [
        (
            (f"{pair.model}: " if several else "") + f"{setting}, {SETS[sets]}",
            FOLLOWED[str(pair.detail)],
            pair,
        )
        for (sets, setting), pairs in followed(mart)
        for pair in pairs
    ]
    return comparison_table(rows, "choices", OVER_DRAWS) if rows else None


def language_table(mart: pl.DataFrame) -> GT | None:
    """The loss of each variant, over all sets and set by set."""
    from great_tables import GT

    if mart.is_empty():
        return None
    several = several_models(mart)
    body = pl.DataFrame(
        [
            {
                **({"model": row["model"]} if several else {}),
                "dataset": row["dataset"] or "all datasets",
                "tokens": row["tokens"],
                **{name: unbroken(row[name]) for name in VARIANTS if name in mart["variant"]},
                "change": unbroken(row["change"]),
            }
            for row in losses(mart)
        ],
        infer_schema_length=None,
    )
    table = GT(body, groupname_col="model" if several else None)
    return table.cols_align("right", [n for n in body.columns if n not in ("model", "dataset")])


def over_all_sets(calibrated: pl.DataFrame) -> list[Comparison]:
    """The rows over all sets by setting and choice, raw ones first."""
    ordered = pl.col("choice").cast(pl.Enum(CHOICES))
    return comparisons(
        calibrated.filter(pl.col("dataset").is_null()).with_columns(ordered), "choice"
    )


def followed(alignment: pl.DataFrame) -> Iterator[tuple[tuple[str, str], list[Comparison]]]:
    """By sets and setting, a comparison for each of `FOLLOWED`; shares stand where accuracies do."""
    shares = alignment.with_columns(
        pl.col("measure").cast(pl.Enum(list(FOLLOWED))),
        pl.col("share").alias("accuracy"),
    ).sort(
        "flipped_percent",
        pl.col("setting").str.extract(EXEMPLARS).cast(pl.Int64),
        maintain_order=True,
    )
    for setting in shares["setting"].unique(maintain_order=True):
        for sets in SETS:
            rows = shares.filter(pl.col("setting") == setting, pl.col("sets") == sets)
            for model in models(rows) if not rows.is_empty() else []:
                of_model = rows.filter(pl.col("model") == model)
                yield (sets, setting), comparisons(of_model, "measure")


def losses(language: pl.DataFrame) -> Iterator[Row]:
    """By model and set (all of them first) the tokens, each variant's loss, and the change, as text."""
    if language.is_empty():
        return
    ordered = in_order(language.with_columns(benchmark=pl.lit(""), setting=pl.lit("")), "dataset")
    keys = ["model", "dataset"]
    for (model, dataset), rows in ordered.group_by(keys, maintain_order=True):
        by_variant = {row["variant"]: row for row in rows.iter_rows(named=True)}
        yield {
            "model": model,
            "dataset": dataset,
            "tokens": counts_text(
                by_variant[name]["tokens"] for name in VARIANTS if name in by_variant
            ),
            **{name: loss_text(by_variant.get(name), "loss", "") for name in VARIANTS},
            "change": loss_text(by_variant.get("tuned"), "change", "+"),
        }


def choice_text(row: Row, choice: str) -> str:
    """As `accuracy_text`, of calibrated or channel choices; empty for what has none."""
    figures = {"accuracy": choice, "low": f"{choice}_low", "high": f"{choice}_high"}
    return accuracy_text({name: row[column] for name, column in figures.items()})


def loss_text(row: Row | None, figure: str, sign: str) -> str:
    """A loss with its interval, as `3.412 [3.301, 3.520]`; a change has its sign."""
    value = None if row is None else row[figure]
    if row is None or value is None:
        return ""
    low, high = ("low", "high") if figure == "loss" else (f"{figure}_low", f"{figure}_high")
    if row[low] is None:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} [{row[low]:{sign}.3f}, {row[high]:{sign}.3f}]"
