"""The published prompts of BIG-bench: read whole, asked in their own words, never asked as fresh."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.published import published_files, read_published
from symtune_pipeline.evaluation.suites import algorithmic_suite
from symtune_pipeline.prompts.text import algorithmic_prompt, render
from symtune_pipeline.sections import EvaluationConfig

TURING = {"input": "Input: '0'\nOutput: ''\n\nInput: '11'\nOutput:", "target": "'1'"}
LIST = {"input": "Q: [1, 2]\nA: []\nQ: [4]", "target": "[]", "comment": "Trial 2 of c003 (…)"}


def _write(folder: Path, file: str, *rows: object) -> Path:
    path = folder / file
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def bigbench(shared_data: Path) -> Path:
    return shared_data / "bigbench"


def test_every_published_prompt_is_read(bigbench: Path) -> None:
    published = read_published(bigbench)
    benchmarks = [prompt.benchmark for prompt in published.prompts]
    assert benchmarks == ["list_functions"] * 250 + ["turing_concepts"] * 4_260
    assert len(published.concepts("turing_concepts")) == 426
    assert ("c001", "[3, 4, 1, 5, 2, 0, 8, 6, 9]") in published.seen  # from the pairs


def test_published_prompts_are_asked_in_their_own_words(bigbench: Path) -> None:
    config = EvaluationConfig(list_functions=250, turing_programs=426, algorithmic_queries=16)
    suite = algorithmic_suite(config, 0, read_published(bigbench)).filter(setting="published")
    asked = {
        (row["benchmark"], render(algorithmic_prompt(row)), row["target"])
        for row in suite.iter_rows(named=True)
    }
    files = {
        "turing_concepts": bigbench.glob("simple_turing_concept_*.jsonl"),
        "list_functions": bigbench.glob("list_functions_*_shot.jsonl"),
    }
    texts = {
        (benchmark, row["input"], row["target"])
        for benchmark, paths in files.items()
        for path in paths
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }
    reworded = {
        (benchmark, re.sub(r"\n(?=Q)", "\n\n", prompt), target)
        for benchmark, prompt, target in texts
        if benchmark == "list_functions"
    }
    words = {"Q:": "Input:", "A:": "Output:"}
    reworded = {
        (benchmark, re.sub("[QA]:", lambda found: words[found[0]], f"{prompt}\nA:"), target)
        for benchmark, prompt, target in reworded
    }
    turing = {text for text in texts if text[0] == "turing_concepts"}
    assert asked == turing | reworded
    assert len(suite) == 250 + 4_260


def test_fresh_prompts_are_never_published_ones(bigbench: Path) -> None:
    published = read_published(bigbench)
    config = EvaluationConfig(list_functions=250, turing_programs=60, algorithmic_shots=16)
    fresh = algorithmic_suite(config, 0, published).filter(setting="fresh")
    for row in fresh.iter_rows(named=True):
        assert row["concept"] not in published.concepts("turing_concepts")
        for shown in (*row["inputs"], row["query_input"]):
            assert (row["concept"], shown) not in published.seen


def test_a_folder_without_published_prompts_is_one_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"^Folder .* of evaluation\.published holds no .*\.$"):
            read_published(folder)


def test_the_files_are_found_by_name(tmp_path: Path) -> None:
    for name in ("simple_turing_concept_x.jsonl", "list_functions_04_shot.jsonl", "README.md"):
        _write(tmp_path, name)
    assert [path.name for path in published_files(tmp_path)] == [
        "list_functions_04_shot.jsonl",
        "simple_turing_concept_x.jsonl",
    ]


@pytest.mark.parametrize(
    ("file", "row", "says"),
    [
        ("list_functions_04_shot.jsonl", LIST | {"comment": "c251"}, "no published prompt of list_"),
        ("list_functions_04_shot.jsonl", LIST | {"input": "[1]"}, "no published prompt of list_"),
        ("list_functions_04_shot.jsonl", LIST | {"input": 5}, "no published prompt of list_"),
        ("list_functions_04_shot.jsonl", {"input": "Q: [1]"}, "needs input, target, comment"),
        ("simple_turing_concept_x.jsonl", TURING | {"comment": "+o"}, "no published prompt of turing"),
        ("simple_turing_concept_x.jsonl", [1], "needs input, target, comment"),
        ("list_functions_odd_concepts.jsonl", {"concept": "c001"}, "needs concept, input, output"),
        ("list_functions_odd_concepts.jsonl",
         {"concept": "c001", "input": 5, "output": []}, "input must be a list"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_published_prompt_is_one_sentence(
    file: str, row: object, says: str, tmp_path: Path
) -> None:
    good = LIST if file.endswith("_shot.jsonl") else TURING | {"comment": "['+o', 2, 3]"}
    if file.endswith("_concepts.jsonl"):
        good = {"concept": "c001", "input": [1], "output": []}
    with pytest.raises(UserError) as error:
        read_published(_write(tmp_path, file, good, row))
    assert str(error.value).startswith(f"{tmp_path / file}, line 2: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_line_that_is_no_json_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "list_functions_04_shot.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"shot\.jsonl, line 1: no JSON \(.*BIG-bench\.$"):
        read_published(tmp_path)
