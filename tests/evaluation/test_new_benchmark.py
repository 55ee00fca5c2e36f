"""The benchmark of docs/extending/benchmark.md, added to a copy of the project as the page says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pydantic import ValidationError
from tiny_models import save_reading_model

from symtune_pipeline.sections import EvaluationConfig

PAGE = ROOT / "docs" / "extending" / "benchmark.md"
# What a user runs with the settings of the page; prints what the claims below are about.
SCRIPT = """
import json, sys
from pathlib import Path
from symtune_pipeline.evaluation.generation import generate
from symtune_pipeline.evaluation.predictions import of_model
from symtune_pipeline.evaluation.suites import algorithmic_suite
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import ALGORITHMIC_PREDICTIONS, ALGORITHMIC_SUITE, VOCABULARIES

few = {"list_functions": 2, "turing_programs": 2, "algorithmic_shots": 3}
without = algorithmic_suite(EvaluationConfig(**few), seed=0)
suite = algorithmic_suite(EvaluationConfig(**few, concepts={"words": 2}), seed=0)
words = ALGORITHMIC_SUITE.checked(suite).filter(benchmark="words")
predictions = of_model(generate(Path(sys.argv[1]), words, EvaluationConfig()), "tiny", "untuned")
print(json.dumps({
    "others stay": suite.filter(suite["benchmark"] != "words").equals(without),
    "words": words.to_dicts(),
    "predictions": len(ALGORITHMIC_PREDICTIONS.checked(predictions)),
    "vocabulary": VOCABULARIES["benchmarks"],
}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with the page's entry and module, and nothing else changed."""
    folder = tmp_path_factory.mktemp("project")
    library = folder / "symtune_pipeline"
    shutil.copytree(
        ROOT / "symtune_pipeline", library, ignore=shutil.ignore_patterns("__pycache__")
    )
    text = PAGE.read_text(encoding="utf-8")
    entry, module = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (path,) = re.findall(r"key: `(symtune_pipeline/\S+\.py)`", text)
    (folder / path).write_text(module, encoding="utf-8")
    tables = library / "tables.py"
    source = tables.read_text(encoding="utf-8")
    start = source.index("BENCHMARKS: Final")
    end = source.index("\n}", start) + 1
    tables.write_text(source[:end] + entry + source[end:], encoding="utf-8")
    return folder


@pytest.mark.slow
def test_an_entry_and_a_module_are_all_that_a_benchmark_needs(
    project: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = save_reading_model(tmp_path / "model", deepcopy(tokenizer))
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model)],
        cwd=project, env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["others stay"]
    assert found["vocabulary"][-1] == "words"
    rows = found["words"]
    assert [row["concept"] for row in rows] == ["backwards"] * 2 + ["sorted"] * 2
    assert found["predictions"] == len(rows)
    spell = {"backwards": lambda word: word[::-1], "sorted": lambda word: "".join(sorted(word))}
    for row in rows:
        assert len(row["inputs"]) == 3
        pairs = zip(
            [*row["inputs"], row["query_input"]], [*row["outputs"], row["target"]], strict=True
        )
        assert all(output == spell[row["concept"]](word) for word, output in pairs)
        assert row["category"] == "spelling"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("wrods", "no algorithmic benchmark called 'wrods'"),
        ("icl", "no algorithmic benchmark called 'icl'"),
        ("turing_concepts", "use evaluation.turing_programs"),
    ],
)
def test_the_number_of_concepts_is_that_of_a_benchmark_without_a_setting_of_its_own(
    key: str, says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        EvaluationConfig(concepts={key: 1})
