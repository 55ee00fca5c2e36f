"""The marts of variants: each against the untuned model and `tuned`, and over seeds, against polars."""

from __future__ import annotations

import random
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sql_rows import Row, Run, predictions, running
from statsmodels.stats.contingency_tables import mcnemar

from symtune_pipeline.sql.statistics import cluster_high, cluster_low, crossed_high, crossed_low
from symtune_pipeline.tables import exemplars_setting

CONTEXTS, QUERIES = 12, 5
# `again` differs from `tuned` in the seed alone, `other` in more.
RECIPES = {"tuned": "tuned", "again": "tuned", "other": "other"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return running(tmp_path)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    rng = random.Random(5)
    shares = {"pretrained": 0.4, "untuned": 0.5, "tuned": 0.6, "again": 0.7, "other": 0.55}
    return [
        row | {"query": 100 * context + row["query"]}
        for variant, share in shares.items()
        for context in range(CONTEXTS)
        for row in predictions(
            variant, "".join("01"[rng.random() < share] for _ in range(QUERIES)), context=context
        )
    ]


def catalogue(recipes: dict[str, str]) -> list[Row]:
    return [{"variant": variant, "recipe": recipe} for variant, recipe in recipes.items()]


def paired(rows: list[Row], variant: str, versus: str) -> pl.DataFrame:
    table = pl.DataFrame(rows)
    keys = ["context", "query"]
    one, other = (table.filter(variant=name).select(*keys, "correct") for name in (variant, versus))
    return one.join(other, on=keys, suffix="_other").with_columns(
        more=pl.col("correct").cast(pl.Int64) - pl.col("correct_other").cast(pl.Int64)
    )


def by_draw(both: pl.DataFrame) -> tuple[list[int], list[int]]:
    """Gains and queries of each draw, in the order of their names."""
    draws = both.group_by("context").agg(pl.col("more").sum(), pl.len())
    draws = draws.sort(pl.col("context").cast(pl.String))
    return draws["more"].to_list(), draws["len"].to_list()


def test_every_variant_stands_against_the_untuned_model_and_against_tuned(
    run: Run, rows: list[Row]
) -> None:
    found = run("mart_variants", eval_icl=rows, catalog_variants=catalogue(RECIPES))
    pairs = [(row["variant"], row["versus"]) for row in found]
    assert pairs == [
        ("again", "tuned"), ("again", "untuned"), ("other", "tuned"), ("other", "untuned"),
        ("tuned", "untuned"),
    ]  # fmt: skip
    for row in found:
        both = paired(rows, row["variant"], row["versus"])
        won, lost = both.filter(more=1).height, both.filter(more=-1).height
        gains, queries = by_draw(both)
        assert row["n"] == CONTEXTS * QUERIES
        assert row["accuracy"] == pytest.approx(both["correct"].mean())
        assert row["gain"] == pytest.approx((won - lost) / len(both))
        assert row["p"] == pytest.approx(mcnemar([[0, won], [lost, 0]], exact=True).pvalue)
        assert row["gain_cluster_low"] == pytest.approx(cluster_low(gains, queries))
        assert row["gain_cluster_high"] == pytest.approx(cluster_high(gains, queries))


def test_without_variants_there_is_nothing_to_compare(run: Run, rows: list[Row]) -> None:
    of_one = [row for row in rows if row["variant"] in ("untuned", "tuned")]
    alone = catalogue({"tuned": "tuned"})
    assert run("mart_variants", eval_icl=of_one, catalog_variants=alone) == []
    assert run("mart_seeds", eval_icl=of_one, catalog_variants=alone) == []


def test_what_differs_in_the_seed_alone_is_summarised(run: Run, rows: list[Row]) -> None:
    [row] = run("mart_seeds", eval_icl=rows, catalog_variants=catalogue(RECIPES))
    seeds = [paired(rows, variant, "untuned") for variant in ("again", "tuned")]
    accuracies = [both["correct"].mean() for both in seeds]
    gains = [both["more"].mean() for both in seeds]
    assert (row["recipe"], row["seeds"], row["n"]) == ("tuned", 2, CONTEXTS * QUERIES)
    assert row["accuracy"] == pytest.approx(np.mean(accuracies))
    assert row["accuracy_spread"] == pytest.approx(np.std(accuracies, ddof=1))
    assert row["gain"] == pytest.approx(np.mean(gains))
    assert row["gain_spread"] == pytest.approx(np.std(gains, ddof=1))
    parts, wholes = (list(chain(*cells)) for cells in zip(*map(by_draw, seeds), strict=True))
    assert row["gain_low"] == pytest.approx(crossed_low(parts, wholes, 2))
    assert row["gain_high"] == pytest.approx(crossed_high(parts, wholes, 2))


def with_numbers(rows: list[Row]) -> list[Row]:
    """The rows once for each of two numbers of exemplars; one row in three is right with more alone."""
    return [
        row
        | {
            "setting": exemplars_setting(row["setting"], number),
            "correct": row["correct"] or (number == 16 and row["query"] % 3 == 0),
        }
        for number in (2, 16)
        for row in rows
    ]


def test_more_exemplars_are_compared_with_the_fewest_on_the_same_queries(
    run: Run, rows: list[Row]
) -> None:
    found = run("mart_exemplars", eval_icl=with_numbers(rows))
    assert {row["setting"] for row in found} == {"symbols, no instruction"}
    assert [row["exemplars_per_class"] for row in found] == [2, 16] * 5
    assert {row["fewest"] for row in found} == {2}
    table = pl.DataFrame(with_numbers(rows))
    for fewest, most in zip(found[::2], found[1::2], strict=True):
        answers = [
            table.filter(variant=most["variant"], setting=f"symbols, no instruction, k = {number}")
            for number in (2, 16)
        ]
        both = (
            answers[1]
            .join(answers[0], on=["context", "query"], suffix="_fewest")
            .with_columns(
                more=pl.col("correct").cast(pl.Int64) - pl.col("correct_fewest").cast(pl.Int64)
            )
        )
        gains, queries = by_draw(both)
        won = both.filter(more=1).height
        assert most["n"] == fewest["n"] == CONTEXTS * QUERIES
        assert fewest["accuracy"] == pytest.approx(both["correct_fewest"].mean())
        assert most["accuracy"] == pytest.approx(both["correct"].mean())
        assert most["gain"] == pytest.approx(won / len(both))
        assert most["gain_cluster_low"] == pytest.approx(cluster_low(gains, queries))
        assert most["gain_cluster_high"] == pytest.approx(cluster_high(gains, queries))
        assert most["p"] == pytest.approx(mcnemar([[0, won], [0, 0]], exact=True).pvalue)
        assert {fewest[name] for name in ("gain", "gain_cluster_low", "p")} == {None}


def test_with_one_number_of_exemplars_there_is_no_curve(run: Run, rows: list[Row]) -> None:
    assert run("mart_exemplars", eval_icl=rows) == []


def test_marts_keep_numbers_of_exemplars_apart(run: Run, rows: list[Row]) -> None:
    numbered = with_numbers(rows)
    summary = run("mart_summary", eval_icl=numbered)
    assert {row["setting"] for row in summary} == {row["setting"] for row in numbered}
    assert {row["n"] for row in summary} == {CONTEXTS * QUERIES}
    flips = [row | {"flipped_percent": 100} for row in numbered]
    flipped = run("mart_flipped", eval_flipped=flips)
    assert len(flipped) == 2 * 5
    assert {row["n"] for row in flipped} == {CONTEXTS * QUERIES}


def test_few_draws_give_no_interval(run: Run, rows: list[Row]) -> None:
    few = [row for row in rows if row["context"] < 9]
    for mart, asked in (
        ("mart_variants", few),
        ("mart_seeds", few),
        ("mart_exemplars", with_numbers(few)),
    ):
        found = run(mart, eval_icl=asked, catalog_variants=catalogue(RECIPES))
        ends = {
            name: row[name] for row in found for name in row if name.endswith(("_low", "_high"))
        }
        assert found and set(ends.values()) == {None}


ANSWERS = {"in context": 0.6, "fine-tuned": 0.7, "both": 0.8}  # how often each is right


def in_ways() -> list[Row]:
    """Every query in four ways; a way that differs from `zero-shot` gives another label at random."""
    rng = random.Random(7)

    def of_way(way: str, context: int, query: int, right: bool) -> Row:
        (row,) = predictions(
            "tuned", str(int(right)), context=context, setting=f"symbols, no instruction: {way}"
        )
        wrong = rng.choice((1, 2))
        return row | {
            "query": query, "labels": ["x", "y", "z"], "prediction": 0 if right else wrong,
        }  # fmt: skip

    return [
        of_way(way, context, query, rng.random() < share)
        for context in range(CONTEXTS)
        for query in range(QUERIES)
        for way, share in ({"zero-shot": 0.5} | ANSWERS).items()
    ]


def test_ways_are_compared_with_no_exemplars_and_with_tuning_on_them(run: Run) -> None:
    rows = in_ways()
    found = run("mart_finetuned", eval_finetuned=rows)
    assert [row["way"] for row in found] == ["zero-shot", *ANSWERS]
    assert {row["setting"] for row in found} == {"symbols, no instruction"}
    keys = ["context", "query"]
    of = {
        way: pl.DataFrame(rows).filter(setting=f"symbols, no instruction: {way}")
        for way in ("zero-shot", *ANSWERS)
    }
    tuned = of["zero-shot"].join(of["fine-tuned"], on=keys, suffix="_tuned")
    changed = tuned.filter(pl.col("prediction") != pl.col("prediction_tuned"))
    assert 10 < len(changed) < CONTEXTS * QUERIES
    for row in found:
        both = of[row["way"]].join(of["zero-shot"], on=keys, suffix="_other")
        both = both.with_columns(
            more=pl.col("correct").cast(pl.Int64) - pl.col("correct_other").cast(pl.Int64)
        )
        won, lost = both.filter(more=1).height, both.filter(more=-1).height
        assert row["n"] == CONTEXTS * QUERIES
        assert row["accuracy"] == pytest.approx(both["correct"].mean())
        assert row["changed"] == len(changed)
        if row["way"] == "zero-shot":
            assert {row[name] for name in ("gain", "gain_cluster_low", "p", "alike")} == {None}
            continue
        gains, queries = by_draw(both)
        assert row["gain"] == pytest.approx((won - lost) / len(both))
        assert row["p"] == pytest.approx(mcnemar([[0, won], [lost, 0]], exact=True).pvalue)
        assert row["gain_cluster_low"] == pytest.approx(cluster_low(gains, queries))
        if row["way"] == "fine-tuned":
            assert row["alike"] is None
            continue
        own = changed.join(of[row["way"]], on=keys, suffix="_own")
        alike = (own["prediction_own"] == own["prediction_tuned"]).mean()
        assert row["alike"] == pytest.approx(alike)
        assert row["alike_low"] < row["alike"] < row["alike_high"]


def test_without_tuning_on_exemplars_there_is_no_row(run: Run) -> None:
    assert run("mart_finetuned") == []
