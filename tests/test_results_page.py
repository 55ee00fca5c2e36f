"""The tables of docs/results.md and of the README are those that the kept outcomes give."""

import dataclasses

import polars as pl
import pytest
from conftest import ROOT

from benchmarks.exemplars import by_exemplars
from benchmarks.exemplars import chart as draw_exemplars
from benchmarks.kept import Kept, read
from benchmarks.law import chart, measured_at
from benchmarks.marts import only
from benchmarks.results_page import PAGES, gains_of_recipes, law, models, recipes, with_tables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_is_what_the_kept_outcomes_give(page):
    text = page.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `make results`"


def test_a_cell_is_the_share_of_right_answers():
    kept = read("two-models")
    asked = kept.outcomes.filter(
        model="gemma3-270m", setting="symbols, no instruction", measure="accuracy"
    )
    before, after = (asked.filter(variant=v)["correct"].mean() for v in ("untuned", "tuned"))
    assert f"{before:.2f} → {after:.2f}" in models(kept)
    none = kept.outcomes.with_columns(correct=pl.lit(False))
    assert f"{before:.2f} → {after:.2f}" not in models(dataclasses.replace(kept, outcomes=none))


@pytest.mark.parametrize(("varied", "same"), [("tokens", "sets"), ("sets", "steps")])
def test_a_law_varies_one_thing_and_its_chart_draws_what_its_table_says(varied, same):
    kept = read("law")
    (cost,) = kept.facts["cost"].values()
    points = measured_at(kept, varied)
    assert len(points) >= 4
    assert {cost[name][same] for _, name in points} == {cost["tuned"][same]}
    drawn = chart(gains_of_recipes(kept, "accuracy"), points, varied).data.values
    table = law(kept, varied, "accuracy").splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in table] == [f"{at:,}" for at, _ in points]
    for line, (at, _) in zip(table, points, strict=True):
        gains = [f"{row['gain']:+.1f}" for row in drawn if row["x"] == at]
        assert gains == [cell.split(" ")[0] for cell in line.strip("| ").split(" | ")[2:]]


def test_a_table_of_a_part_holds_that_part_alone():
    kept = read("generated-to-real")
    part = only(kept, datasets="sst2,rt", k="8")
    whole = kept.outcomes.filter(
        pl.col("dataset").is_in(["sst2", "rt"]), pl.col("setting").str.ends_with(", k = 8")
    )
    assert part.outcomes.height == whole.height > 0
    assert not part.outcomes["setting"].str.contains(", k = ").any()
    assert set(part.outcomes["dataset"]) == {"sst2", "rt"}


def test_the_chart_by_exemplars_draws_the_shares_of_right_answers():
    kept = read("generated-to-real")
    rows = by_exemplars(kept)
    assert [row["k"] for row in rows[:4]] == [1, 2, 4, 8]
    drawn = draw_exemplars(rows).data.values
    for setting in ("symbols, no instruction", "relevant labels, instruction"):
        for k in (1, 8):
            asked = kept.outcomes.filter(setting=f"{setting}, k = {k}", measure="accuracy")
            mine = [row for row in drawn if (row["setting"], row["k"]) == (setting, k)]
            shares = {row["model"]: row["accuracy"] for row in mine}
            of = {v: asked.filter(variant=v)["correct"].mean() for v in asked["variant"].unique()}
            seeds = [of[name] for name in ("tuned", "seed_1", "seed_2")]
            assert shares == pytest.approx({"untuned": of["untuned"], "tuned": sum(seeds) / 3})


def test_recipes_are_compared_seed_by_seed_on_the_same_queries():
    """Of the queries 2 to 4 of each context the first recipe has one more right, whatever the seed."""
    right = {"untuned": 1, "tuned": 3, "more": 4, "other": 2, "others": 3}
    rows = [
        {
            "benchmark": "icl", "setting": "symbols, no instruction", "flipped_percent": None,
            "model": "micro", "variant": variant, "dataset": "trees", "category": None,
            "context": context, "query": 10 * context + query, "measure": "accuracy",
            "correct": query < share, "untuned_correct": None, "chance": 0.5, "confidence": 0.9,
        }
        for variant, share in right.items()
        for context in range(12)
        for query in range(5)
    ]  # fmt: skip
    outcomes = pl.DataFrame(rows, schema=read("two-models").outcomes.schema)
    of_recipes = {"tuned": "tuned", "more": "tuned", "other": "other", "others": "other"}
    kept = Kept(outcomes, pl.DataFrame(), {"recipes": of_recipes})
    *_, line = recipes(kept).splitlines()
    name, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
    assert name == "symbols, no instruction"
    assert cells == ["60", "0.20", "0.70", "0.50", "+20.0 [+20.0, +20.0]", "+20.0, +20.0"]


def test_what_is_said_of_two_precisions_is_what_both_answered():
    """The quickstart's queries in bf16 (`controls`) and in fp32 (`two-models`)."""
    keys = ["benchmark", "setting", "dataset", "context", "query"]
    asked = [
        read(name).outcomes.filter(measure="accuracy", model="smollm2-135m")
        for name in ("controls", "two-models")
    ]
    said = {}
    for variant in ("untuned", "tuned"):
        half, full = (each.filter(variant=variant) for each in asked)
        both = half.join(full, on=keys, suffix="_fp32").with_columns(
            same=pl.col("correct") == pl.col("correct_fp32"),
            more=pl.col("correct").cast(int) - pl.col("correct_fp32").cast(int),
        )
        moved = both.group_by("benchmark", "setting").agg(pl.len(), pl.col("more").mean().abs())
        said[variant] = (both.height, f"{both['same'].mean():.1%}")
        assert f"{100 * moved.filter(len=440)['more'].max():.1f}" == "0.7"
    assert said == {"untuned": (2_360, "97.8%"), "tuned": (2_360, "99.0%")}
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert all(text in page for text in ("97.8% of 2,360", "99.0%", "up to 0.7 points"))
