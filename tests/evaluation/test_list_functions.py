"""The 250 list functions: the published pairs, the conventions, and fresh inputs."""

import json
import random
import re
from collections import Counter
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.benchmarks import list_functions
from symtune_pipeline.evaluation.benchmarks.functions_of_lists import CATEGORIES, FUNCTIONS
from symtune_pipeline.evaluation.benchmarks.list_functions import apply

PUBLISHED = ROOT.parent / "shared" / "data" / "bigbench"
NAMES = [f"c{number:03}" for number in range(1, 251)]

names = st.sampled_from(NAMES)
inputs = st.lists(st.integers(0, 99), max_size=12)


def read_published(file: str) -> list[dict[str, Any]]:
    if not (PUBLISHED / file).exists():
        pytest.skip(f"{file} is not at ../shared/data/bigbench")
    return [json.loads(line) for line in (PUBLISHED / file).read_text().splitlines()]


def test_every_published_pair_of_the_odd_functions_is_reproduced() -> None:
    pairs = read_published("list_functions_odd_concepts.jsonl")
    assert Counter(pair["concept"] for pair in pairs) == {name: 32 for name in NAMES[::2]}
    assert [pair for pair in pairs if apply(pair["concept"], pair["input"]) != pair["output"]] == []


def test_every_published_prompt_of_all_functions_is_reproduced() -> None:
    checked: Counter[str] = Counter()
    for prompt in read_published("list_functions_04_shot.jsonl"):
        (name,) = re.findall(r"c\d{3}", prompt["comment"])
        solved = f"{prompt['input']}\nA: {prompt['target']}"
        for shown, output in re.findall(r"Q: (.*)\nA: (.*)", solved):
            assert list_functions.text(apply(name, json.loads(shown))) == output, (name, shown)
            checked[name] += 1
    assert checked == {name: 5 for name in NAMES}


def test_there_are_250_functions_in_order_each_described() -> None:
    assert list(FUNCTIONS) == NAMES
    assert all(name == function.name for name, function in FUNCTIONS.items())
    assert all(function.description for function in FUNCTIONS.values())


def test_every_category_is_described_and_used() -> None:
    used = Counter(function.category for function in FUNCTIONS.values())
    assert set(used) == set(CATEGORIES)
    assert min(used.values()) >= 5


@pytest.mark.parametrize(
    ("name", "values", "output"),
    [
        ("c001", [3, 4, 1], [1]),  # elements count from 1
        ("c002", [0, 5], []),  # an element beyond the end is no element
        ("c019", [6, 6], [6, 6]),
        ("c057", [2, 5], [2, 5, 4]),  # inserting beyond the end appends
        ("c053", [5], [5, 5]),
        ("c055", [3, 8, 2], [2, 3, 8]),  # a swap moves what there is
        ("c067", [4], [4]),
        ("c073", [4, 4], [5, 6]),  # so do indices
        ("c079", [], [0]),
        ("c109", [], [1]),
        ("c078", [], []),
        ("c124", [2, 5, 0, 82, 9], [9]),
        ("c124", [0, 5, 0, 82, 9], []),
        ("c141", [51, 3, 1, 4], [1, 4]),
        ("c142", [70, 2], [7, 0, 0, 2]),  # numbers have two digits
        ("c164", [22], [10]),  # division rounds down
        ("c170", [5], [5]),
        ("c179", [80, 68, 56, 38, 97], [56, 80, 97, 68, 38]),
        ("c216", [77, 74, 9], [9, 77, 74]),  # sorting is stable
        ("c235", [3, 3, 5, 4], [3, 4, 5, 4]),
        ("c248", [1, 2], [1, 2]),
        ("c250", [0, 1, 2, 0, 0, 3, 4], [2, 1, 4, 3]),
    ],
)
def test_the_conventions_hold(name: str, values: list[int], output: list[int]) -> None:
    assert apply(name, values) == output


@given(names, inputs)
def test_an_input_stays_as_it_is_and_an_output_is_a_new_list(name: str, values: list[int]) -> None:
    before = list(values)
    try:
        output = apply(name, values)
    except UserError:
        output = None
    assert values == before
    assert output is not values


@given(names, inputs)
def test_an_output_is_a_list_of_integers_unless_the_list_is_too_short(
    name: str, values: list[int]
) -> None:
    try:
        output = apply(name, values)
    except UserError:
        assert len(values) < FUNCTIONS[name].shortest
    else:
        assert isinstance(output, list)
        assert all(type(number) is int for number in output)


@given(names, inputs)
def test_the_same_input_gives_the_same_output(name: str, values: list[int]) -> None:
    try:
        assert apply(name, values) == apply(name, values)
    except UserError:
        with pytest.raises(UserError):
            apply(name, values)


@given(inputs)
def test_text_is_written_as_in_the_published_prompts(values: list[int]) -> None:
    assert json.loads(list_functions.text(values)) == values
    assert list_functions.text([3, 4, 1]) == "[3, 4, 1]"


def test_an_unknown_function_and_a_list_too_short_are_named() -> None:
    with pytest.raises(UserError, match=r"'c251'.*c001 to c250"):
        apply("c251", [1])
    with pytest.raises(UserError, match="'x'"):
        list_functions.random_input("x", random.Random(0))
    with pytest.raises(UserError, match=r"c111.*\[\].*1 or more"):
        apply("c111", [])


@pytest.mark.parametrize("name", NAMES)
def test_fresh_inputs_are_like_published_ones(name: str) -> None:
    rng = random.Random(name)
    highest = 9 if name <= "c080" else 99
    for values in (list_functions.random_input(name, rng) for _ in range(20)):
        output = apply(name, values)
        assert FUNCTIONS[name].shortest <= len(values) <= 10
        assert all(0 <= number <= highest for number in values + output)
        assert len(output) <= 15


def test_fresh_inputs_make_the_function_do_something() -> None:
    rng = random.Random(5)
    for name, function in FUNCTIONS.items():
        if function.category != "constant" and function.branch is None:
            fresh = [list_functions.random_input(name, rng) for _ in range(40)]
            idle = [values for values in fresh if apply(name, values) in ([], [0], values)]
            assert len(idle) < 15, f"{name} is idle on {idle}"


def test_fresh_inputs_take_both_ways_equally_often() -> None:
    rng = random.Random(6)
    for name, function in FUNCTIONS.items():
        if function.branch is not None:
            taken = [function.branch(list_functions.random_input(name, rng)) for _ in range(100)]
            assert 25 < sum(taken) < 75, name


def test_fresh_inputs_follow_the_seed_and_vary() -> None:
    first, again = random.Random(7), random.Random(7)
    drawn = [list_functions.random_input(name, first) for name in NAMES]
    assert drawn == [list_functions.random_input(name, again) for name in NAMES]
    assert len({tuple(values) for values in drawn}) > 200
