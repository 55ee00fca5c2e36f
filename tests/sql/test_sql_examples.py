"""What SQL makes of raw examples: cleaning, the two sets, their statistics, the guard."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from sql_rows import (
    MODELS,
    VARIABLES,
    Row,
    Run,
    catalog,
    ids,
    prompt,
    raw,
    running,
)

from symtune_pipeline.sql import engine
from symtune_pipeline.tables import SOURCES


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return running(tmp_path)


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


def test_of_copies_that_agree_the_first_is_kept_and_of_one_text_with_two_labels_none(
    run: Run,
) -> None:
    rows = run(
        "int_examples",
        catalog_datasets=catalog(d="tuning", e="tuning"),
        raw_examples=[
            raw("d/train/2", "The same.", 1),
            raw("d/train/1", "the  SAME", 1),
            raw("d/train/3", "Who knows", 0),
            raw("d/train/4", " Who  knows", 1),
            raw("d/train/5", "who knows", 1),
            raw("e/train/0", "The same.", 0),
        ],
    )
    assert ids(rows) == ["d/train/1", "d/train/5", "e/train/0"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5", "-5"),
        ("1.5 kg", "15 kg"),
        ("He left.", "He left?"),
        ("A hotel of *", "A hotel of ***"),
        ("polish", "Polish"),
        ("\u092c\u0932", "\u092c\u093e\u0932"),  # strength and hair: a vowel sign
        ("\u0e1b\u0e32", "\u0e1b\u0e48\u0e32"),  # to throw and forest: a tone mark
        ("\u304b\u304d", "\u304b\u304e"),  # persimmon and key: a voiced sound
    ],
)
def test_texts_whose_labels_hang_on_what_copies_may_differ_in_are_all_kept(
    run: Run, one: str, other: str
) -> None:
    examples = [raw("d/train/0", one, 0), raw("d/train/1", other, 1)]
    [counts] = run(
        "int_set_statistics", catalog_datasets=catalog(d="tuning"), raw_examples=examples
    )
    assert (counts["kept"], counts["conflict"], counts["duplicate"]) == (2, 0, 0)


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
            raw("a_tuning/train/5", " who", 1),
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


def test_a_text_with_two_labels_is_counted_as_a_conflict_beside_a_like_one_that_is_kept(
    run: Run,
) -> None:
    examples = [
        raw("a/train/0", "who", 0),
        raw("a/train/1", "who", 1),
        raw("a/train/2", "Who?", 1),
        raw("a/train/3", "WHO?", 1),
    ]
    [row] = run("int_set_statistics", catalog_datasets=catalog(a="tuning"), raw_examples=examples)
    assert (row["kept"], row["conflict"], row["duplicate"]) == (1, 2, 1)


def test_rows_beyond_the_cap_are_counted_as_capped(run: Run) -> None:
    (row,) = run(
        "int_set_statistics",
        cap=3,
        catalog_datasets=catalog(a="tuning"),
        raw_examples=[raw(f"a/train/{i}", f"text {i}") for i in range(10)],
    )
    assert (row["kept"], row["capped"]) == (3, 7)


# --- the guard ----------------------------------------------------------------------------------


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
