"""Which prompts progress is measured on, and their tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest

from symtune_pipeline.prompts.held_out import QUERIES, held_out_prompts
from symtune_pipeline.prompts.held_out_tokens import packed_held_out
from symtune_pipeline.prompts.mixture import mixture_chunks
from symtune_pipeline.prompts.symbols import SymbolSampler
from symtune_pipeline.prompts.text import render, segments
from symtune_pipeline.sections import MixtureConfig
from symtune_pipeline.tables import HELD_OUT_PROMPTS, PACKED_HELD_OUT

CONFIG = MixtureConfig(prompts=20, exemplars_per_class=(2, 4), held_out_prompts=10)


def drawn(examples: pl.DataFrame, symbols: pl.DataFrame, seen: Any = (), **options: Any) -> Any:
    config = CONFIG.model_copy(update=options)
    return HELD_OUT_PROMPTS.checked(
        held_out_prompts(
            examples, SymbolSampler(symbols, "tuning"), config, 0, np.array(seen, np.int64)
        )
    )


@pytest.fixture(scope="module")
def mixture(tuning_examples: pl.DataFrame, symbols: pl.DataFrame) -> pl.DataFrame:
    return pl.concat(mixture_chunks(tuning_examples, SymbolSampler(symbols, "tuning"), CONFIG, 0))


def test_the_sets_take_turns_and_ask_as_many_queries(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    rows = drawn(tuning_examples, symbols)
    assert rows["prompt"].to_list() == sorted(list(range(10)) * QUERIES)
    prompts = rows.group_by("prompt").agg(pl.col("dataset").unique())
    by_set = Counter(prompts.explode("dataset")["dataset"].to_list())
    assert sorted(by_set.values()) == [2, 2, 3, 3]
    assert drawn(tuning_examples, symbols).equals(rows)
    assert drawn(tuning_examples, symbols, held_out_prompts=0).is_empty()


def test_a_prompt_is_one_of_the_mixtures_kind(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    known = {row["example"]: row for row in tuning_examples.iter_rows(named=True)}
    for_tuning = set(symbols.filter(split="tuning")["symbol"])
    ks = set()
    for row in drawn(tuning_examples, symbols, held_out_prompts=40).iter_rows(named=True):
        shown = [known[number] for number in (*row["exemplars"], row["query"])]
        assert {example["dataset"] for example in shown} == {row["dataset"]}
        targets = [*row["exemplar_targets"], row["target"]]
        assert [example["label_id"] for example in shown] == targets
        counts = Counter(row["exemplar_targets"])
        assert set(counts) == set(range(len(row["labels"])))
        (k,) = set(counts.values())
        ks.add(k)
        assert row["query"] not in row["exemplars"]
        assert set(row["labels"]) <= for_tuning
        assert len(set(row["labels"])) == len(row["labels"])
    assert ks == {2, 3, 4}


def test_queries_are_spread_over_the_classes_so_that_no_symbol_is_a_better_guess(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    rows = drawn(tuning_examples, symbols, held_out_prompts=400)
    for (_,), of_prompt in rows.group_by("prompt"):
        classes = len(of_prompt["labels"][0])
        counts = [of_prompt.filter(target=c).height for c in range(classes)]
        assert max(counts) - min(counts) <= 1
        assert of_prompt["query"].n_unique() == QUERIES
    for (dataset,), of_set in rows.group_by("dataset"):
        classes = len(of_set["labels"][0])
        for c in range(classes):
            assert of_set.filter(target=c).height / len(of_set) == pytest.approx(
                1 / classes, abs=0.05
            ), dataset


def test_a_prompt_has_no_example_of_the_mixture_where_a_set_has_others(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame, mixture: pl.DataFrame
) -> None:
    seen = mixture.head(5)["examples"].explode().unique().sort().to_numpy()
    rows = drawn(tuning_examples, symbols, seen)
    asked = {*rows["exemplars"].explode(), *rows["query"]}
    assert len(seen) and not asked & set(seen.tolist())
    assert not rows["seen"].any()


def test_a_set_that_the_mixture_has_used_up_is_measured_on_and_said_to_be_seen(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    one = tuning_examples["dataset"][0]
    seen = tuning_examples.filter(dataset=one)["example"].to_numpy()
    rows = drawn(tuning_examples, symbols, seen)
    assert rows.filter(dataset=one)["seen"].all()
    assert not rows.filter(pl.col("dataset") != one)["seen"].any()


def test_what_the_mixture_is_changes_nothing_about_the_held_out_prompts_of_a_control(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    """Natural or shuffled labels, or instructions: all are asked the same."""
    expected = drawn(tuning_examples, symbols)
    for options in ({"labels": "natural"}, {"labels": "shuffled"}, {"instructed_share": 1.0}):
        assert drawn(tuning_examples, symbols, **options).equals(expected)


def test_a_set_of_few_examples_asks_those_it_has(symbols: pl.DataFrame) -> None:
    examples = pl.DataFrame(
        {
            "example": range(5),
            "dataset": "few",
            "input": [f"text {i}" for i in range(5)],
            "label": ["a", "a", "b", "b", "b"],
            "label_id": [0, 0, 1, 1, 1],
        }
    )
    rows = drawn(examples, symbols, held_out_prompts=3, exemplars_per_class=(1, 10))
    for row in rows.iter_rows(named=True):
        assert row["exemplar_targets"].count(0) == row["exemplar_targets"].count(1) == 1
        assert row["query"] not in row["exemplars"]
    assert rows["prompt"].value_counts()["count"].to_list() == [3, 3, 3]


# --- tokens ---------------------------------------------------------------------------------------


def test_what_queries_share_and_add_are_the_tokens_of_whole_strings(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame, tokenizer: Any
) -> None:
    inputs = tuning_examples.sort("example")["input"]
    rows = drawn(tuning_examples, symbols)
    packed = PACKED_HELD_OUT.checked(packed_held_out(rows, inputs, tokenizer, 4_000))
    assert packed["prompt"].to_list() == list(range(10))
    asked = iter(rows.iter_rows(named=True))
    for prompt in packed.iter_rows(named=True):
        for i, target in enumerate(prompt["targets"]):
            row = next(asked)
            assert (row["prompt"], row["target"]) == (prompt["prompt"], target)
            labels = [row["labels"][c] for c in row["exemplar_targets"]]
            texts = [inputs[e] for e in (*row["exemplars"], row["query"])]
            for label, symbol in zip(row["labels"], prompt["symbol_tokens"][i], strict=True):
                string = render(segments(row["format"], texts, [*labels, label]))
                assert [*prompt["tokens"], *prompt["query_tokens"][i], *symbol] == tokenizer(
                    string
                ).input_ids
    assert next(asked, None) is None


def test_a_long_prompt_loses_exemplars_of_all_its_queries_and_stays_balanced(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame, tokenizer: Any
) -> None:
    inputs = tuning_examples.sort("example")["input"]
    rows = drawn(tuning_examples, symbols)

    def longest(packed: pl.DataFrame) -> list[int]:
        return [
            len(row["tokens"])
            + max(
                len(query) + max(map(len, of_query))
                for query, of_query in zip(row["query_tokens"], row["symbol_tokens"], strict=True)
            )
            for row in packed.iter_rows(named=True)
        ]

    whole = longest(packed_held_out(rows, inputs, tokenizer, 4_000))
    most = max(whole) - 1
    cut = longest(packed_held_out(rows, inputs, tokenizer, most))
    assert len(cut) == len(whole) and max(cut) <= most
    assert [a for a, b in zip(cut, whole, strict=True) if b <= most] == [
        b for b in whole if b <= most
    ]
    assert packed_held_out(rows, inputs, tokenizer, 10).is_empty()


def test_symbols_that_are_the_same_tokens_or_none_are_not_measured_on(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame, tokenizer: Any
) -> None:
    inputs = tuning_examples.sort("example")["input"]
    rows = drawn(tuning_examples, symbols)
    same = pl.when(pl.col("prompt") == 3).then(pl.col("labels").list.eval(pl.lit("x")))
    packed = packed_held_out(
        rows.with_columns(labels=same.otherwise("labels")), inputs, tokenizer, 4_000
    )
    assert packed["prompt"].to_list() == [n for n in range(10) if n != 3]
