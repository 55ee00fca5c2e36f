"""The SQL models and the engine that runs them, on small Parquet files that the tests write."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from symtune_pipeline.errors import UserError
from symtune_pipeline.sql import engine, statistics
from symtune_pipeline.sql.model import column_lineage, load_models
from symtune_pipeline.tables import BENCHMARKS, SOURCES, Column, Table, flipped_setting

MODELS = load_models(ROOT / "dbt_like_sql", SOURCES)
VARIABLES: dict[str, int | float | str] = {"cap": 100, "seed": 1, "labels": "symbols"}

Row = dict[str, Any]
Run = Callable[..., list[Row]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs models and all they depend on, over the given source rows; gives the last one's rows."""

    def run(
        *names: str, cap: int = 100, seed: int = 1, labels: str = "symbols", **sources: list[Row]
    ) -> list[Row]:
        variables: dict[str, int | float | str] = {"cap": cap, "seed": seed, "labels": labels}
        upstream = set().union(*map(_upstream, names))
        tables: dict[str, list[Path] | pl.DataFrame] = {}
        for source in SOURCES.keys() & upstream:
            path = tmp_path / f"{source}.parquet"
            SOURCES[source].frame(sources.get(source, [])).write_parquet(path)
            tables[source] = [path]
        for model in (MODELS[key] for key in MODELS if key in upstream):
            out = tmp_path / f"{model.name}.parquet"
            rows = engine.run_model(model, tables, variables, out)
            tables[model.name] = [out]
            assert rows == pl.read_parquet(out).height
            assert tuple(pl.read_parquet_schema(out)) == tuple(model.columns)
        return pl.read_parquet(tmp_path / f"{names[-1]}.parquet").to_dicts()

    return run


def _upstream(name: str) -> set[str]:
    """The table and every table that it is made from."""
    inputs = MODELS[name].depends_on if name in MODELS else ()
    return {name}.union(*map(_upstream, inputs))


def raw(example: str, text: str | None, label_id: int = 0) -> Row:
    """A raw row from its name `<dataset>/<split>/<row>`."""
    dataset, split, _ = example.split("/")
    return {
        "example_id": example,
        "dataset": dataset,
        "task_type": "topic",
        "split": split,
        "input": text,
        "label": "abc"[label_id],
        "label_id": label_id,
    }


def catalog(**roles: str) -> list[Row]:
    return [
        {
            "dataset": dataset,
            "role": role,
            "task_type": "topic",
            "labels": ["a", "b", "c"],
            "instruction": "Which?",
        }
        for dataset, role in roles.items()
    ]


def ids(rows: list[Row]) -> list[str]:
    return [row["example_id"] for row in rows]


# --- cleaning -----------------------------------------------------------------------------------


def test_staging_makes_one_space_and_one_unicode_form_and_drops_texts_without_text(
    run: Run,
) -> None:
    rows = run(
        "stg_examples",
        raw_examples=[
            raw("d/train/0", "  cafe\u0301\u00a0 au\n\tlait "),
            raw("d/train/1", " \u3000\n"),
            raw("d/train/2", None),
            raw("d/train/3", ""),
        ],
    )
    assert ids(rows) == ["d/train/0"]
    assert rows[0]["input"] == "caf\u00e9 au lait"


def test_the_normalized_text_drops_what_copies_may_differ_in_and_is_never_empty(
    run: Run,
) -> None:
    normalized = {
        "It's a Café!": "itsacafe",
        "?!": "?!",
        "一些 文字。": "一些文字",
        "so good 🙂": "sogood🙂",
        "one two | three": "onetwo|three",
    }
    rows = run(
        "stg_examples",
        raw_examples=[raw(f"d/train/{i}", text) for i, text in enumerate(normalized)],
    )
    assert {row["input"]: row["normalized"] for row in rows} == normalized


def test_of_copies_that_agree_the_first_is_kept_and_of_copies_that_disagree_none(run: Run) -> None:
    rows = run(
        "int_examples",
        catalog_datasets=catalog(d="tuning", e="tuning"),
        raw_examples=[
            raw("d/train/2", "The same.", 1),
            raw("d/train/1", "the  SAME", 1),
            raw("d/train/3", "Who knows", 0),
            raw("d/train/4", "who knows?", 1),
            raw("e/train/0", "The same.", 0),
        ],
    )
    assert ids(rows) == ["d/train/1", "e/train/0"]


# --- tuning and evaluation examples -------------------------------------------------------------


def test_tuning_sees_training_rows_of_tuning_sets_only_and_numbers_them_densely(run: Run) -> None:
    rows = run(
        "int_tuning_examples",
        catalog_datasets=catalog(b="tuning", a="tuning", held="evaluation"),
        raw_examples=[
            raw("b/train/0", "one"),
            raw("a/train/1", "two"),
            raw("a/train/0", "three"),
            raw("a/validation/0", "four"),
            raw("held/train/0", "five"),
            raw("unlisted/train/0", "six"),
        ],
    )
    assert [(row["example"], row["example_id"]) for row in rows] == [
        (0, "a/train/0"),
        (1, "a/train/1"),
        (2, "b/train/0"),
    ]


def test_the_guard_keeps_texts_of_evaluation_sets_out_of_tuning(run: Run) -> None:
    sources = {
        "catalog_datasets": catalog(t="tuning", held="evaluation"),
        "raw_examples": [
            raw("t/train/0", "A leaked text"),
            raw("t/train/1", "A clean text"),
            raw("held/test/0", "a leaked text!"),
        ],
    }
    assert ids(run("int_tuning_examples", **sources)) == ["t/train/1"]
    assert run("int_contamination", **sources) == []


def test_the_cap_holds_per_dataset_and_the_seed_decides_who_stays(run: Run) -> None:
    sources = {
        "catalog_datasets": catalog(a="tuning", b="tuning"),
        "raw_examples": [
            raw(f"{d}/train/{i}", f"text {i} of {d}") for d in "ab" for i in range(40)
        ],
    }
    first = ids(run("int_tuning_examples", cap=10, seed=1, **sources))
    assert [sum(name.startswith(d) for name in first) for d in "ab"] == [10, 10]
    assert first == ids(run("int_tuning_examples", cap=10, seed=1, **sources))
    assert first != ids(run("int_tuning_examples", cap=10, seed=2, **sources))


def test_a_smaller_cap_keeps_a_part_of_what_a_larger_one_keeps(run: Run) -> None:
    sources = {
        "catalog_datasets": catalog(a="tuning"),
        "raw_examples": [raw(f"a/train/{i}", f"text {i}") for i in range(40)],
    }
    small = ids(run("int_tuning_examples", cap=5, **sources))
    assert set(small) < set(ids(run("int_tuning_examples", cap=20, **sources)))


def test_training_rows_are_exemplars_and_other_rows_queries(run: Run) -> None:
    rows = run(
        "int_evaluation_examples",
        catalog_datasets=catalog(held="evaluation"),
        raw_examples=[
            raw("held/train/0", "one"),
            raw("held/test/0", "two"),
            raw("held/validation/0", "three"),
        ],
    )
    assert {row["example_id"]: row["purpose"] for row in rows} == {
        "held/train/0": "exemplar",
        "held/test/0": "query",
        "held/validation/0": "query",
    }
    assert not any(row["halved"] for row in rows)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_without_both_kinds_of_split_is_halved_class_by_class(run: Run, split: str) -> None:
    rows = run(
        "int_evaluation_examples",
        catalog_datasets=catalog(held="evaluation"),
        raw_examples=[raw(f"held/{split}/{i}", f"text {i}", i % 3) for i in range(60)],
    )
    assert [row["example"] for row in rows] == list(range(60))
    assert all(row["halved"] for row in rows)
    for label_id in range(3):
        purposes = [row["purpose"] for row in rows if row["label_id"] == label_id]
        assert purposes.count("exemplar") == purposes.count("query") == 10


# --- what became of the rows --------------------------------------------------------------------


def test_set_statistics_account_for_every_raw_row(run: Run) -> None:
    tuning, held, absent = run(
        "int_set_statistics",
        cap=3,
        catalog_datasets=catalog(a_tuning="tuning", b_held="evaluation", c_absent="tuning"),
        raw_examples=[
            raw("a_tuning/train/0", "ab cd", 0),
            raw("a_tuning/train/1", "ab ce", 0),
            raw("a_tuning/train/2", "ab cf", 1),
            raw("a_tuning/train/3", "AB cd.", 0),
            raw("a_tuning/train/4", "who", 0),
            raw("a_tuning/train/5", "who?", 1),
            raw("a_tuning/train/6", " "),
            raw("a_tuning/train/7", "a leak"),
            raw("a_tuning/validation/0", "elsewhere"),
            raw("b_held/train/0", "A leak!"),
            raw("b_held/test/0", "nothing else"),
        ],
    )
    assert tuning == {
        "dataset": "a_tuning",
        "role": "tuning",
        "raw": 9,
        "kept": 3,
        "empty": 1,
        "duplicate": 1,
        "conflict": 2,
        "other_split": 1,
        "contaminated": 1,
        "capped": 0,
        "classes": 2,
        "smallest_class_share": pytest.approx(1 / 3),
        "mean_characters": 5.0,
        "max_characters": 5,
        "mean_words": 2.0,
        "max_words": 2,
    }
    assert (held["raw"], held["kept"], held["max_characters"]) == (2, 2, 12)
    assert (absent["raw"], absent["kept"], absent["mean_words"]) == (0, 0, None)


def test_rows_beyond_the_cap_are_counted_as_capped(run: Run) -> None:
    (row,) = run(
        "int_set_statistics",
        cap=3,
        catalog_datasets=catalog(a="tuning"),
        raw_examples=[raw(f"a/train/{i}", f"text {i}") for i in range(10)],
    )
    assert (row["kept"], row["capped"]) == (3, 7)


# --- the guard ----------------------------------------------------------------------------------


def prompt(dataset: str, *labels: str, instructed: bool = False) -> Row:
    """A prompt of the mixture with these labels."""
    row: Row = {"prompt": 0, "dataset": dataset, "format": 0, "examples": [0], "targets": [0]}
    return row | {"labels": list(labels), "instructed": instructed}


def test_the_guard_names_symbols_kept_for_evaluation_whatever_their_case_and_unknown_ones(
    run: Run,
) -> None:
    rows = run(
        "int_contamination",
        symbol_pool=[
            {"symbol": "FOO", "category": "combination", "split": "tuning"},
            {"symbol": "bar", "category": "word", "split": "evaluation"},
        ],
        tuning_mixture=[
            prompt("t", "FOO", "BAR"),
            prompt("t", "FOO", "nowhere"),
            prompt("t", "BAR"),
        ],
    )
    assert [(row["kind"], row["dataset"], row["detail"]) for row in rows] == [
        ("symbol", "t", "BAR is kept for evaluation"),
        ("symbol", "t", "nowhere is not in the symbol pool"),
    ]


def test_the_guard_names_symbols_that_are_a_natural_label_of_any_set_whatever_their_case(
    run: Run,
) -> None:
    sources: dict[str, list[Row]] = {
        "catalog_datasets": [
            row | {"labels": labels}
            for row, labels in zip(
                catalog(t="tuning", held="evaluation"),
                (["yes", "no"], ["Positive", "no"]),
                strict=True,
            )
        ],
        "symbol_pool": [
            {"symbol": word, "category": "word", "split": "tuning"} for word in ("positive", "foo")
        ],
    }
    rows = run(
        "int_contamination",
        tuning_mixture=[prompt("t", "positive", "foo"), prompt("t", "NO", "foo")],
        **sources,
    )
    assert [(row["kind"], row["dataset"], row["detail"]) for row in rows] == [
        ("symbol", "t", "NO is a natural label of held"),
        ("symbol", "t", "positive is a natural label of held"),
    ]


def test_the_guard_looks_for_symbols_only_where_prompts_have_them(run: Run) -> None:
    natural = [prompt("t", "yes", "no"), prompt("t", "no", "yes", instructed=True)]
    found = run("int_contamination", tuning_mixture=natural)
    assert len(found) == 2
    assert run("int_contamination", tuning_mixture=natural, labels="natural") == []
    assert run("int_contamination", tuning_mixture=natural[1:]) == []


def test_the_guard_finds_an_evaluation_text_that_reached_tuning_after_all(tmp_path: Path) -> None:
    row = {"dataset": "t", "task_type": "topic", "label": "a", "label_id": 0, "input": "Leak"}
    tables: dict[str, list[Path] | pl.DataFrame] = {
        "int_examples": pl.DataFrame(
            [
                {"example_id": "t/train/0", "normalized": "leak"},
                {"example_id": "held/test/0", "normalized": "leak"},
            ]
        ),
        "int_tuning_examples": pl.DataFrame([row | {"example_id": "t/train/0", "example": 0}]),
        "int_evaluation_examples": pl.DataFrame(
            [row | {"example_id": "held/test/0", "dataset": "held", "example": 0}]
        ),
        "symbol_pool": SOURCES["symbol_pool"].frame(),
        "tuning_mixture": SOURCES["tuning_mixture"].frame(),
        "catalog_datasets": SOURCES["catalog_datasets"].frame(),
    }
    out = tmp_path / "out.parquet"
    model = MODELS["int_contamination"]
    assert engine.run_model(model, tables, VARIABLES, out) == 1
    (result,) = engine.run_tests(model, tables, out)
    assert not result.passed
    assert "t/train/0 says the same as held/test/0" in result.message


# --- scores -------------------------------------------------------------------------------------


def answers(variant: str, correct: str, **fields: Any) -> list[Row]:
    """One prediction a character of `correct`: '1' right, '0' wrong."""
    row: Row = {
        "model": "micro",
        "variant": variant,
        "setting": "symbols, no instruction",
        "flipped_percent": 0,
        "dataset": "held",
        "context": 0,
        "labels": ["x", "y"],
        "target": 0,
        "logprobs": [-1.0, -2.0],
        "chance": 0.5,
    }
    return [
        row | {"query": i, "prediction": int(c == "0"), "correct": c == "1"} | fields
        for i, c in enumerate(correct)
    ]


def flips(variant: str, correct: str, percent: int, **fields: Any) -> list[Row]:
    """Predictions where so many percent of the exemplars have another class's label."""
    flipped = {"setting": flipped_setting(percent), "flipped_percent": percent}
    return answers(variant, correct, **flipped, **fields)


def solutions(variant: str, correct: str, **fields: Any) -> list[Row]:
    row: Row = {
        "model": "micro",
        "variant": variant,
        "benchmark": "list_functions",
        "setting": "fresh",
        "concept": "c001",
        "category": "slicing",
        "context": 0,
        "target": "[1]",
    }
    return [
        row | {"query": i, "completion": "[1]" if c == "1" else "", "correct": c == "1"} | fields
        for i, c in enumerate(correct)
    ]


def test_gain_and_its_test_are_paired_by_prompt(run: Run) -> None:
    untuned, tuned = "1100000000", "0111111100"  # 6 won, 1 lost
    rows = run("mart_icl", eval_icl=answers("untuned", untuned) + answers("tuned", tuned)[::-1])
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
    (tuned, _) = run("mart_icl", eval_icl=answers("untuned", "01") + answers("tuned", "1111"))
    assert (tuned["n"], tuned["accuracy"], tuned["gain"]) == (4, 1.0, 0.5)


def test_answers_to_another_prompt_are_never_paired(run: Run) -> None:
    elsewhere: list[Row] = [
        {"model": "other"},
        {"setting": "symbols, instruction"},
        {"dataset": "another"},
        {"context": 1},
        {"query": 1},
    ]
    untuned = [row for other in elsewhere for row in answers("untuned", "0", **other)]
    rows = run("mart_icl", eval_icl=untuned + answers("tuned", "1"))
    assert [row["gain"] for row in rows if row["variant"] == "tuned"] == [None]


def test_a_variant_alone_has_an_accuracy_and_no_gain(run: Run) -> None:
    variants = ("pretrained", "tuned", "untuned")
    rows = run("mart_summary", eval_icl=[r for v in variants for r in answers(v, "10", model=v)])
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


def test_algorithmic_answers_are_summed_by_category_and_have_no_chance_level(run: Run) -> None:
    rows = run(
        "mart_algorithmic",
        eval_algorithmic=[
            *solutions("untuned", "01", concept="c001"),
            *solutions("untuned", "01", concept="c002"),
            *solutions("tuned", "11", concept="c001"),
            *solutions("tuned", "11", concept="c003", category="sorting"),
        ],
    )
    assert [(r["category"], r["variant"], r["n"], r["correct"], r["gain"]) for r in rows] == [
        ("slicing", "tuned", 2, 2, 0.5),
        ("slicing", "untuned", 4, 2, None),
        ("sorting", "tuned", 2, 2, None),
    ]
    assert {row["chance"] for row in rows} == {None}


def test_the_mart_of_categories_takes_every_benchmark_that_has_some(run: Run) -> None:
    rows = run(
        "mart_algorithmic",
        eval_icl=answers("untuned", "01"),
        eval_algorithmic=solutions("untuned", "01", benchmark="words"),
    )
    assert [(row["benchmark"], row["category"]) for row in rows] == [("words", "slicing")]


def test_the_summary_has_one_row_per_setting_and_variant_and_averages_chance(run: Run) -> None:
    rows = run(
        "mart_summary",
        eval_icl=answers("untuned", "01") + answers("untuned", "11", dataset="b", chance=0.25),
        eval_flipped=flips("untuned", "0", 100),
        eval_algorithmic=solutions("untuned", "01")
        + solutions("untuned", "1", benchmark="turing_concepts"),
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
            for row in answers(variant, correct, model=model)
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
        eval_icl=answers("tuned", "01", model="s")
        + answers("untuned", "11", model="l", setting="symbols, instruction")
        + answers("pretrained", "11", model="l"),
        eval_flipped=flips("untuned", "11", 100, model="l"),
    )
    assert {(row["as_good_untuned"], row["as_good_flops"]) for row in rows} == {(None, None)}


def test_intervals_over_draws_need_ten_draws_and_count_whole_ones(run: Run) -> None:
    def drawn(number: int) -> list[Row]:
        # In every other draw all are right, in the rest none: ten answers say as much as one.
        variants = {"untuned": lambda context: "0", "tuned": lambda context: str(context % 2)}
        return [
            row
            for variant, right in variants.items()
            for context in range(number)
            for row in answers(variant, 10 * right(context), context=context)
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
    rows = [r for i in range(10) for r in answers("untuned", "01", dataset=f"d{i}")]
    (row,) = run("mart_summary", eval_icl=rows)
    assert (row["cluster_low"], row["cluster_high"]) == (0.5, 0.5)


def test_a_sets_p_is_corrected_for_the_sets_of_its_setting(run: Run) -> None:
    right = {"a": "1" * 6, "b": "1" * 7, "c": "1" * 3}  # p = 1/32, 1/64, 1/4
    rows = [
        row
        for dataset, won in right.items()
        for variant, correct in (("untuned", "0" * len(won)), ("tuned", won))
        for row in answers(variant, correct, dataset=dataset)
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
        *answers("untuned", "1100", logprobs=sure(0.92)),  # half right, in the last tenth
        *answers("untuned", "1", logprobs=sure(0.98), context=1),  # and one more
        *answers("untuned", "1", logprobs=sure(0.65), context=2),
        *answers("untuned", "1", logprobs=[-800.0, -1600.0], context=3),  # 1.0, in the last tenth
    ]
    (row,) = run("mart_icl", eval_icl=rows)
    last = abs(4 * 0.92 + 0.98 + 1 - 4) / 6
    assert row["ece"] == pytest.approx((6 * last + 1 * 0.35) / 7)
    (generated,) = run("mart_summary", eval_algorithmic=solutions("untuned", "01"))
    assert generated["ece"] is None


# --- statistics ---------------------------------------------------------------------------------

Z = 1.959963984540054
CLUSTER = (statistics.cluster_low, statistics.cluster_high)
COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_the_wilson_interval_ends_where_the_score_test_is_on_the_edge(
    counts: tuple[int, int, int],
) -> None:
    k, rest, _ = counts
    if n := k + rest:
        low, high = statistics.wilson_low(k, n), statistics.wilson_high(k, n)
        assert 0 <= low <= k / n <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / n))


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_the_exact_p_value_is_twice_the_smaller_tail_of_a_fair_coin(
    counts: tuple[int, int, int],
) -> None:
    b, c, _ = counts
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert statistics.mcnemar_p(b, c) == pytest.approx(min(1.0, 2 * tail))


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_the_paired_interval_holds_the_difference_and_mirrors_when_models_swap(
    counts: tuple[int, int, int],
) -> None:
    b, c, ties = counts
    n = b + c + ties
    low, high = statistics.paired_low(b, c, n), statistics.paired_high(b, c, n)
    assert -1 <= low <= high <= 1
    assert n == 0 or low <= (b - c) / n <= high
    assert statistics.paired_low(c, b, n) == pytest.approx(-high)


def test_the_paired_interval_is_the_formula_worked_by_hand() -> None:
    # b=6, c=1, n=10: proportions 7/12 and 2/12, centre 5/12, reach z·sqrt((9/12 - 25/144)/12).
    reach = Z * math.sqrt((9 / 12 - 25 / 144) / 12)
    assert statistics.paired_low(6, 1, 10) == pytest.approx(5 / 12 - reach)
    assert statistics.paired_high(6, 1, 10) == pytest.approx(5 / 12 + reach)


def test_the_cluster_interval_is_the_binomials_where_each_cluster_is_one_answer() -> None:
    from scipy.stats import binom

    low, high = (f([1] * 30 + [0] * 20, [1] * 50) for f in CLUSTER)
    assert low == pytest.approx(binom.ppf(0.025, 50, 0.6) / 50, abs=0.021)
    assert high == pytest.approx(binom.ppf(0.975, 50, 0.6) / 50, abs=0.021)


def test_the_cluster_interval_grows_with_what_clusters_share_and_never_changes() -> None:
    mixed, alike = ([5] * 20, [0, 10] * 10)
    wholes = [10] * 20
    assert [f(mixed, wholes) for f in CLUSTER] == [0.5, 0.5]
    low, high = (f(alike, wholes) for f in CLUSTER)
    assert low < 0.35 < 0.65 < high
    statistics._bootstrap.cache_clear()
    assert [f(alike, wholes) for f in CLUSTER] == [low, high]


def test_the_cluster_interval_of_a_loss_mirrors_that_of_a_gain() -> None:
    gains, wholes = [3, -1, 0, 2, 4, 1, 0, 0, 2, 5], [10, 8, 10, 9, 10, 10, 7, 10, 10, 10]
    low, high = (f(gains, wholes) for f in CLUSTER)
    assert low < sum(gains) / sum(wholes) < high
    mirrored = [f([-gain for gain in gains], wholes) for f in CLUSTER]
    assert mirrored == pytest.approx([-high, -low], abs=0.01)


def test_one_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        statistics.cluster_low([1], [2])


def test_no_data_says_nothing() -> None:
    assert (statistics.wilson_low(0, 0), statistics.wilson_high(0, 0)) == (0, 1)
    assert (statistics.paired_low(0, 0, 0), statistics.paired_high(0, 0, 0)) == (-1, 1)
    assert statistics.mcnemar_p(0, 0) == 1


def test_more_discordant_pairs_than_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be among 3 pairs"):
        statistics.paired_low(2, 2, 3)


# --- the engine ---------------------------------------------------------------------------------


SOURCE = {"source": Table("source", "d", {key: Column(pl.Int64(), "d") for key in ("a", "b")})}


def folder(tmp_path: Path, **files: str) -> Path:
    """A folder of SQL models: file name → SQL, each entered in schema.yml with no columns."""
    (tmp_path / "staging").mkdir()
    for name, sql in files.items():
        (tmp_path / "staging" / f"{name}.sql").write_text(sql)
    entries = "".join(f"  {name}: {{description: d, columns: {{}}}}\n" for name in files)
    (tmp_path / "schema.yml").write_text(f"models:\n{entries}" if files else "models: {}")
    return tmp_path


def test_every_model_comes_after_the_models_it_reads() -> None:
    seen = set(SOURCES)
    for model in MODELS.values():
        assert set(model.depends_on) <= seen
        seen.add(model.name)


def test_a_common_table_expression_is_not_a_dependency(tmp_path: Path) -> None:
    sql = "WITH cte AS (SELECT a FROM source) SELECT a FROM cte WHERE a IN (SELECT a FROM m0)"
    models = load_models(folder(tmp_path, m0="SELECT a FROM source", m1=sql), SOURCE)
    assert models["m1"].depends_on == ("m0", "source")


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELECT a FROM nowhere", r"m\.sql: table nowhere is neither a SQL model nor a source"),
        ("SELECT a FROM source; SELECT 1", r"m\.sql: holds 2 statements"),
        ("DROP TABLE source", r"m\.sql: holds 1 statements; write exactly one SELECT"),
        ("-- nothing yet", r"m\.sql: holds 1 statements; write exactly one SELECT"),
        ("SELECT\n a FROM WHERE", r"m\.sql: line 2: "),
        ("SELECT a FROM m", r"m\.sql: the SQL models read each other in a circle \(m → m\)"),
    ],
)
def test_a_file_that_is_not_one_good_select_is_named(
    tmp_path: Path, sql: str, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        load_models(folder(tmp_path, m=sql), SOURCE)


def test_a_longer_circle_is_shown_in_the_order_of_reading(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(a → b → a|b → a → b)"):
        load_models(folder(tmp_path, a="SELECT 1 FROM b", b="SELECT 1 FROM a"), SOURCE)


def test_files_and_schema_entries_must_match(tmp_path: Path) -> None:
    home = folder(tmp_path, m="SELECT a FROM source")
    (home / "staging" / "extra.sql").write_text("SELECT 1 AS a")
    with pytest.raises(UserError, match=r"extra\.sql: no entry in schema\.yml"):
        load_models(home, SOURCE)
    (home / "staging" / "extra.sql").unlink()
    (home / "staging" / "m.sql").unlink()
    with pytest.raises(UserError, match=r"schema\.yml: m has an entry but no SQL file"):
        load_models(home, SOURCE)


def test_a_misspelt_test_is_refused(tmp_path: Path) -> None:
    home = folder(tmp_path)
    (home / "schema.yml").write_text(
        "models: {m: {description: d, columns: {a: {description: d, tests: [uniqe]}}}}"
    )
    with pytest.raises(UserError, match=r"schema\.yml: models\.m\.columns\.a\.tests"):
        load_models(home, SOURCE)


def test_the_accepted_values_of_a_claim_may_be_those_of_a_vocabulary(tmp_path: Path) -> None:
    home = folder(tmp_path, m="SELECT a FROM source")
    entry = "models: {{m: {{description: d, columns: {{a: {{description: d, tests: [{}]}}}}}}}}"
    (home / "schema.yml").write_text(entry.format("accepted_values: benchmarks"))
    (model,) = load_models(home, SOURCE).values()
    assert model.tests[0].values == tuple(BENCHMARKS)
    (home / "schema.yml").write_text(entry.format("accepted_values: colours"))
    with pytest.raises(UserError, match=r"no vocabulary is called 'colours'; choose one of roles"):
        load_models(home, SOURCE)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    # More rows than one Parquet row group holds (122,880).
    number = pl.int_range(130_000)
    group = (number % 7).cast(pl.String)
    frame = pl.select(
        example_id=pl.format("d{}/train/{}", group, number),
        dataset=pl.format("d{}", group),
        task_type=pl.lit("topic"),
        split=pl.lit("train"),
        input=pl.format("a text {}", number),
        label=pl.lit("a"),
        label_id=number % 3,
        normalized=pl.format("atext{}", number),
    )
    tables: dict[str, list[Path] | pl.DataFrame] = {
        "stg_examples": frame,
        "catalog_datasets": SOURCES["catalog_datasets"].frame(
            catalog(**{f"d{i}": "tuning" for i in range(7)})
        ),
    }
    outs = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for out in outs:
        engine.run_model(MODELS["int_examples"], tables, VARIABLES, out)
    assert pl.read_parquet(outs[0]).height > 122_880
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_sums_of_fractions_do_not_depend_on_the_order_of_threads(tmp_path: Path) -> None:
    sql = "SELECT sum(a) AS a FROM source ORDER BY a"
    (model,) = load_models(folder(tmp_path, m=sql), SOURCE).values()
    path, out = tmp_path / "source.parquet", tmp_path / "out.parquet"
    number = pl.int_range(200_000)
    pl.select(a=(number * number % 9973) / 7).write_parquet(path, row_group_size=5_000)
    written = set()
    for _ in range(5):
        engine.run_model(model, {"source": [path]}, {}, out)
        written.add(out.read_bytes())
    assert len(written) == 1


def test_files_of_one_table_are_read_together_by_column_name(tmp_path: Path) -> None:
    (model,) = load_models(folder(tmp_path, m="SELECT * FROM source ORDER BY a"), SOURCE).values()
    paths = [tmp_path / "k=1" / "one.parquet", tmp_path / "k=1" / "two [b].parquet"]
    paths[0].parent.mkdir()
    pl.DataFrame({"a": [1], "b": ["x"]}).write_parquet(paths[0])
    pl.DataFrame({"c": [0.5], "a": [2]}).write_parquet(paths[1])
    out = tmp_path / "it's out.parquet"
    assert engine.run_model(model, {"source": paths}, {}, out) == 2
    assert pl.read_parquet(out).rows() == [(1, "x", None), (2, None, 0.5)]


@pytest.mark.parametrize(
    ("tables", "variables", "complaint"),
    [
        ({"source": pl.DataFrame({"a": [1]})}, {}, r"m\.sql: no value .* variable 'cap'"),
        ({}, {"cap": 1}, r"m\.sql: its table source has no files yet"),
        ({"source": []}, {"cap": 1}, r"m\.sql: its table source has no files yet"),
        ({"source": pl.DataFrame({"z": [1]})}, {"cap": 1}, r"m\.sql: Binder Error: .*\ba\b"),
        ({"source": [Path("gone.parquet")]}, {"cap": 1}, r"m\.sql: IO Error: .*gone\.parquet"),
    ],
)
def test_what_a_model_lacks_is_said_in_one_sentence(
    tmp_path: Path, tables: dict[str, Any], variables: dict[str, int], complaint: str
) -> None:
    sql = "SELECT a FROM source WHERE a < getvariable('cap')"
    (model,) = load_models(folder(tmp_path, m=sql), SOURCE).values()
    with pytest.raises(UserError, match=complaint) as error:
        engine.run_model(model, tables, variables, tmp_path / "out.parquet")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.parquet").exists()


def test_declared_tests_count_the_rows_that_fail_and_show_one(tmp_path: Path) -> None:
    home = folder(tmp_path, m="SELECT a, b FROM source")
    (home / "schema.yml").write_text(
        """
models:
  m:
    description: d
    tests: [empty, {unique: [a, b]}]
    columns:
      a: {description: d, tests: [unique, not_null, {relationships: source.b}]}
      b: {description: d, tests: [{accepted_values: ["1", "2"]}]}
"""
    )
    (model,) = load_models(home, SOURCE).values()
    pl.DataFrame({"a": [1, 1, 4, None], "b": [1, 1, 9, 2]}).write_parquet(tmp_path / "own.parquet")
    tables = {"source": pl.DataFrame({"a": [0, 0], "b": [1, 2]})}
    results = engine.run_tests(model, tables, tmp_path / "own.parquet")
    assert {str(result.test): result.failures for result in results} == {
        "empty": 4,
        "unique_a_b": 1,
        "unique_a": 1,
        "not_null_a": 1,
        "relationships_a": 1,
        "accepted_values_b": 1,
    }
    messages = {str(result.test): result.message for result in results}
    assert messages["accepted_values_b"].endswith("as in a=4, b=9.")
    assert messages["unique_a"].endswith("as in a=1, copies=2.")


def test_the_declared_tests_hold_on_good_tables(run: Run, tmp_path: Path) -> None:
    run(
        *MODELS,
        catalog_datasets=catalog(t="tuning", held="evaluation"),
        raw_examples=[
            raw(f"{d}/train/{i}", f"{d} {i}", i % 2) for d in ("t", "held") for i in range(6)
        ],
        eval_icl=answers("untuned", "01") + answers("tuned", "11"),
        eval_flipped=flips("tuned", "0", 100),
        eval_algorithmic=solutions("untuned", "01"),
    )
    tables = {table: [tmp_path / f"{table}.parquet"] for table in (*SOURCES, *MODELS)}
    for model in MODELS.values():
        results = engine.run_tests(model, tables, tables[model.name][0])
        assert len(results) == len(model.tests) > 0
        assert [result.message for result in results if not result.passed] == []


def test_column_lineage_follows_columns_through_expressions_stars_and_unions() -> None:
    assert column_lineage(MODELS["stg_examples"])["normalized"] == [("raw_examples", "input")]
    assert column_lineage(MODELS["mart_summary"])["p"] == [("int_scores", "p")]
    assert column_lineage(MODELS["int_outcomes"])["dataset"] == [
        ("eval_algorithmic", "concept"),
        ("eval_flipped", "dataset"),
        ("eval_icl", "dataset"),
    ]
