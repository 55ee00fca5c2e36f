"""What SQL makes of predictions and completions: outcomes, scores and marts."""

from __future__ import annotations

import gc
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_rows import (
    MODELS,
    Row,
    Run,
    completions,
    flips,
    predictions,
    running,
)

from symtune_pipeline.sql import engine, statistics


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return running(tmp_path)


def test_gain_and_its_test_are_paired_by_prompt(run: Run) -> None:
    untuned, tuned = "1100000000", "0111111100"  # 6 won, 1 lost
    rows = run(
        "mart_icl", eval_icl=predictions("untuned", untuned) + predictions("tuned", tuned)[::-1]
    )
    before, after = {row["variant"]: row for row in rows}["untuned"], rows[0]
    assert after["variant"] == "tuned"
    assert (after["n"], after["correct"], after["accuracy"]) == (10, 7, 0.7)
    assert after["low"] == pytest.approx(0.396778, abs=1e-6)
    assert after["high"] == pytest.approx(0.892209, abs=1e-6)
    assert after["chance"] == 0.5
    assert after["gain"] == 0.5
    assert after["p"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert after["gain_low"] < 0.5 < after["gain_high"]
    assert [before[key] for key in ("accuracy", "gain", "gain_low", "gain_high", "p")] == [
        0.2,
        None,
        None,
        None,
        None,
    ]


def test_only_prompts_that_both_variants_answered_enter_the_gain(run: Run) -> None:
    (tuned, _) = run(
        "mart_icl", eval_icl=predictions("untuned", "01") + predictions("tuned", "1111")
    )
    assert (tuned["n"], tuned["accuracy"], tuned["gain"]) == (4, 1.0, 0.5)


def test_predictions_for_another_prompt_are_never_paired(run: Run) -> None:
    elsewhere: list[Row] = [
        {"model": "other"},
        {"setting": "symbols, instruction"},
        {"dataset": "another"},
        {"context": 1},
        {"query": 1},
    ]
    untuned = [row for other in elsewhere for row in predictions("untuned", "0", **other)]
    rows = run("mart_icl", eval_icl=untuned + predictions("tuned", "1"))
    assert [row["gain"] for row in rows if row["variant"] == "tuned"] == [None]


def test_a_variant_alone_has_an_accuracy_and_no_gain(run: Run) -> None:
    variants = ("pretrained", "tuned", "untuned")
    rows = run(
        "mart_summary", eval_icl=[r for v in variants for r in predictions(v, "10", model=v)]
    )
    assert [(r["variant"], r["accuracy"], r["gain"], r["p"]) for r in rows] == [
        (variant, 0.5, None, None) for variant in variants
    ]


def test_predictions_without_rows_give_empty_marts(run: Run, tmp_path: Path) -> None:
    marts = ("mart_icl", "mart_flipped", "mart_algorithmic", "mart_summary", "mart_scaling")
    run(*marts)
    assert [pl.read_parquet(tmp_path / f"{mart}.parquet").height for mart in marts] == [0] * 5


def test_flipped_labels_are_summed_over_sets_at_each_share(run: Run) -> None:
    rows = run(
        "mart_flipped",
        eval_flipped=[
            row
            for percent in (25, 100)
            for dataset, right in (("a", "11"), ("b", "01"))
            for row in flips("untuned", right, percent, dataset=dataset)
        ],
    )
    assert [(row["setting"], row["flipped_percent"], row["n"], row["correct"]) for row in rows] == [
        ("25% flipped", 25, 4, 3),
        ("100% flipped", 100, 4, 3),
    ]


def test_completions_are_summed_by_category_and_have_no_chance_level(run: Run) -> None:
    rows = run(
        "mart_algorithmic",
        eval_algorithmic=[
            *completions("untuned", "01", concept="c001"),
            *completions("untuned", "01", concept="c002"),
            *completions("tuned", "11", concept="c001"),
            *completions("tuned", "11", concept="c003", category="sorting"),
        ],
    )
    assert [(r["category"], r["variant"], r["n"], r["correct"], r["gain"]) for r in rows] == [
        ("slicing", "tuned", 2, 2, 0.5),
        ("slicing", "untuned", 4, 2, None),
        ("sorting", "tuned", 2, 2, None),
    ]
    assert {row["chance"] for row in rows} == {None}


def test_a_guess_in_linear_classification_is_right_half_of_the_time(run: Run) -> None:
    asked = completions("untuned", "01", benchmark="linear_classification", concept="plane0")
    others = completions("untuned", "01") + completions("untuned", "0", benchmark="turing_concepts")
    found = {"linear_classification": 0.5, "list_functions": None, "turing_concepts": None}
    for mart in ("mart_summary", "mart_algorithmic"):
        rows = run(mart, eval_algorithmic=asked + others)
        assert {row["benchmark"]: row["chance"] for row in rows} == found


def test_the_mart_of_categories_takes_every_benchmark_that_has_some(run: Run) -> None:
    rows = run(
        "mart_algorithmic",
        eval_icl=predictions("untuned", "01"),
        eval_algorithmic=completions("untuned", "01", benchmark="words"),
    )
    assert [(row["benchmark"], row["category"]) for row in rows] == [("words", "slicing")]


def test_the_summary_has_one_row_per_setting_and_variant_and_averages_chance(run: Run) -> None:
    rows = run(
        "mart_summary",
        eval_icl=predictions("untuned", "01")
        + predictions("untuned", "11", dataset="b", chance=0.25),
        eval_flipped=flips("untuned", "0", 100),
        eval_algorithmic=completions("untuned", "01")
        + completions("untuned", "1", benchmark="turing_concepts"),
    )
    figures = [(r["benchmark"], r["setting"], r["n"], r["accuracy"], r["chance"]) for r in rows]
    assert figures == [
        ("flipped", "100% flipped", 1, 0.0, 0.5),
        ("icl", "symbols, no instruction", 4, 0.75, 0.375),
        ("list_functions", "fresh", 2, 0.5, None),
        ("turing_concepts", "fresh", 1, 1.0, None),
    ]


def sized(**parameters: int) -> list[Row]:
    """What the catalogue says about models of so many parameters."""
    return [{"model": key, "parameters": count} for key, count in parameters.items()]


def test_a_tuned_model_stands_beside_the_smallest_untuned_one_that_is_as_accurate(run: Run) -> None:
    right = {"s": ("1000", "1110"), "m": ("1100", "1100"), "l": ("1110", "1111")}
    rows = run(
        "mart_scaling",
        catalog_models=sized(s=10, m=50, l=400, xl=900),
        eval_icl=[
            row
            for model, both in right.items()
            for variant, correct in zip(("untuned", "tuned"), both, strict=True)
            for row in predictions(variant, correct, model=model)
        ],
    )
    found = [(r["model"], r["variant"], r["flops_per_token"], r["accuracy"]) for r in rows]
    assert found[:3] == [
        ("s", "tuned", 20, 0.75),
        ("s", "untuned", 20, 0.25),
        ("m", "tuned", 100, 0.5),
    ]
    matched = {(r["model"], r["variant"]): (r["as_good_untuned"], r["as_good_flops"]) for r in rows}
    assert matched == {
        ("s", "untuned"): (None, None),
        ("m", "untuned"): (None, None),
        ("l", "untuned"): (None, None),
        ("s", "tuned"): ("l", 40.0),  # as good as one of 40 times its size
        ("m", "tuned"): ("m", 1.0),  # tuning has changed nothing
        ("l", "tuned"): (None, None),
    }


def test_models_are_compared_within_a_setting_only(run: Run) -> None:
    rows = run(
        "mart_scaling",
        catalog_models=sized(s=10, l=400),
        eval_icl=predictions("tuned", "01", model="s")
        + predictions("untuned", "11", model="l", setting="symbols, instruction")
        + predictions("pretrained", "11", model="l"),
        eval_flipped=flips("untuned", "11", 100, model="l"),
    )
    assert {(row["as_good_untuned"], row["as_good_flops"]) for row in rows} == {(None, None)}


def test_models_are_not_compared_by_how_far_they_follow_a_few_flipped_labels(run: Run) -> None:
    """A good model scores near 0 where none is flipped."""
    rows = run(
        "mart_scaling",
        catalog_models=sized(s=10, l=400),
        eval_icl=predictions("tuned", "01", model="s") + predictions("untuned", "11", model="l"),
        eval_flipped=[
            row
            for percent in (0, 50, 75, 100)
            for row in flips("tuned", "01", percent, model="s")
            + flips("untuned", "11", percent, model="l")
        ],
    )
    assert {
        (row["setting"], row["flipped_percent"], row["as_good_untuned"])
        for row in rows
        if row["variant"] == "tuned"
    } == {
        ("symbols, no instruction", None, "l"),
        ("0% flipped", 0, None),
        ("50% flipped", 50, None),
        ("75% flipped", 75, None),
        ("100% flipped", 100, "l"),
    }


def test_models_that_were_asked_other_numbers_of_queries_are_not_compared(run: Run) -> None:
    """One of them was asked before the settings changed."""
    rows = run(
        "mart_scaling",
        catalog_models=sized(s=10, l=400),
        eval_icl=predictions("tuned", "01", model="s") + predictions("untuned", "1110", model="l"),
    )
    assert {row["as_good_untuned"] for row in rows} == {None}


def test_intervals_over_draws_need_ten_draws_and_count_whole_ones(run: Run) -> None:
    def drawn(number: int) -> list[Row]:
        # In every other draw all are right, in the rest none: ten answers say as much as one.
        variants = {"untuned": lambda context: "0", "tuned": lambda context: str(context % 2)}
        return [
            row
            for variant, right in variants.items()
            for context in range(number)
            for row in predictions(variant, 10 * right(context), context=context)
        ]

    (few, _) = run("mart_summary", eval_icl=drawn(9))
    assert [few[key] for key in few if "cluster" in key] == [None] * 4
    (tuned, untuned) = run("mart_summary", eval_icl=drawn(20))
    assert (tuned["cluster_low"], tuned["cluster_high"]) == (0.3, 0.7)
    assert (tuned["gain_cluster_low"], tuned["gain_cluster_high"]) == (0.3, 0.7)
    assert (untuned["cluster_low"], untuned["cluster_high"]) == (0, 0)
    assert untuned["gain_cluster_low"] is None
    assert tuned["high"] - tuned["low"] < 0.2


def test_draws_of_different_sets_are_different_draws(run: Run) -> None:
    rows = [r for i in range(10) for r in predictions("untuned", "01", dataset=f"d{i}")]
    (row,) = run("mart_summary", eval_icl=rows)
    assert (row["cluster_low"], row["cluster_high"]) == (0.5, 0.5)


def test_a_sets_p_is_corrected_for_the_sets_of_its_setting(run: Run) -> None:
    right = {"a": "1" * 6, "b": "1" * 7, "c": "1" * 3}  # p = 1/32, 1/64, 1/4
    rows = [
        row
        for dataset, won in right.items()
        for variant, correct in (("untuned", "0" * len(won)), ("tuned", won))
        for row in predictions(variant, correct, dataset=dataset)
    ]
    elsewhere = [row | {"setting": "symbols, instruction"} for row in rows if row["dataset"] == "a"]
    found = run("mart_icl", eval_icl=rows + elsewhere)
    corrected = {(row["setting"], row["dataset"]): row["p_holm"] for row in found if row["p"]}
    assert corrected == {
        ("symbols, instruction", "a"): 1 / 32,
        ("symbols, no instruction", "a"): 2 / 32,
        ("symbols, no instruction", "b"): 3 / 64,
        ("symbols, no instruction", "c"): 1 / 4,
    }
    assert {row["p_holm"] for row in found if row["variant"] == "untuned"} == {None}


PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=15)


@settings(max_examples=8, deadline=None)
@given(st.lists(PAIRS, min_size=4, max_size=8))
def test_holms_correction_is_that_of_statsmodels(families: list[list[tuple[int, int]]]) -> None:
    """Settings of sets with so many won and lost pairs each; some of equal p, and of p 1."""
    from statsmodels.stats.multitest import multipletests

    p = [[statistics.mcnemar_p(won, lost) for won, lost in family] for family in families]
    scores = pl.DataFrame(
        [
            {"setting": f"s{i}", "dataset": f"d{j:02}", "p": value}
            for i, family in enumerate(p)
            for j, value in enumerate(family)
        ]
    ).with_columns(
        benchmark=pl.lit("icl"), level=pl.lit("dataset"), variant=pl.lit("tuned"),
        measure=pl.lit("accuracy"),
        **{name: pl.lit("") for name in ("model", "flipped_percent", "category")},
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        engine.run_model(MODELS["mart_icl"], {"int_scores": scores}, {}, out)
        found = pl.read_parquet(out).sort("setting", "dataset")
    gc.freeze()  # statsmodels collects garbage in every call, which is slow where much is alive
    corrected = [value for family in p for value in multipletests(family, method="holm")[1]]
    gc.unfreeze()
    assert found["p_holm"].to_list() == pytest.approx(corrected)


def test_the_calibration_error_is_the_gap_of_each_tenth_of_confidence(run: Run) -> None:
    def sure(probability: float) -> list[float]:
        return [math.log(probability) - 9, math.log(1 - probability) - 9]

    rows = [
        *predictions("untuned", "1100", logprobs=sure(0.92)),  # half right, in the last tenth
        *predictions("untuned", "1", logprobs=sure(0.98), context=1),  # and one more
        *predictions("untuned", "1", logprobs=sure(0.65), context=2),
        *predictions(
            "untuned", "1", logprobs=[-800.0, -1600.0], context=3
        ),  # 1.0, in the last tenth
    ]
    (row,) = run("mart_icl", eval_icl=rows)
    last = abs(4 * 0.92 + 0.98 + 1 - 4) / 6
    assert row["ece"] == pytest.approx((6 * last + 1 * 0.35) / 7)
    (generated,) = run("mart_summary", eval_algorithmic=completions("untuned", "01"))
    assert generated["ece"] is None
