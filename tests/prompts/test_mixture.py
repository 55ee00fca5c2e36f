"""Which examples, symbols and formats the symbol-tuning prompts are made of."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import write_frames
from symtune_pipeline.prompts import mixture as mixture_module
from symtune_pipeline.prompts.mixture import (
    class_pools,
    distinct,
    mixture_chunks,
    sets_to_draw,
    short_prompts,
)
from symtune_pipeline.prompts.symbols import SymbolSampler, first_tokens
from symtune_pipeline.sections import MixtureConfig
from symtune_pipeline.tables import TUNING_MIXTURE

PROMPTS = 1_500
RANGE = (2, 10)
UNLIMITED = 10**9

Row = dict[str, Any]


def _mixture(
    examples: pl.DataFrame, symbols: pl.DataFrame, *, seed: int = 0, limit: int = UNLIMITED,
    prompts: int = PROMPTS, exemplars: tuple[int, int] = RANGE, tokens: Any = None, **options: Any,
) -> pl.DataFrame:  # fmt: skip
    config = MixtureConfig(
        prompts=prompts, exemplars_per_class=exemplars, max_characters=limit, **options
    )
    return pl.concat(
        mixture_chunks(examples, SymbolSampler(symbols, "tuning", tokens), config, seed)
    )


def _toy(**classes: int) -> pl.DataFrame:
    """A dataset 'toy' with as many examples of each class as given."""
    labels = [label for label, count in classes.items() for _ in range(count)]
    return pl.DataFrame(
        {
            "dataset": "toy",
            "input": [f"text {i}" for i in range(len(labels))],
            "label": labels,
            "label_id": [list(classes).index(label) for label in labels],
        }
    ).with_row_index("example")


@pytest.fixture(scope="module")
def mixture(tuning_examples: pl.DataFrame, symbols: pl.DataFrame) -> pl.DataFrame:
    return _mixture(tuning_examples, symbols)


@pytest.fixture(scope="module")
def prompts(mixture: pl.DataFrame) -> list[Row]:
    return mixture.to_dicts()


@pytest.fixture(scope="module")
def by_number(tuning_examples: pl.DataFrame) -> dict[int, Row]:
    return {row["example"]: row for row in tuning_examples.iter_rows(named=True)}


def test_more_classes_than_a_byte_counts_keep_their_targets(symbols: pl.DataFrame) -> None:
    examples = _toy(**{f"class {i}": 2 for i in range(300)})
    mixture = TUNING_MIXTURE.checked(_mixture(examples, symbols, prompts=5, exemplars=(1, 1)))
    for row in mixture.to_dicts():
        assert sorted(row["targets"][:-1]) == list(range(300))
        assert [example // 2 for example in row["examples"]] == row["targets"]
        assert len(set(row["labels"])) == 300


def test_prompts_are_numbered_from_zero(mixture: pl.DataFrame) -> None:
    assert mixture["prompt"].to_list() == list(range(PROMPTS))


def test_a_prompt_is_of_one_dataset_and_targets_are_its_classes(
    prompts: list[Row], by_number: dict[int, Row]
) -> None:
    for row in prompts:
        shown = [by_number[example] for example in row["examples"]]
        assert {example["dataset"] for example in shown} == {row["dataset"]}
        assert [example["label_id"] for example in shown] == row["targets"]


def test_every_class_has_the_same_number_of_exemplars(
    prompts: list[Row], tuning_examples: pl.DataFrame
) -> None:
    classes = dict(
        tuning_examples.group_by("dataset").agg(pl.col("label_id").n_unique()).iter_rows()
    )
    for row in prompts:
        counts = Counter(row["targets"][:-1])
        assert set(counts) == set(range(classes[row["dataset"]]))
        (k,) = set(counts.values())
        assert RANGE[0] <= k <= RANGE[1]


def test_no_example_is_in_a_prompt_twice_so_the_query_is_no_exemplar(prompts: list[Row]) -> None:
    assert all(len(set(row["examples"])) == len(row["examples"]) for row in prompts)


def test_labels_are_distinct_symbols_of_the_tuning_split(
    prompts: list[Row], symbols: pl.DataFrame
) -> None:
    allowed = set(symbols.filter(split="tuning")["symbol"])
    for row in prompts:
        assert len(set(row["labels"])) == len(row["labels"]) == max(row["targets"][:-1]) + 1
        assert set(row["labels"]) <= allowed


def test_symbols_are_drawn_anew_for_every_prompt(prompts: list[Row]) -> None:
    assert len({tuple(row["labels"]) for row in prompts}) > 0.99 * PROMPTS


@pytest.mark.parametrize(
    ("what", "of", "outcomes"),
    [
        ("dataset", lambda row: row["dataset"], 4),
        ("format", lambda row: row["format"], 10),
        ("number of exemplars per class", lambda row: Counter(row["targets"][:-1])[0], 9),
    ],
)
def test_prompts_draw_uniformly(prompts: list[Row], what: str, of: Any, outcomes: int) -> None:
    from scipy.stats import chisquare

    counts = Counter(map(of, prompts))
    assert len(counts) == outcomes
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_the_query_is_of_any_class_and_exemplars_are_in_any_order(prompts: list[Row]) -> None:
    from scipy.stats import chisquare

    four_classes = [row for row in prompts if row["dataset"] == "news_topics"]
    for position in (0, -2, -1):  # first exemplar, last exemplar, query
        counts = Counter(row["targets"][position] for row in four_classes)
        assert chisquare([counts[label] for label in range(4)]).pvalue > 1e-3


def test_every_example_is_used_equally_often(symbols: pl.DataFrame) -> None:
    from scipy.stats import chisquare

    rows = _mixture(_toy(no=6, yes=6), symbols, exemplars=(2, 4)).to_dicts()
    used = Counter(example for row in rows for example in row["examples"][:-1])
    asked = Counter(row["examples"][-1] for row in rows)
    assert chisquare([used[i] for i in range(12)]).pvalue > 1e-3
    assert chisquare([asked[i] for i in range(12)]).pvalue > 1e-3


@pytest.mark.parametrize(("size", "count"), [(5, 2), (4, 3), (3, 3), (6, 1)])
def test_distinct_is_uniform_over_ordered_choices(size: int, count: int) -> None:
    from scipy.stats import chisquare

    drawn = [tuple(row) for row in distinct(20_000, size, count, np.random.default_rng(3)).tolist()]
    ordered = Counter(drawn)
    assert set(ordered) == set(permutations(range(size), count))
    assert chisquare(list(ordered.values())).pvalue > 1e-3
    subsets = Counter(frozenset(row) for row in drawn)
    assert len(subsets) == len(list(combinations(range(size), count)))


def test_the_same_seed_gives_the_same_mixture_and_another_seed_another(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    assert _mixture(tuning_examples, symbols).equals(mixture)
    other = _mixture(tuning_examples, symbols, seed=1)
    same = (other["examples"] == mixture["examples"]).sum()
    assert same < 0.01 * PROMPTS
    assert other["labels"].to_list() != mixture["labels"].to_list()


def test_a_mixture_comes_in_chunks_that_all_differ(symbols: pl.DataFrame) -> None:
    config = MixtureConfig(prompts=mixture_module.CHUNK + 5, exemplars_per_class=(1, 2))
    first, second = mixture_chunks(_toy(no=9, yes=9), SymbolSampler(symbols, "tuning"), config, 0)
    assert (len(first), len(second)) == (mixture_module.CHUNK, 5)
    assert second["prompt"].to_list() == [mixture_module.CHUNK + i for i in range(5)]
    assert second["labels"].to_list() != first["labels"][:5].to_list()


def test_the_characters_limit_lowers_the_number_of_exemplars_and_nothing_else(
    mixture: pl.DataFrame,
    tuning_examples: pl.DataFrame,
    symbols: pl.DataFrame,
    by_number: dict[int, Row],
) -> None:
    limit = 600
    limited = _mixture(tuning_examples, symbols, limit=limit)
    lowered = 0
    for free, row in zip(mixture.to_dicts(), limited.to_dicts(), strict=True):
        length = sum(len(by_number[example]["input"]) for example in row["examples"])
        counts = Counter(row["targets"][:-1])
        assert len(counts) == len(row["labels"])
        assert len(set(counts.values())) == 1
        assert length <= limit or counts[0] == 1
        assert (row["labels"], row["format"], row["examples"][-1]) == (
            free["labels"], free["format"], free["examples"][-1],
        )  # fmt: skip
        assert set(row["examples"]) <= set(free["examples"])
        if sum(len(by_number[example]["input"]) for example in free["examples"]) <= limit:
            assert row == free
        else:
            lowered += 1
    assert 0.2 * PROMPTS < lowered < 0.95 * PROMPTS


def test_an_impossible_characters_limit_keeps_one_exemplar_of_every_class(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    for row in _mixture(tuning_examples, symbols, limit=1, prompts=50).iter_rows(named=True):
        assert sorted(row["targets"][:-1]) == list(range(len(row["labels"])))


def test_a_rare_class_lowers_the_number_of_exemplars(symbols: pl.DataFrame) -> None:
    rows = _mixture(_toy(no=30, yes=4), symbols, exemplars=(2, 10), prompts=200).to_dicts()
    assert {Counter(row["targets"][:-1])[label] for row in rows for label in (0, 1)} == {2, 3}


def test_a_mixture_of_no_dataset_is_one_sentence(symbols: pl.DataFrame) -> None:
    with pytest.raises(UserError, match=r"^There is no example to tune on; .*'role: tuning'"):
        _mixture(_toy(no=30, yes=4).clear(), symbols, exemplars=(2, 10), prompts=200)


@pytest.mark.parametrize("classes", [{"no": 5}, {"no": 5, "yes": 1}])
def test_a_dataset_too_small_for_a_prompt_is_one_sentence(
    classes: dict[str, int], symbols: pl.DataFrame
) -> None:
    with pytest.raises(
        UserError, match=r"^Dataset 'toy' cannot make a prompt: .*take it out.*\.$"
    ) as error:
        _mixture(_toy(**classes), symbols)
    assert "\n" not in str(error.value)


def test_prompts_with_fewer_exemplars_than_the_least_are_counted_by_dataset(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    config = MixtureConfig(prompts=PROMPTS, exemplars_per_class=RANGE)
    assert short_prompts(mixture.lazy(), config) == {}
    tight = _mixture(tuning_examples, symbols, limit=300)
    expected = Counter(
        row["dataset"]
        for row in tight.iter_rows(named=True)
        if Counter(row["targets"][:-1])[0] < RANGE[0]
    )
    assert 0 < sum(expected.values()) < PROMPTS
    assert short_prompts(tight.lazy(), config) == dict(expected)
    rare = _mixture(_toy(no=30, yes=2), symbols, prompts=50)
    assert short_prompts(rare.lazy(), config) == {"toy": 50}


def test_natural_labels_stand_in_the_same_prompts(
    mixture: pl.DataFrame,
    tuning_examples: pl.DataFrame,
    symbols: pl.DataFrame,
    by_number: dict[int, Row],
) -> None:
    natural = _mixture(tuning_examples, symbols, labels="natural")
    assert natural.drop("labels").equals(mixture.drop("labels"))
    for row in natural.iter_rows(named=True):
        expected = [by_number[example]["label"] for example in row["examples"]]
        assert [row["labels"][target] for target in row["targets"]] == expected


def test_shuffled_labels_are_the_same_prompts_and_symbols_without_a_mapping(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    from scipy.stats import chi2_contingency

    shuffled = _mixture(tuning_examples, symbols, labels="shuffled")
    assert shuffled.drop("targets").equals(mixture.drop("targets"))
    pairs: Counter[tuple[int, int]] = Counter()
    for real, dealt in zip(mixture.iter_rows(named=True), shuffled["targets"], strict=True):
        assert sorted(dealt) == sorted(real["targets"])
        if real["dataset"] == "news_topics":
            pairs[(real["targets"][-1], dealt[-1])] += 1  # the query's class and its symbol
    table = [[pairs[(real, dealt)] for dealt in range(4)] for real in range(4)]
    assert chi2_contingency(table).pvalue > 1e-3
    orders = [tuple(dealt) for dealt in shuffled["targets"]]
    assert len(set(orders)) > 0.9 * PROMPTS


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_share_of_exemplars_shows_another_symbol_and_nothing_else_differs(
    share: float, mixture: pl.DataFrame, tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    from scipy.stats import binomtest, chisquare

    noisy = TUNING_MIXTURE.checked(_mixture(tuning_examples, symbols, label_noise=share))
    assert noisy.drop("targets").equals(mixture.drop("targets"))
    exemplars = wrong = 0
    shown: Counter[int] = Counter()
    for real, found in zip(mixture.iter_rows(named=True), noisy["targets"], strict=True):
        assert found[-1] == real["targets"][-1]  # the query's
        assert max(found) < len(real["labels"])
        # One exemplar of the query's class always stays, so that these are less often wrong.
        others = [
            (a, b) for a, b in zip(real["targets"], found, strict=True) if a != real["targets"][-1]
        ]
        differing = [b for a, b in others if a != b]
        exemplars, wrong = exemplars + len(others), wrong + len(differing)
        if real["dataset"] == "news_topics":
            shown.update(differing)
    assert binomtest(wrong, exemplars, share).pvalue > 1e-3
    assert chisquare([shown[label] for label in range(4)]).pvalue > 1e-3


@pytest.mark.parametrize("exemplars", [(1, 1), (2, 3)])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_an_exemplar_of_the_querys_class_stays_right_whatever_the_noise(
    share: float, exemplars: tuple[int, int], symbols: pl.DataFrame
) -> None:
    examples = _toy(a=20, b=20, c=20)
    plain = _mixture(examples, symbols, exemplars=exemplars)
    noisy = _mixture(examples, symbols, exemplars=exemplars, label_noise=share)
    right = [
        [a == b for a, b in zip(real[:-1], found[:-1], strict=True) if a == real[-1]]
        for real, found in zip(plain["targets"], noisy["targets"], strict=True)
    ]
    assert all(map(any, right))
    assert exemplars == (1, 1) or not all(map(all, right))


def test_no_noise_is_the_same_mixture_and_instructed_prompts_have_none(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    assert _mixture(tuning_examples, symbols, label_noise=0.0).equals(mixture)
    both = _mixture(tuning_examples, symbols, label_noise=0.5, instructed_share=0.3)
    clean = _mixture(tuning_examples, symbols, instructed_share=0.3)
    instructed = both["instructed"]
    assert both.filter(instructed).equals(clean.filter(instructed))
    assert (
        both.filter(~instructed)["targets"] != clean.filter(~instructed)["targets"]
    ).mean() > 0.9


def test_noise_among_shuffled_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="shuffled labels have no wrong ones"):
        MixtureConfig(prompts=1, labels="shuffled", label_noise=0.1)


@pytest.mark.parametrize("labels", ["symbols", "natural", "shuffled"])
def test_an_instructed_share_has_natural_labels_and_changes_no_other_prompt(
    labels: str, tuning_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    plain = _mixture(tuning_examples, symbols, labels=labels)
    natural = _mixture(tuning_examples, symbols, labels="natural")
    mixed = _mixture(tuning_examples, symbols, labels=labels, instructed_share=0.3)
    assert not plain["instructed"].any()
    assert abs(mixed["instructed"].mean() - 0.3) < 0.05
    instructed = mixed["instructed"]
    assert mixed.filter(~instructed).equals(plain.filter(~instructed))
    of_natural = natural.filter(instructed).drop("instructed")
    assert mixed.filter(instructed).drop("instructed").equals(of_natural)


@pytest.mark.parametrize("temperature", [None, 1, 3, 1e-9])
def test_datasets_are_drawn_by_size_to_the_power_of_one_over_the_temperature(
    temperature: float | None, symbols: pl.DataFrame
) -> None:
    from scipy.stats import chisquare

    sizes = {"small": 10, "middle": 40, "large": 160}
    sets = [
        _toy(no=size // 2, yes=size // 2).with_columns(dataset=pl.lit(name)).drop("example")
        for name, size in sizes.items()
    ]
    examples = pl.concat(sets).with_row_index("example")
    drawn = _mixture(examples, symbols, exemplars=(1, 2), temperature=temperature)
    if temperature == 1e-9:  # so cold that the largest is all there is
        assert set(drawn["dataset"]) == {"large"}
        return
    weights = [size ** (1 / temperature) if temperature else 1 for size in sizes.values()]
    counts = [drawn.filter(dataset=name).height for name in sizes]
    expected = [PROMPTS * weight / sum(weights) for weight in weights]
    assert chisquare(counts, expected).pvalue > 1e-3


def test_symbols_of_a_prompt_can_differ_in_their_first_token(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame, symbols: pl.DataFrame, tokenizer: Any
) -> None:
    def clashes(rows: pl.DataFrame) -> int:
        first = [[tokenizer.encode(f" {label}")[0] for label in row] for row in rows["labels"]]
        return sum(len(set(row)) < len(row) for row in first)

    tokens = first_tokens(symbols, [tokenizer])
    differing = _mixture(tuning_examples, symbols, tokens=tokens)
    assert clashes(mixture) > 0.1 * PROMPTS
    assert clashes(differing) == 0
    assert differing.drop("labels").equals(mixture.drop("labels"))


def test_chunks_become_row_groups_of_one_file(symbols: pl.DataFrame, tmp_path: Path) -> None:
    from pyarrow import parquet

    config = MixtureConfig(prompts=mixture_module.CHUNK + 5, exemplars_per_class=(1, 2))
    write_frames(
        tmp_path / "m.parquet",
        mixture_chunks(_toy(no=9, yes=9), SymbolSampler(symbols, "tuning"), config, 0),
    )
    assert parquet.ParquetFile(tmp_path / "m.parquet").num_row_groups == 2
    whole = pl.concat(
        mixture_chunks(_toy(no=9, yes=9), SymbolSampler(symbols, "tuning"), config, 0)
    )
    assert TUNING_MIXTURE.checked(pl.read_parquet(tmp_path / "m.parquet")).equals(whole)


def test_pools_are_the_examples_by_class(tuning_examples: pl.DataFrame) -> None:
    for pool in class_pools(tuning_examples):
        for label, numbers in zip(pool.labels, pool.by_class, strict=True):
            own = tuning_examples.filter(dataset=pool.dataset, label=label)["example"]
            assert numbers.tolist() == sorted(own)


def test_fewer_sets_are_a_part_of_more_and_a_set_left_out_makes_room_for_the_next(
    symbols: pl.DataFrame,
) -> None:
    toys = [_toy(a=9, b=9).with_columns(dataset=pl.lit(f"toy{i}")) for i in range(30)]
    examples = pl.concat(toys).drop("example").with_row_index("example")

    there = examples["dataset"].to_list()

    def chosen(sets: int | None, seed: int = 0, left_out: tuple[str, ...] = ()) -> list[str]:
        return sets_to_draw(there, MixtureConfig(prompts=1, sets=sets), seed, left_out)

    six, nine = chosen(6), chosen(9)
    assert len(six) == 6 and len(nine) == 9 and set(six) < set(nine)
    assert chosen(None) == sorted(set(there))
    assert chosen(6, seed=1) != six
    without = chosen(6, left_out=(six[0],))
    assert set(six) - set(without) == {six[0]} and set(without) < set(nine)

    drawn = _mixture(examples.filter(pl.col("dataset").is_in(six)), symbols, exemplars=(2, 4))
    assert set(drawn["dataset"]) == set(six)
    of = dict(examples.select("example", "dataset").iter_rows())
    for dataset, numbers in drawn.select("dataset", "examples").iter_rows():
        assert {of[number] for number in numbers} == {dataset}
