"""The evaluation suites: which prompts every benchmark asks."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest

from symtune_pipeline.catalog.datasets import all_datasets, find_dataset
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.benchmarks import list_functions
from symtune_pipeline.evaluation.benchmarks import turing_concepts as turing
from symtune_pipeline.evaluation.concepts import Prompt, Published
from symtune_pipeline.evaluation.predictions import by_context, ranked
from symtune_pipeline.evaluation.suites import (
    algorithmic_suite,
    asked_queries,
    classification_suite,
    derangement,
    flip,
    language_suite,
    short_of_queries,
)
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import (
    ALGORITHMIC_SUITE,
    CLASSIFICATION_SUITE,
    EXEMPLARS,
    LANGUAGE_SUITE,
    MOST_CLASSES,
    SETTINGS,
    ZERO_SHOT,
    flipped_setting,
)

PERCENTS = (0, 25, 50, 75, 100)
CONFIG = EvaluationConfig(contexts=3, queries=10, flipped_percents=PERCENTS)
INSTRUCTIONS = {key: entry.instruction for key, entry in all_datasets().items()}
ICL = [setting.name for setting in SETTINGS]

Row = dict[str, Any]


def _suite(
    examples: pl.DataFrame, symbols: pl.DataFrame, config: EvaluationConfig = CONFIG, seed: int = 0
) -> pl.DataFrame:
    return classification_suite(examples, symbols, INSTRUCTIONS, config, seed)


@pytest.fixture(scope="module")
def suite(evaluation_examples: pl.DataFrame, symbols: pl.DataFrame) -> pl.DataFrame:
    return _suite(evaluation_examples, symbols)


def test_the_suites_fit_the_contract(suite: pl.DataFrame) -> None:
    CLASSIFICATION_SUITE.checked(suite)
    ALGORITHMIC_SUITE.checked(algorithmic_suite(EvaluationConfig(), seed=0))


@pytest.mark.parametrize("protocol", ["shared", "per_query"])
def test_more_classes_than_a_byte_counts_keep_their_targets(
    protocol: Any, symbols: pl.DataFrame
) -> None:
    labels = [f"class {i}" for i in range(300)]
    examples = pl.DataFrame(
        {
            "dataset": "rte",
            "label": labels * 3,
            "label_id": [*range(300)] * 3,
            "purpose": ["query"] * 300 + ["exemplar"] * 600,
            "halved": False,
        }
    ).with_row_index("example")
    config = EvaluationConfig(exemplars_per_class=1, queries=300, contexts=1, protocol=protocol)
    found = CLASSIFICATION_SUITE.checked(_suite(examples, symbols, config))
    asked = found.filter(benchmark="icl")
    assert (asked["target"] == asked["query"]).all()
    assert (asked["exemplar_targets"].explode() == asked["exemplars"].explode() % 300).all()
    turned = found.filter(benchmark="flipped", setting=flipped_setting(100))
    assert (turned["target"] != turned["query"]).all()
    assert set(turned["exemplar_targets"][0]) == set(range(300))
    contexts, _ = by_context(found, [])
    scores = [[[-abs(i - 299.0) for i in range(300)]] * len(rows) for rows in contexts]
    assert set(ranked(found, scores, [0] * len(scores), "packed")["prediction"]) == {299}


def test_a_number_that_its_type_cannot_hold_breaks_the_contract(suite: pl.DataFrame) -> None:
    too_large = suite.head(1).to_dicts()[0] | {"exemplar_targets": [1, MOST_CLASSES]}
    with pytest.raises(UserError, match=r"'eval\.classification'.*exemplar_targets"):
        CLASSIFICATION_SUITE.checked(CLASSIFICATION_SUITE.frame([tuple(too_large.values())], "row"))


def _shown(suite: pl.DataFrame) -> pl.DataFrame:
    """The rows with exemplars."""
    return suite.filter(pl.col("setting") != ZERO_SHOT)


@pytest.fixture(scope="module")
def rows(suite: pl.DataFrame) -> list[Row]:
    return _shown(suite).to_dicts()


@pytest.fixture(scope="module")
def by_number(evaluation_examples: pl.DataFrame) -> dict[int, Row]:
    return {row["example"]: row for row in evaluation_examples.iter_rows(named=True)}


@pytest.fixture(scope="module")
def algorithmic() -> list[Row]:
    config = EvaluationConfig(list_functions=12, turing_programs=12, algorithmic_queries=3)
    return algorithmic_suite(config, seed=0).to_dicts()


def test_every_context_is_asked_in_four_settings_and_for_every_flipped_fraction(
    suite: pl.DataFrame,
) -> None:
    settings = suite.group_by("benchmark", "setting", "flipped_percent").len()
    expected = 3 * CONFIG.contexts * CONFIG.queries
    assert {row[:3] for row in settings.rows()} == {("icl", name, 0) for name in ICL} | {
        *(("flipped", flipped_setting(percent), percent) for percent in PERCENTS),
        ("flipped", ZERO_SHOT, 0),
    }
    assert set(settings["len"]) == {expected}


def test_all_settings_of_a_context_share_exemplars_queries_and_format(rows: list[Row]) -> None:
    shared: dict[tuple[str, int], set[tuple[Any, ...]]] = {}
    queries: dict[tuple[str, int, str], list[int]] = {}
    for row in rows:
        context = (row["dataset"], row["context"])
        shared.setdefault(context, set()).add((tuple(row["exemplars"]), row["format"]))
        queries.setdefault((*context, row["setting"]), []).append(row["query"])
    assert all(len(found) == 1 for found in shared.values())
    for context in shared:
        asked = [found for key, found in queries.items() if key[:2] == context]
        assert len(asked) == len(ICL) + len(PERCENTS)
        assert all(found == asked[0] for found in asked)


def test_exemplars_and_queries_have_their_purpose_and_never_meet(
    rows: list[Row], by_number: dict[int, Row]
) -> None:
    exemplars = {example for row in rows for example in row["exemplars"]}
    queries = {row["query"] for row in rows}
    assert {by_number[example]["purpose"] for example in exemplars} == {"exemplar"}
    assert {by_number[example]["purpose"] for example in queries} == {"query"}
    for row in rows:
        shown = [by_number[example]["dataset"] for example in (*row["exemplars"], row["query"])]
        assert set(shown) == {row["dataset"]}


def test_no_query_is_asked_in_two_contexts(rows: list[Row]) -> None:
    asked = {(row["dataset"], row["context"], row["query"]) for row in rows}
    assert (
        len({query for _, _, query in asked}) == len(asked) == 3 * CONFIG.contexts * CONFIG.queries
    )


def test_exemplars_are_distinct_and_as_many_of_every_class(
    rows: list[Row], by_number: dict[int, Row]
) -> None:
    for row in rows:
        assert len(set(row["exemplars"])) == len(row["exemplars"])
        counts = Counter(by_number[example]["label"] for example in row["exemplars"])
        assert len(counts) == len(row["labels"])
        assert set(counts.values()) == {CONFIG.exemplars_per_class}


# --- several numbers of exemplars -----------------------------------------------------------------

NUMBERS = (1, 2, 4, 8)


@pytest.fixture(scope="module", params=["shared", "per_query"])
def asked_so(request: pytest.FixtureRequest) -> EvaluationConfig:
    return EvaluationConfig(
        protocol=request.param,
        contexts=2,
        queries=5,
        flipped_percents=(50, 100),
        exemplars_per_class=(8, 1, 4, 2),
    )


@pytest.fixture(scope="module")
def numbered(
    asked_so: EvaluationConfig, evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> pl.DataFrame:
    """The suite of several numbers with each row's own (null without exemplars) and bare setting."""
    number = pl.col("setting").str.extract(EXEMPLARS).cast(pl.Int64)
    return _suite(evaluation_examples, symbols, asked_so).with_columns(
        k=number, bare=pl.col("setting").str.replace(EXEMPLARS, "")
    )


def test_every_number_of_exemplars_is_asked_of_every_class(
    numbered: pl.DataFrame, by_number: dict[int, Row]
) -> None:
    for row in numbered.drop_nulls("k").iter_rows(named=True):
        classes = Counter(by_number[example]["label"] for example in row["exemplars"])
        assert set(classes.values()) == {row["k"]} and len(classes) == len(row["labels"])
    assert set(numbered.filter(pl.col("k").is_null())["setting"]) == {ZERO_SHOT}
    settings = numbered.group_by("bare").agg(pl.col("k").unique().sort())
    of_setting = dict(settings.iter_rows())
    assert of_setting.pop(ZERO_SHOT) == [None]
    assert set(of_setting) == {*ICL, flipped_setting(50), flipped_setting(100)}
    assert all(numbers == list(NUMBERS) for numbers in of_setting.values())


def test_numbers_of_exemplars_differ_in_exemplars_alone_and_smaller_ones_are_nested(
    numbered: pl.DataFrame,
) -> None:
    same = ("bare", "flipped_percent", "dataset", "context", "query")
    for _, rows in numbered.drop_nulls("k").group_by(same):
        by_count = {row["k"]: row for row in rows.iter_rows(named=True)}
        assert tuple(sorted(by_count)) == NUMBERS
        for name in ("format", "instruction", "labels", "target"):
            assert all(row[name] == by_count[1][name] for row in by_count.values())
        for fewer, more in pairwise(NUMBERS):
            shown = by_count[more]["exemplars"]
            kept = [example for example in shown if example in by_count[fewer]["exemplars"]]
            assert kept == by_count[fewer]["exemplars"]  # in the same order


def test_flips_are_a_share_of_each_number(
    numbered: pl.DataFrame, by_number: dict[int, Row]
) -> None:
    half = numbered.filter(bare=flipped_setting(50)).drop_nulls("k")
    for row in half.iter_rows(named=True):
        changed: Counter[int] = Counter()
        for truth, target in _truth_and_target(row, by_number):
            changed[truth] += target != truth
        assert set(changed.values()) == {round(row["k"] / 2)}


def test_the_largest_number_is_asked_as_it_would_be_alone(
    asked_so: EvaluationConfig,
    numbered: pl.DataFrame,
    evaluation_examples: pl.DataFrame,
    symbols: pl.DataFrame,
) -> None:
    alone = EvaluationConfig.model_validate(asked_so.model_dump() | {"exemplars_per_class": 8})
    most = numbered.filter((pl.col("k") == 8) | pl.col("k").is_null())
    most = most.with_columns(setting="bare").drop("k", "bare")
    assert most.equals(_suite(evaluation_examples, symbols, alone))


def test_labels_of_two_are_flipped_alone_where_the_experiment_says_so(
    suite: pl.DataFrame, evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    config = CONFIG.model_copy(update={"flipped_sets": "two_labels"})
    found = _suite(evaluation_examples, symbols, config)
    two = pl.col("labels").list.len() == 2
    assert (
        0 < suite.filter(two, benchmark="flipped").height < suite.filter(benchmark="flipped").height
    )
    assert found.equals(suite.filter(two | (pl.col("benchmark") == "icl")))


# --- wrong symbols --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["shared", "per_query"])
def test_a_share_of_the_exemplars_shows_another_symbol_beside_the_settings_of_symbols(
    protocol: Any, evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    settings = {"protocol": protocol, "contexts": 3, "queries": 6, "exemplars_per_class": (2, 4)}
    plain, none, noisy = (
        _suite(evaluation_examples, symbols, EvaluationConfig(**settings, label_noise=shares))
        for shares in ((), (0,), (0.25, 0.125, 0.5))
    )
    assert none.equals(plain)
    with_noise = pl.col("setting").str.contains("noise")
    assert noisy.filter(~with_noise).equals(plain)
    assert noisy["setting"].filter(noisy["setting"].str.contains("noise")).n_unique() == 2 * 3 * 2
    beside = {
        (row["dataset"], row["context"], row["query"], row["setting"]): row
        for row in plain.iter_rows(named=True)
    }
    wrong_at: dict[tuple[Any, ...], set[int]] = {}
    for row in CLASSIFICATION_SUITE.checked(noisy.filter(with_noise)).iter_rows(named=True):
        bare, share, number = row["setting"].rsplit(", ", 2)
        clean = beside[row["dataset"], row["context"], row["query"], f"{bare}, {number}"]
        same = ("benchmark", "exemplars", "labels", "target", "instruction", "format")
        assert all(row[name] == clean[name] for name in same)
        pairs = list(zip(row["exemplar_targets"], clean["exemplar_targets"], strict=True))
        wrong = {e for e, (a, b) in zip(row["exemplars"], pairs, strict=True) if a != b}
        percent = float(share.removesuffix("% noise"))
        assert len(wrong) == round(len(pairs) * percent / 100)
        wrong_at[row["dataset"], row["context"], bare, number, row["query"], percent] = wrong
    for (*asked, percent), wrong in wrong_at.items():
        assert percent == 50 or wrong <= wrong_at[*asked, 2 * percent]


def test_a_list_of_one_number_is_that_number() -> None:
    one = EvaluationConfig(exemplars_per_class=(4,))
    assert one.model_dump_json() == EvaluationConfig(exemplars_per_class=4).model_dump_json()
    either = [EvaluationConfig(exemplars_per_class=numbers) for numbers in ((1, 8), (8, 1))]
    assert either[0] == either[1]


def test_in_context_targets_are_the_true_classes(
    rows: list[Row], by_number: dict[int, Row]
) -> None:
    for row in rows:
        if row["benchmark"] == "icl":
            shown = (*row["exemplars"], row["query"])
            assert [*row["exemplar_targets"], row["target"]] == [
                by_number[e]["label_id"] for e in shown
            ]


def test_instructions_and_natural_labels_are_shown_where_the_setting_says_so(
    rows: list[Row], symbols: pl.DataFrame
) -> None:
    allowed = set(symbols.filter(split="evaluation")["symbol"])
    settings = {setting.name: (setting.relevant, setting.instructed) for setting in SETTINGS}
    assert sorted(settings.values()) == [(False, False), (False, True), (True, False), (True, True)]
    for row in rows:
        natural_only = (True, False)  # flipped
        relevant, instructed = settings.get(row["setting"], natural_only)
        assert row["instruction"] == (INSTRUCTIONS[row["dataset"]] if instructed else None)
        natural = list(find_dataset(row["dataset"]).labels.values())
        assert (row["labels"] == natural) == relevant
        if not relevant:
            assert set(row["labels"]) <= allowed
            assert len(set(row["labels"])) == len(natural)


def test_both_symbol_settings_of_a_context_use_the_same_symbols_and_contexts_do_not(
    rows: list[Row],
) -> None:
    used: dict[tuple[str, int], set[tuple[str, ...]]] = {}
    for row in rows:
        if row["setting"].startswith("symbols"):
            used.setdefault((row["dataset"], row["context"]), set()).add(tuple(row["labels"]))
    assert all(len(found) == 1 for found in used.values())
    assert len({labels for found in used.values() for labels in found}) == len(used)


def _truth_and_target(row: Row, by_number: dict[int, Row]) -> list[tuple[int, int]]:
    return [
        (by_number[example]["label_id"], target)
        for example, target in zip(row["exemplars"], row["exemplar_targets"], strict=True)
    ]


def test_fully_flipped_labels_are_a_derangement_that_the_target_follows(
    rows: list[Row], by_number: dict[int, Row]
) -> None:
    for row in rows:
        if row["flipped_percent"] == 100:
            mapping = dict(_truth_and_target(row, by_number))
            assert set(_truth_and_target(row, by_number)) == set(
                mapping.items()
            )  # one target per class
            assert sorted(mapping.values()) == sorted(mapping)
            assert all(target != truth for truth, target in mapping.items())
            assert row["target"] == mapping[by_number[row["query"]]["label_id"]]


@pytest.mark.parametrize("percent", PERCENTS)
def test_that_share_of_every_class_is_flipped_and_the_target_is_the_flip(
    percent: int, rows: list[Row], by_number: dict[int, Row]
) -> None:
    full = {
        (row["dataset"], row["context"], row["query"]): row
        for row in rows
        if row["flipped_percent"] == 100
    }
    found = [
        row for row in rows if row["benchmark"] == "flipped" and row["flipped_percent"] == percent
    ]
    for row in found:
        whole = full[row["dataset"], row["context"], row["query"]]
        assert row["target"] == whole["target"]
        mapping = dict(_truth_and_target(whole, by_number))
        changed: Counter[int] = Counter()
        for truth, target in _truth_and_target(row, by_number):
            assert target in (truth, mapping[truth])
            changed[truth] += target != truth
        assert set(changed.values()) == {CONFIG.exemplars_per_class * percent // 100}


@pytest.mark.parametrize("protocol", ["shared", "per_query"])
def test_every_flipped_query_is_asked_once_without_exemplars_for_its_true_class(
    protocol: Any,
    evaluation_examples: pl.DataFrame,
    symbols: pl.DataFrame,
    by_number: dict[int, Row],
) -> None:
    config = CONFIG.model_copy(update={"protocol": protocol})
    suite = _suite(evaluation_examples, symbols, config)
    asked = ["dataset", "context", "query", "format", "labels", "instruction"]
    zero_shot = suite.filter(setting=ZERO_SHOT)
    flipped = suite.filter(setting=flipped_setting(100))
    assert zero_shot.select(asked).equals(flipped.select(asked))
    assert set(zero_shot["exemplars"].list.len()) == {0}
    assert set(zero_shot["exemplar_targets"].list.len()) == {0}
    truth = [by_number[query]["label_id"] for query in zero_shot["query"]]
    assert zero_shot["target"].to_list() == truth
    none = _suite(evaluation_examples, symbols, CONFIG.model_copy(update={"flipped_percents": ()}))
    assert set(none["benchmark"]) == {"icl"}
    assert none.equals(_suite(evaluation_examples, symbols).filter(benchmark="icl"))


def test_without_a_dataset_a_suite_is_empty(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    assert CLASSIFICATION_SUITE.checked(_suite(evaluation_examples.clear(), symbols)).is_empty()


def test_texts_are_drawn_by_seed_at_most_so_many_of_a_dataset_each_as_if_alone(
    evaluation_examples: pl.DataFrame,
) -> None:
    drawn = LANGUAGE_SUITE.checked(language_suite(evaluation_examples, 30, seed=0))
    assert set(drawn.group_by("dataset").len()["len"]) == {30}
    own = evaluation_examples.select("dataset", "example")
    assert drawn.join(own, on=["dataset", "example"], how="semi").equals(drawn)
    assert language_suite(evaluation_examples.reverse(), 30, seed=0).equals(drawn)
    alone = language_suite(evaluation_examples.filter(dataset="life_events"), 30, seed=0)
    assert alone.equals(drawn.filter(dataset="life_events"))
    assert not language_suite(evaluation_examples, 30, seed=1).equals(drawn)
    assert len(language_suite(evaluation_examples, 10_000, seed=0)) == len(evaluation_examples)
    assert language_suite(evaluation_examples, 0, seed=0).is_empty()


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        (0, [0, 0, 1, 1, 1, 1]),
        (25, [0, 0, 2, 1, 1, 1]),  # half an exemplar is rounded to the even number
        (50, [1, 0, 2, 2, 1, 1]),
        (75, [1, 1, 2, 2, 2, 1]),
        (100, [1, 1, 2, 2, 2, 2]),
    ],
)
def test_flip_maps_its_share_of_each_class(percent: int, expected: list[int]) -> None:
    targets = np.array([0, 0, 1, 1, 1, 1])
    assert flip(targets, percent, np.array([1, 2, 0])).tolist() == expected
    assert targets.tolist() == [0, 0, 1, 1, 1, 1], "the targets handed in stay as they are"


@pytest.mark.parametrize(("size", "number"), [(2, 1), (3, 2), (4, 9)])
def test_a_derangement_moves_every_class_and_each_is_equally_likely(size: int, number: int) -> None:
    from scipy.stats import chisquare

    rng = np.random.default_rng(0)
    counts = Counter(tuple(derangement(size, rng).tolist()) for _ in range(2_000))
    assert len(counts) == number
    assert all(sorted(found) == list(range(size)) for found in counts)
    assert all(label != to for found in counts for label, to in enumerate(found))
    assert number == 1 or chisquare(list(counts.values())).pvalue > 1e-3


def test_a_flipped_share_of_none_has_a_setting_of_its_own(rows: list[Row]) -> None:
    unflipped = {row["setting"] for row in rows if row["flipped_percent"] == 0}
    assert unflipped == {*ICL, "0% flipped"}


def test_rows_of_a_context_are_neighbours(suite: pl.DataFrame) -> None:
    keys = ["benchmark", "setting", "flipped_percent", "dataset", "context"]
    runs = suite.select(pl.struct(keys).rle_id().n_unique()).item()
    assert runs == suite.select(keys).n_unique()


def test_the_suite_depends_on_the_seed_and_a_dataset_on_no_other(
    suite: pl.DataFrame, evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    assert _suite(evaluation_examples, symbols).equals(suite)
    other = _suite(evaluation_examples, symbols, seed=1)
    assert other["query"].to_list() != suite["query"].to_list()
    alone = _suite(evaluation_examples.filter(dataset="life_events"), symbols)
    assert alone.equals(suite.filter(dataset="life_events"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exemplars_per_class": 21}, "20 exemplars of its rarest"),
        ({"exemplars_per_class": (1, 21)}, "20 exemplars of its rarest"),
        (
            {"exemplars_per_class": 40, "protocol": "per_query", "halved": True},
            "39 exemplars of its",
        ),
    ],
)
def test_a_dataset_with_too_few_exemplars_is_one_sentence(
    changes: dict[str, Any],
    says: str,
    evaluation_examples: pl.DataFrame,
    symbols: pl.DataFrame,
) -> None:
    halved = changes.pop("halved", False)
    examples = evaluation_examples.filter(dataset="magazine_topics").with_columns(halved=halved)
    with pytest.raises(UserError) as error:
        _suite(
            examples,
            symbols,
            EvaluationConfig.model_validate({"contexts": 1, "queries": 5} | changes),
        )
    for part in ["'magazine_topics'", says, "lower evaluation.exemplars_per_class"]:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_the_largest_suite_that_fits_is_made(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    examples = evaluation_examples.filter(dataset="magazine_topics")
    config = EvaluationConfig(contexts=4, queries=20, exemplars_per_class=20)
    found = _suite(examples, symbols, config)
    assert set(found["query"]) == set(examples.filter(purpose="query")["example"])
    assert short_of_queries(found, config) == {}


@pytest.mark.parametrize(
    ("contexts", "queries", "made"), [(3, 30, (3, 26)), (1, 500, (1, 80)), (90, 2, (80, 1))]
)
def test_a_dataset_with_fewer_queries_is_asked_those_it_has(
    contexts: int,
    queries: int,
    made: tuple[int, int],
    evaluation_examples: pl.DataFrame,
    symbols: pl.DataFrame,
) -> None:
    examples = evaluation_examples.filter(dataset="magazine_topics")
    config = EvaluationConfig(contexts=contexts, queries=queries)
    found = _suite(examples, symbols, config).filter(setting="symbols, instruction")
    sizes = found.group_by("context").agg(pl.col("query").n_unique())["query"]
    assert (len(sizes), *set(sizes)) == made
    assert short_of_queries(found, config) == {"magazine_topics": made[0] * made[1]}
    assert asked_queries(config) == contexts * queries


def test_a_dataset_without_queries_is_one_sentence(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    examples = evaluation_examples.filter(purpose="exemplar", dataset="life_events")
    with pytest.raises(
        UserError, match=r"^Dataset 'life_events' has no example for a query; .*\.$"
    ):
        _suite(examples, symbols)


# --- exemplars of its own for every query -------------------------------------------------------

PER_QUERY = EvaluationConfig(protocol="per_query", queries=30, flipped_percents=PERCENTS)


def test_every_query_is_a_context_with_exemplars_of_its_own(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame, by_number: dict[int, Row]
) -> None:
    suite = _shown(_suite(evaluation_examples, symbols, PER_QUERY))
    one = suite.filter(setting="symbols, no instruction")
    sizes = one.group_by("dataset").agg(pl.col("context", "query").n_unique())
    assert set(sizes.select("context", "query").rows()) == {(30, 30)}
    assert one.select(pl.col("exemplars").list.sort()).n_unique() == len(one)
    per_context = suite.group_by("dataset", "context").agg(
        pl.col("exemplars", "query", "format").n_unique()
    )
    assert set(per_context.select("exemplars", "query", "format").rows()) == {(1, 1, 1)}
    test_exemplars_and_queries_have_their_purpose_and_never_meet(suite.to_dicts(), by_number)


def test_any_other_row_of_a_halved_set_may_be_an_exemplar(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame, by_number: dict[int, Row]
) -> None:
    halved = evaluation_examples.with_columns(halved=True)
    config = PER_QUERY.model_copy(update={"queries": 1_000})
    suite = _shown(_suite(halved, symbols, config))
    assert set(suite["query"]) == set(halved["example"])
    assert set(suite["exemplars"].explode()) == set(halved["example"])
    for row in suite.iter_rows(named=True):
        assert row["query"] not in row["exemplars"]
        counts = Counter(by_number[example]["label"] for example in row["exemplars"])
        assert len(counts) == len(row["labels"])
        assert set(counts.values()) == {config.exemplars_per_class}
    assert short_of_queries(suite, config) == dict.fromkeys(sorted(set(halved["dataset"])), 160)


def test_a_halved_set_keeps_its_halves_where_exemplars_are_shared(
    suite: pl.DataFrame, evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    assert _suite(evaluation_examples.with_columns(halved=True), symbols).equals(suite)


def _without(examples: pl.DataFrame, purpose: str, label_id: int) -> pl.DataFrame:
    four = examples.filter(dataset="magazine_topics")
    return four.filter(~((pl.col("purpose") == purpose) & (pl.col("label_id") == label_id)))


def test_a_query_of_a_class_without_exemplars_is_one_sentence(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    with pytest.raises(
        UserError, match=r"^Dataset 'magazine_topics' has queries of class '.*no exemplar"
    ):
        _suite(_without(evaluation_examples, "exemplar", 1), symbols)


def test_a_class_that_is_nowhere_shifts_no_target(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame, by_number: dict[int, Row]
) -> None:
    """With class 1 gone, class 2 is the second label, and the targets must say so."""
    three = _without(_without(evaluation_examples, "exemplar", 1), "query", 1)
    for row in (
        _suite(three, symbols).filter(setting="relevant labels, instruction").iter_rows(named=True)
    ):
        assert row["labels"][row["target"]] == by_number[row["query"]]["label"]


def test_list_functions_expect_what_the_function_gives(algorithmic: list[Row]) -> None:
    found = [row for row in algorithmic if row["benchmark"] == "list_functions"]
    assert len({row["concept"] for row in found}) == 12
    for row in found:
        pairs = zip(
            [*row["inputs"], row["query_input"]], [*row["outputs"], row["target"]], strict=True
        )
        for given, output in pairs:
            values = [int(value) for value in given.strip("[]").split(",") if value.strip()]
            assert list_functions.text(list_functions.apply(row["concept"], values)) == output


def test_turing_concepts_expect_what_the_program_writes(algorithmic: list[Row]) -> None:
    found = [row for row in algorithmic if row["benchmark"] == "turing_concepts"]
    assert len(found) == 12 * 3
    for row in found:
        for given, output in zip(
            [*row["inputs"], row["query_input"]], [*row["outputs"], row["target"]], strict=True
        ):
            assert turing.run(row["concept"], given) == output


def test_an_algorithmic_query_is_no_exemplar(algorithmic: list[Row]) -> None:
    asked: dict[str, list[str]] = {}
    for row in algorithmic:
        assert len(set(row["inputs"])) == len(row["inputs"]) == 8
        assert row["query_input"] not in row["inputs"]
        asked.setdefault(row["concept"], []).append(row["query_input"])
    assert all(len(set(inputs)) == 3 for inputs in asked.values())


def test_the_algorithmic_suite_depends_on_the_seed() -> None:
    config = EvaluationConfig(list_functions=3, turing_programs=3)
    assert algorithmic_suite(config, 0).equals(algorithmic_suite(config, 0))
    assert not algorithmic_suite(config, 0).equals(algorithmic_suite(config, 1))


def test_no_program_comes_twice() -> None:
    found = algorithmic_suite(EvaluationConfig(list_functions=0, turing_programs=150), seed=1)
    assert found["concept"].n_unique() == 150


def _one_published() -> Published:
    """A prompt of a list function and one of a program, both of which a fresh suite would draw."""
    fresh = algorithmic_suite(EvaluationConfig(list_functions=1, turing_programs=1), seed=0)
    prompts = tuple(
        Prompt(
            row["benchmark"],
            row["concept"],
            tuple(row["inputs"]),
            tuple(row["outputs"]),
            row["query_input"],
            row["target"],
        )
        for row in fresh.iter_rows(named=True)
    )
    return Published(
        prompts,
        frozenset((p.concept, shown) for p in prompts for shown in (*p.inputs, p.query_input)),
    )


def test_nothing_that_is_published_is_fresh() -> None:
    published = _one_published()
    config = EvaluationConfig(list_functions=1, turing_programs=20)
    suite = algorithmic_suite(config, 0, published)
    fresh = suite.filter(setting="fresh").to_dicts()
    asked = {
        (row["concept"], shown) for row in fresh for shown in (*row["inputs"], row["query_input"])
    }
    assert not asked & published.seen
    assert not {row["concept"] for row in fresh} & published.concepts("turing_concepts")
    assert len(fresh) == 42


def test_published_prompts_that_show_the_same_pairs_are_one_context() -> None:
    published = _one_published()
    other = Prompt("list_functions", "c001", ("[1]",), ("[]",), "[2]", "[]")
    published = Published((*published.prompts, other), published.seen)
    config = EvaluationConfig(list_functions=1, turing_programs=20, algorithmic_queries=1)
    rows = algorithmic_suite(config, 0, published).filter(setting="published").to_dicts()
    assert [(row["benchmark"], row["context"], row["query"]) for row in rows] == [
        ("list_functions", 0, 0),
        ("list_functions", 1, 0),
        ("turing_concepts", 0, 0),
    ]
    assert rows[1]["inputs"] == ["[1]"] and rows[1]["category"] == "access"


def test_published_prompts_are_of_the_concepts_that_the_settings_ask_for() -> None:
    config = EvaluationConfig(list_functions=0, turing_programs=0)
    assert algorithmic_suite(config, 0, _one_published()).is_empty()
