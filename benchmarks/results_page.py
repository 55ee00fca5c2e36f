"""Writes the tables and charts of docs/results.md and of the README from the kept outcomes of experiments.

A table stands between `<!-- results: <experiment> <table> -->` and `<!-- end -->`. What it is about may
follow its name, in the words of `only`: `datasets=agn,trec`, `k=4` (exemplars of each class). All else in the
page stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from benchmarks import exemplars as of_exemplars
from benchmarks import law as of_law
from benchmarks.common import ROOT
from benchmarks.exemplars import by_exemplars
from benchmarks.kept import Kept, read
from benchmarks.law import TITLES, Varied, measured_at
from benchmarks.marts import MEASURES, Measure, in_order, mart, only, seeds_of_recipes, untuned_rows
from symtune_pipeline.report.tables import (
    OVER_DRAWS,
    Row,
    accuracy_text,
    comparisons,
    fraction_text,
    gain_text,
    p_text,
    points_text,
    setting_label,
)
from symtune_pipeline.report.variants import OVER_SEEDS, by_setting
from symtune_pipeline.sql.statistics import crossed_high, crossed_low
from symtune_pipeline.tables import SETTINGS

if TYPE_CHECKING:
    import altair as alt

PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
LAW = "docs/images/law_{}.svg"
EXEMPLARS = "docs/images/real_by_exemplars.svg"
PLACE = re.compile(
    r"(<!-- results: ([\w-]+) (\w+)((?: \w+=[\w,.-]+)*) -->\n).*?(<!-- end -->)", re.DOTALL
)


def main() -> None:
    """Write every table and chart anew, and say where."""
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")
    for path, chart in charts():
        chart.save(ROOT / path)
        print(f"wrote {path}")


def charts() -> Iterator[tuple[str, alt.FacetChart]]:
    """The charts of the pages, each with its path."""
    kept = read("law")
    rows = gains_of_recipes(kept, "accuracy")
    for varied in TITLES:
        yield LAW.format(varied), of_law.chart(rows, measured_at(kept, varied), varied)
    yield EXEMPLARS, of_exemplars.chart(by_exemplars(read("generated-to-real")))


def with_tables(page: str) -> str:
    """The page with its tables made anew."""

    def table(place: re.Match[str]) -> str:
        head, name, kind, about, end = place.groups()
        kept = only(read(name), **dict(each.split("=") for each in about.split()))
        return f"{head}{TABLES[kind](kept)}\n{end}"

    return PLACE.sub(table, page)


def headline(kept: Kept) -> str:
    """A line a setting: untuned, the mean over the seeds of `tuned`, and the gains, raw and calibrated."""
    untuned = untuned_rows(kept)
    rows = in_order(mart("mart_seeds", kept).filter(recipe="tuned")).to_dicts()
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


def dataset_means(kept: Kept) -> str:
    """A line a setting, as in `headline`, of means in which every dataset counts alike."""
    seeds = seeds_of_recipes(kept)["tuned"]
    untuned = ["untuned"] * len(seeds)
    asked = in_order(kept.outcomes.filter(pl.col("variant").is_in(["untuned", *seeds])))
    weight = 1 / pl.len().over("measure", "variant", "dataset")
    lines = []
    for (benchmark, setting), rows in asked.group_by("benchmark", "setting", maintain_order=True):
        of = dict(iter(rows.with_columns(weight=weight).group_by("measure")))
        raw, calibrated = (_difference(of[measure,], seeds, untuned) for measure in MEASURES)
        before = of["accuracy",].filter(variant="untuned")
        accuracy, chance = (
            (before[name] * before["weight"]).sum() / before["weight"].sum()
            for name in ("correct", "chance")
        )
        shares = map(fraction_text, (chance, accuracy, accuracy + raw["gain"]))
        gains = (gain_text(each, OVER_SEEDS) for each in (raw, calibrated))
        lines.append((setting_label(str(benchmark), str(setting)), *shares, *gains))
    heads = ("setting", "chance", "untuned", "tuned, mean", "points", "points, calibrated")
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


def recipes(kept: Kept) -> str:
    """A line a setting: the mean over seeds of two recipes, and how far the first is above the second.

    The n-th seeds of both are compared on the same queries, and stand by themselves in the last column.
    The interval is over seeds and draws.
    """
    seeds = seeds_of_recipes(kept)
    untuned, lines = untuned_rows(kept), []
    asked = in_order(kept.outcomes.filter(measure="accuracy"))
    for (benchmark, setting), rows in asked.group_by("benchmark", "setting", maintain_order=True):
        means = [
            pl.Series([rows.filter(variant=each)["correct"].mean() for each in of_recipe]).mean()
            for of_recipe in seeds.values()
        ]
        n = rows.filter(variant="untuned").height
        before = untuned[str(benchmark), str(setting), "accuracy"]["accuracy"]
        shares = (fraction_text(share) for share in (before, *means))
        difference = _difference(rows, *seeds.values())
        points = gain_text(difference, OVER_SEEDS), ", ".join(map(points_text, difference["seeds"]))
        lines.append((setting_label(str(benchmark), str(setting)), f"{n:,}", *shares, *points))
    compared = f"points, {' over '.join(seeds)}"
    return markdown(("setting", "n", "untuned", *seeds, compared, "by seed"), lines)


def _difference(rows: pl.DataFrame, first: Sequence[str], second: Sequence[str]) -> Row:
    """The mean over seeds of the first variants' accuracy minus the second's, with its interval.

    A query counts by its `weight`, where the rows have that column.
    """
    if "weight" not in rows.columns:
        rows = rows.with_columns(weight=1.0)
    more = pl.col("correct").cast(float) - pl.col("correct_second").cast(float)
    query, draw = ["dataset", "context", "query"], ["dataset", "context"]
    cells = [
        rows.filter(variant=left)
        .join(rows.filter(variant=right), on=query, suffix="_second")
        .group_by(draw)
        .agg(n=pl.col("weight").sum(), more=(more * pl.col("weight")).sum())
        .sort(draw)
        for left, right in zip(first, second, strict=True)
    ]
    ahead, n = ([float(v) for cell in cells for v in cell[name]] for name in ("more", "n"))
    gains = [sum(cell["more"]) / sum(cell["n"]) for cell in cells]
    return {
        "seeds": gains,
        "gain": sum(gains) / len(gains),
        "gain_low": crossed_low(ahead, n, len(cells)),
        "gain_high": crossed_high(ahead, n, len(cells)),
    }


def over_tuned(kept: Kept) -> str:
    """A line a recipe, and by setting how far the mean over its seeds is above that of `tuned`.

    The n-th seeds of both are compared on the same queries. A recipe with fewer seeds is left out.
    """
    seeds = seeds_of_recipes(kept)
    tuned = seeds.pop("tuned")
    asked = in_order(kept.outcomes.filter(measure="accuracy"))
    settings = dict(iter(asked.group_by("benchmark", "setting", maintain_order=True)))
    lines = [
        (
            recipe,
            *(
                gain_text(_difference(rows, variants, tuned), OVER_SEEDS)
                for rows in settings.values()
            ),
        )
        for recipe, variants in seeds.items()
        if len(variants) == len(tuned)
    ]
    labels = (setting_label(str(benchmark), str(setting)) for benchmark, setting in settings)
    return markdown(("variant", *labels), lines)


def tokens(kept: Kept) -> str:
    """A line a number of tokens of tuning: the gain over the untuned model in every setting."""
    return law(kept, "tokens", "accuracy")


def tokens_calibrated(kept: Kept) -> str:
    """As `tokens`, of calibrated choices."""
    return law(kept, "tokens", "calibrated")


def sets(kept: Kept) -> str:
    """A line a number of tuning sets: the gain over the untuned model in every setting."""
    return law(kept, "sets", "accuracy")


def law(kept: Kept, varied: Varied, measure: Measure) -> str:
    """Gains with their intervals, by what varies."""
    cells: dict[str, dict[str, str]] = {}
    for row in gains_of_recipes(kept, measure):
        label = setting_label(row["benchmark"], row["setting"])
        cells.setdefault(row["recipe"], {})[label] = gain_text(row, OVER_SEEDS)
    count = {recipe: len(each) for recipe, each in seeds_of_recipes(kept).items()}
    lines = [
        (f"{at:,}", str(count[name]), *cells[name].values())
        for at, name in measured_at(kept, varied)
    ]
    return markdown((TITLES[varied], "seeds", *cells["tuned"]), lines)


def gains_of_recipes(kept: Kept, measure: Measure) -> list[Row]:
    """By setting and recipe the gain over the untuned model, with its interval.

    That is the mean over seeds with an interval over seeds and draws; of one seed it is over draws.
    """
    several = mart("mart_seeds", kept).filter(measure=measure)
    alone = (
        mart("mart_variants", kept)
        .filter(measure=measure, versus="untuned")
        .with_columns(
            recipe=pl.col("variant"),
            gain_low=pl.col(f"{OVER_DRAWS}_low"),
            gain_high=pl.col(f"{OVER_DRAWS}_high"),
        )
        .filter(
            pl.col("recipe").is_in(
                [recipe for recipe, each in seeds_of_recipes(kept).items() if len(each) == 1]
            )
        )
    )
    columns = ["benchmark", "setting", "measure", "recipe", "gain", "gain_low", "gain_high"]
    return in_order(pl.concat([several.select(columns), alone.select(columns)])).to_dicts()


def datasets(kept: Kept) -> str:
    """A line a dataset: untuned, and the mean over the seeds of `tuned`, without an instruction."""
    shown = [setting.name for setting in SETTINGS if not setting.instructed]
    asked = kept.outcomes.filter(pl.col("setting").is_in(shown), measure="accuracy")
    lines = []
    for name in sorted(asked["dataset"].unique()):
        own = only(replace(kept, outcomes=asked), datasets=name)
        untuned, over_seeds = untuned_rows(own), mart("mart_seeds", own).filter(recipe="tuned")
        lines.append([name])
        for setting in shown:
            before = untuned["icl", setting, "accuracy"]
            (after,) = over_seeds.filter(setting=setting).to_dicts()
            if setting == shown[0]:
                lines[-1].append(fraction_text(before["chance"]))
            accuracies = (fraction_text(row["accuracy"]) for row in (before, after))
            lines[-1] += [" → ".join(accuracies), gain_text(after, OVER_SEEDS)]
    heads = ["dataset", "chance", *(head for name in shown for head in (name, "points"))]
    return markdown(heads, lines)


def exemplars(kept: Kept, measure: Measure = "accuracy") -> str:
    """A line a setting and number of exemplars of each class: untuned, the mean of `tuned`, and the gain."""
    lines = [
        (
            row["setting"],
            f"{row['k']}",
            fraction_text(row["untuned"]),
            fraction_text(row["tuned"]),
            gain_text(row, OVER_SEEDS),
        )
        for row in by_exemplars(kept, measure)
    ]
    return markdown(
        ("setting", "examples of each class", "untuned", "tuned, mean", "points"), lines
    )


def exemplars_calibrated(kept: Kept) -> str:
    """As `exemplars`, of calibrated choices."""
    return exemplars(kept, "calibrated")


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
    asked = kept.language.select("model", "variant").unique(maintain_order=True)
    lines = []
    for model, variant in asked.iter_rows():
        # The mart compares what is called tuned with the untuned model.
        pair = kept.language.filter(pl.col("variant").is_in(["untuned", variant]), model=model)
        called = "untuned" if variant == "untuned" else "tuned"
        losses = pair.with_columns(pl.col("variant").replace(variant, called))
        found = mart("mart_language", replace(kept, language=losses))
        (row,) = found.filter(pl.col("dataset").is_null(), variant=called).to_dicts()
        ends = f"[{row['change_low']:+.3f}, {row['change_high']:+.3f}]" if row["change"] else ""
        change = f"{row['change']:+.3f} {ends}" if ends else ""
        lines.append((model, variant, f"{row['texts']:,}", f"{row['loss']:.3f}", change))
    return markdown(("model", "variant", "texts", "nats a token", "change"), lines)


def cost(kept: Kept) -> str:
    """A line a model and variant: what its tuning took."""
    lines = [
        (
            model,
            name,
            f"{of['sets']:,}",
            f"{of['tokens']:,}",
            f"{of['steps']:,}",
            f"{of['seconds'] // 60} min {of['seconds'] % 60} s",
        )
        for model, of_model in kept.facts["cost"].items()
        for name, of in of_model.items()
    ]
    return markdown(("model", "variant", "sets", "tokens", "steps", "time of tuning"), lines)


TABLES: Mapping[str, Callable[[Kept], str]] = {
    each.__name__: each
    for each in (
        headline,
        dataset_means,
        variants,
        recipes,
        over_tuned,
        datasets,
        exemplars,
        exemplars_calibrated,
        models,
        language,
        cost,
        tokens,
        tokens_calibrated,
        sets,
    )
}


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: texts to the left in the first column, figures to the right."""
    rules = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *lines))


if __name__ == "__main__":
    main()
