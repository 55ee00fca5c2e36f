"""Writes the tables of docs/results.md and of the README from the outcomes that are kept of experiments.

A table stands between `<!-- results: <experiment> <table> -->` and `<!-- end -->`; names of datasets, with
commas between them, may follow the table's. All else in the page stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from benchmarks.common import ROOT
from benchmarks.kept import Kept, read
from symtune_pipeline.report.compared import DRAWS
from symtune_pipeline.report.tables import (
    OVER_DRAWS,
    Row,
    accuracy_text,
    comparisons,
    fraction_text,
    gain_text,
    p_text,
    rank,
    setting_label,
)
from symtune_pipeline.report.variants import OVER_SEEDS, by_setting, mean_text
from symtune_pipeline.sql.engine import run_model
from symtune_pipeline.sql.model import load_models
from symtune_pipeline.sql.statistics import (
    cluster_high,
    cluster_low,
    crossed_high,
    crossed_low,
    wilson_high,
    wilson_low,
)
from symtune_pipeline.tables import BENCHMARKS, SETTINGS, SOURCES

PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
PLACE = re.compile(
    r"(<!-- results: ([\w-]+) (\w+)(?: ([\w,]+))? -->\n).*?(<!-- end -->)", re.DOTALL
)
WILSON = (wilson_low, wilson_high)
MEASURES = {"accuracy": "", "calibrated": ", calibrated"}


def main() -> None:
    """Write every table anew, and say where."""
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")


def with_tables(page: str) -> str:
    """The page with its tables made anew."""

    def table(place: re.Match[str]) -> str:
        head, name, kind, datasets, end = place.groups()
        kept = read(name)
        if datasets:
            kept = replace(kept, outcomes=of_datasets(kept.outcomes, datasets.split(",")))
        return f"{head}{TABLES[kind](kept)}\n{end}"

    return PLACE.sub(table, page)


def seeds(kept: Kept) -> str:
    """A line a setting: the mean over seeds beside the untuned model, and the gain's interval."""
    untuned = untuned_rows(kept)
    lines = [
        (
            setting_label(row["benchmark"], row["setting"]) + MEASURES[row["measure"]],
            f"{row['n']:,}",
            accuracy_text(untuned[row["benchmark"], row["setting"], row["measure"]]),
            mean_text(row),
            gain_text(row, OVER_SEEDS),
            f"{100 * row['gain_spread']:.1f}",
        )
        for row in in_order(mart("mart_seeds", kept)).iter_rows(named=True)
    ]
    heads = ("setting", "n", "untuned", "tuned, mean", "points", "spread of seeds")
    return markdown(heads, lines)


def of_datasets(outcomes: pl.DataFrame, datasets: Sequence[str]) -> pl.DataFrame:
    """The outcomes on these datasets; algorithmic benchmarks have none, and are left out."""
    return outcomes.filter(pl.col("dataset").is_in(datasets))


def headline(kept: Kept) -> str:
    """A line a setting: untuned, the mean over seeds, and the gains of raw and of calibrated choices."""
    untuned = untuned_rows(kept)
    rows = in_order(mart("mart_seeds", kept)).to_dicts()
    calibrated = {
        (row["benchmark"], row["setting"]): gain_text(row, OVER_SEEDS)
        for row in rows
        if row["measure"] == "calibrated"
    }
    lines = [
        (
            setting_label(*of),
            f"{row['n']:,}",
            fraction_text(untuned[*of, "accuracy"]["chance"]),
            fraction_text(untuned[*of, "accuracy"]["accuracy"]),
            fraction_text(row["accuracy"]),
            gain_text(row, OVER_SEEDS),
            calibrated.get(of, ""),
        )
        for row in rows
        if row["measure"] == "accuracy"
        for of in [(row["benchmark"], row["setting"])]
    ]
    heads = ("setting", "n", "chance", "untuned", "tuned, mean", "points", "points, calibrated")
    return markdown(heads, lines)


def variants(kept: Kept) -> str:
    """A line a setting and variant: accuracy, and the gains over the untuned model and over `tuned`."""
    rows = in_order(mart("mart_variants", kept).filter(measure="accuracy"))
    lines = [
        (
            setting,
            variant,
            f"{pair['untuned']['n']:,}",
            accuracy_text(pair["untuned"]),
            *versus(pair["untuned"]),
            *(versus(pair["tuned"]) if "tuned" in pair else ("", "")),
        )
        for setting, pairs in by_setting(rows)
        for variant, pair in pairs
    ]
    return markdown(
        ("setting", "variant", "n", "accuracy", "over untuned", "p", "over tuned", "p"), lines
    )


def versus(row: Row) -> tuple[str, str]:
    """A gain with its interval over draws, and the p of the paired test."""
    return gain_text(row, OVER_DRAWS), p_text(row["p"])


def untuned_rows(kept: Kept) -> dict[tuple[str, str, str], Row]:
    """The untuned model's accuracy and its Wilson interval, by benchmark, setting and measure."""
    rows = mart("mart_untuned", kept).iter_rows(named=True)
    return {(row["benchmark"], row["setting"], row["measure"]): row for row in rows}


def datasets(kept: Kept) -> str:
    """A line a dataset: the first model untuned, and the mean over all seeds of the recipe `tuned`.

    Shows the settings without an instruction.
    """
    names = [name for name, recipe in kept.facts["recipes"].items() if recipe == "tuned"]
    model = next(iter(kept.facts["cost"]))
    asked = kept.outcomes.filter(benchmark="icl", measure="accuracy", model=model)
    shown = [setting.name for setting in SETTINGS if not setting.instructed]
    lines = []
    for (dataset,), rows in asked.group_by("dataset", maintain_order=True):
        cells = [str(dataset), f"{rows['chance'].mean():.2f}"]
        for setting in shown:
            of_setting = rows.filter(setting=setting)
            cells += _dataset_cells(of_setting, names)
        lines.append(cells)
    heads = ["dataset", "chance", *(head for name in shown for head in (name, "points"))]
    return markdown(heads, sorted(lines))


def _dataset_cells(rows: pl.DataFrame, variants: Sequence[str]) -> tuple[str, str]:
    untuned = rows.filter(variant="untuned")
    draws = []
    for name in variants:
        pairs = rows.filter(variant=name).join(untuned, on=("context", "query"), suffix="_untuned")
        more = pl.col("correct").cast(pl.Int64) - pl.col("correct_untuned").cast(pl.Int64)
        draws.append(pairs.group_by("context").agg(more=more.sum(), n=pl.len()).sort("context"))
    parts, wholes = pl.concat(draws)["more"].to_list(), pl.concat(draws)["n"].to_list()
    ends = {}
    if len(draws[0]) >= DRAWS:
        ends = {
            f"{OVER_SEEDS}_low": crossed_low(parts, wholes, len(variants)),
            f"{OVER_SEEDS}_high": crossed_high(parts, wholes, len(variants)),
        }
    after = rows.filter(pl.col("variant").is_in(variants))["correct"].mean()
    before = untuned["correct"].mean()
    gain = gain_text({"gain": sum(parts) / sum(wholes), **ends}, OVER_SEEDS)
    return f"{fraction_text(before)} → {fraction_text(after)}", gain


def models(kept: Kept) -> str:
    """A line a setting, and by model the accuracy before and after, and the gain."""
    names = list(kept.facts["cost"])
    scores = mart("int_scores", kept).filter(level="all")
    lines: dict[str, list[str]] = {}
    for measure, words in MEASURES.items():
        for pair in comparisons(scores.filter(measure=measure)):
            label = (
                f"{setting_label(pair.benchmark, pair.setting)}{words} (n = {pair.first['n']:,})"
            )
            before, after = (pair.rows[name]["accuracy"] for name in ("untuned", "tuned"))
            cells = (f"{before:.2f} → {after:.2f}", gain_text(pair.tuned, OVER_DRAWS))
            lines.setdefault(label, [label]).extend(cells)
    heads = ["setting", *(head for name in names for head in (name, "points"))]
    return markdown(heads, lines.values())


def language(kept: Kept) -> str:
    """A line a model and variant: the loss of plain language, in nats a token, and what it rose by."""
    losses = kept.language.filter(pl.col("tokens") > 0)
    lines = []
    for (model, variant), rows in losses.group_by("model", "variant", maintain_order=True):
        untuned = losses.filter(model=model, variant="untuned")
        pairs = rows.join(untuned, on="example", suffix="_untuned")
        more = (pairs["nats"] - pairs["nats_untuned"]).to_list()
        tokens = pairs["tokens"].cast(pl.Float64).to_list()
        low, high = cluster_low(more, tokens), cluster_high(more, tokens)
        change = f"{sum(more) / sum(tokens):+.3f} [{low:+.3f}, {high:+.3f}]"
        loss = f"{rows['nats'].sum() / rows['tokens'].sum():.3f}"
        shown = "" if variant == "untuned" else change
        lines.append((str(model), str(variant), f"{len(rows):,}", loss, shown))
    return markdown(("model", "variant", "texts", "nats a token", "change"), lines)


def cost(kept: Kept) -> str:
    """A line a model and variant: what its tuning took."""
    lines = [
        (
            model,
            name,
            f"{of['tokens']:,}",
            f"{of['steps']:,}",
            f"{of['seconds'] // 60} min {of['seconds'] % 60} s",
        )
        for model, of_model in kept.facts["cost"].items()
        for name, of in of_model.items()
    ]
    return markdown(("model", "variant", "tokens", "steps", "time of tuning"), lines)


TABLES: Mapping[str, Callable[[Kept], str]] = {
    each.__name__: each for each in (headline, seeds, variants, datasets, models, language, cost)
}


def mart(name: str, kept: Kept) -> pl.DataFrame:
    """A mart over what is kept; `mart_untuned` is the untuned model's accuracy by setting."""
    tables = {"int_outcomes": kept.outcomes, "catalog_variants": kept.variants}
    if name == "mart_untuned":
        keys = ("benchmark", "setting", "measure")
        rows = kept.outcomes.filter(variant="untuned").group_by(*keys)
        chance = pl.col("chance").mean()
        return _with_wilson(rows.agg(n=pl.len(), correct=pl.col("correct").sum(), chance=chance))
    sql = load_models(ROOT / "dbt_like_sql", SOURCES)[name]
    with TemporaryDirectory() as folder:
        out = Path(folder) / "mart.parquet"
        run_model(sql, {table: tables[table] for table in sql.depends_on}, {}, out)
        return pl.read_parquet(out)


def _with_wilson(counts: pl.DataFrame) -> pl.DataFrame:
    ends = [
        (row["correct"] / row["n"], *(end(row["correct"], row["n"]) for end in WILSON))
        for row in counts.iter_rows(named=True)
    ]
    return counts.hstack(pl.DataFrame(ends, schema=["accuracy", "low", "high"], orient="row"))


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows in reading order: by benchmark, setting and measure."""
    return rows.sort(
        rank("benchmark", tuple(BENCHMARKS)),
        rank("setting", tuple(setting.name for setting in SETTINGS)),
        "setting",
        rank("measure", tuple(MEASURES)),
        maintain_order=True,
    )


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: texts to the left in the first column, figures to the right."""
    rules = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *lines))


if __name__ == "__main__":
    main()
