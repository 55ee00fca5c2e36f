"""P3: the published pairs, the machine's rules, and programs drawn by seed."""

import json
import random
import re
from itertools import product

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.benchmarks import turing_concepts as turing
from symtune_pipeline.evaluation.concepts import Published
from symtune_pipeline.sections import EvaluationConfig

PUBLISHED = ROOT.parent / "shared" / "data" / "bigbench"
PAIR = re.compile(r"Input: '([01]*)'\nOutput: '([01]*)'")


@pytest.fixture(scope="module")
def published() -> dict[str, set[tuple[str, str, str]]]:
    """(program, input, output) of the targets and of the examples before them."""
    files = sorted(PUBLISHED.glob("simple_turing_concept_*.jsonl"))
    if not files:
        pytest.skip("the published Turing prompts are not at ../shared/data/bigbench")
    pairs: dict[str, set[tuple[str, str, str]]] = {"target": set(), "example": set()}
    for line in (line for file in files for line in file.read_text().splitlines()):
        prompt = json.loads(line)
        program = prompt["comment"].split("'")[1]
        *examples, target = PAIR.findall(f"{prompt['input']} {prompt['target']}")
        pairs["target"].add((program, *target))
        pairs["example"] |= {(program, *example) for example in examples}
    return pairs


def test_every_published_target_is_reproduced(
    published: dict[str, set[tuple[str, str, str]]],
) -> None:
    assert len(published["target"]) == 2130
    assert [pair for pair in published["target"] if turing.run(*pair[:2]) != pair[2]] == []


def test_every_published_example_is_reproduced_by_leaving_the_loop_at_the_edge(
    published: dict[str, set[tuple[str, str, str]]],
) -> None:
    examples = published["example"]
    assert len(examples) == 1748
    assert [pair for pair in examples if turing.run(*pair[:2], "leave") != pair[2]] == []
    assert sum(turing.run(*pair[:2]) != pair[2] for pair in examples) == 55


@pytest.mark.parametrize(
    ("program", "text", "output"),
    [
        ("", "01", ""),
        ("o>o", "01", "01"),  # reading along the input
        ("+o-o", "0", "10"),  # + and - undo each other
        ("+++o", "1", "1"),  # three steps are a full cycle
        ("+o", "1", ""),  # printing a blank ends the run
        ("[o>]+o", "10", "100"),  # a loop ends on a blank, and blanks follow the input
        ("[o>]", "", ""),  # a blank skips the loop
        ("<+o", "1", "0"),  # one blank lies left of the input
        ("<<+o", "1", ""),  # beyond it the run ends
    ],
)
def test_the_machine_follows_its_rules(program: str, text: str, output: str) -> None:
    assert turing.run(program, text) == output


def test_leaving_at_the_edge_goes_on_behind_the_innermost_loop() -> None:
    assert turing.run("[<+]-o", "1") == ""
    assert turing.run("[<+]+o", "1", "leave") == "1"
    assert turing.run("<<+o", "1", "leave") == "0"
    assert turing.run("+[+[o<+]]", "", "leave") == "101"


def test_an_endless_loop_is_cut_off_with_what_it_printed() -> None:
    assert turing.run("[]", "1") == ""
    assert set(turing.run("[o]", "1")) == {"1"}


@given(
    st.text("+-<>o[]", max_size=12), st.text("01", max_size=8), st.sampled_from(["end", "leave"])
)
def test_a_run_is_bounded_and_binary_or_refused(program: str, text: str, edge: turing.Edge) -> None:
    try:
        output = turing.run(program, text, edge)
    except UserError:
        assert not _balanced(program)
    else:
        assert _balanced(program)
        assert len(output) <= turing.MAX_STEPS
        assert set(output) <= {"0", "1"}


@pytest.mark.parametrize(
    ("program", "text", "named"),
    [("+x", "1", "'x'"), ("[[o]", "1", "position 1"), ("o]", "1", "position 2"), ("o", "12", "12")],
)
def test_a_bad_program_or_input_is_named(program: str, text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        turing.run(program, text)


def test_drawn_programs_make_concepts() -> None:
    rng = random.Random(1)
    inputs = [format(n, f"0{length}b") for length in range(1, 6) for n in range(2**length)]
    for program in [turing.random_program(rng) for _ in range(30)]:
        outputs = [turing.run(program, text) for text in inputs]
        assert 3 <= len(program) <= 9
        assert all(len(output) < turing.MAX_STEPS / 9 for output in outputs), "not cut off"
        assert len(set(outputs)) > 1
        assert outputs != inputs


def test_a_drawn_program_has_no_idle_end() -> None:
    rng = random.Random(4)
    inputs = [format(n, f"0{length}b") for length in range(1, 6) for n in range(2**length)]
    for program in [turing.random_program(rng) for _ in range(30)]:
        outputs = [turing.run(program, text) for text in ["", *inputs]]
        for start in (program[:end] for end in range(len(program))):
            if _balanced(start):
                assert outputs != [turing.run(start, text) for text in ["", *inputs]]


def test_of_few_instructions_every_program_is_asked_once() -> None:
    """Against all strings of instructions, of which those that make a concept are counted."""
    strings = ("".join(program) for n in (1, 2, 3) for program in product("+-<>o[]", repeat=n))
    concepts = {text for text in strings if _balanced(text) and turing._is_concept(text)}
    config = EvaluationConfig(turing_programs=40, turing_instructions=3)
    drawn = [concept.name for concept in turing.fresh(config, random.Random(0), Published())]
    assert len(drawn) == len(concepts) == 17
    assert set(drawn) == concepts


def test_fewer_programs_than_there_are_come_as_asked() -> None:
    config = EvaluationConfig(turing_programs=5, turing_instructions=4)
    drawn = [concept.name for concept in turing.fresh(config, random.Random(0), Published())]
    assert len(set(drawn)) == 5 and max(map(len, drawn)) <= 4


def test_published_programs_of_few_instructions_are_chosen() -> None:
    programs = ["o", "+oo", "o>+o", "[o>]o"]
    config = EvaluationConfig(turing_programs=3, turing_instructions=3)
    assert set(turing._select(config, programs, random.Random(0))) == {"o", "+oo"}
    unlimited = EvaluationConfig(turing_programs=4)
    assert set(turing._select(unlimited, programs, random.Random(0))) == set(programs)


def test_draws_follow_the_seed_and_vary() -> None:
    first, again = random.Random(3), random.Random(3)
    programs = [turing.random_program(first) for _ in range(20)]
    assert programs == [turing.random_program(again) for _ in range(20)]
    assert len(set(programs)) > 15
    assert any("[" in program for program in programs)


def test_drawn_inputs_are_as_long_as_published_ones() -> None:
    rng = random.Random(2)
    lengths = [len(turing.random_input(rng)) for _ in range(500)]
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert max(set(lengths), key=lengths.count) == 5


def _balanced(program: str) -> bool:
    depth = 0
    for instruction in program:
        depth += (instruction == "[") - (instruction == "]")
        if depth < 0:
            return False
    return depth == 0
