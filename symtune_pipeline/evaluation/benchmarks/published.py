"""BIG-bench's own prompts of the algorithmic benchmarks, read from a folder of JSON lines.

    list_functions_*_shot.jsonl     prompts: input, target, comment (which names the function)
    simple_turing_concept_*.jsonl   prompts: input, target, comment (which begins with the program)
    list_functions_*_concepts.jsonl pairs: concept, input, output; only kept out of fresh prompts

Inputs and outputs keep the words of the files, so that a Turing prompt is asked exactly as it was
published. A list function's is asked with 'Input:' and 'Output:' for its 'Q:' and 'A:'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.benchmarks.list_functions import FUNCTIONS, text

PROMPTS: dict[Literal["list_functions", "turing_concepts"], str] = {
    "list_functions": "list_functions_*_shot.jsonl",
    "turing_concepts": "simple_turing_concept_*.jsonl",
}
PAIRS = "list_functions_*_concepts.jsonl"
SHOWN = {
    "list_functions": re.compile(r"Q: (.*)\nA: ?(.*)"),
    "turing_concepts": re.compile(r"Input: (.*)\nOutput: ?(.*)"),
}
CONCEPT = {
    "list_functions": re.compile(r"\b(c\d{3})\b"),
    "turing_concepts": re.compile(r"^\['([^']+)'"),
}


@dataclass(frozen=True)
class Prompt:
    """One published prompt: solved pairs, then the query and its answer."""

    benchmark: str
    concept: str  # the function's name, or the program
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    query_input: str
    expected: str


@dataclass(frozen=True)
class Published:
    """What was published: prompts in the order of the files, and every (concept, input) seen."""

    prompts: tuple[Prompt, ...] = ()
    seen: frozenset[tuple[str, str]] = frozenset()

    @property
    def programs(self) -> set[str]:
        """The programs of the Turing prompts."""
        return {prompt.concept for prompt in self.prompts if prompt.benchmark == "turing_concepts"}


def published_files(folder: Path) -> list[Path]:
    """The files of a folder that hold published data, sorted by name.

    Raises UserError where there is none.
    """
    found = sorted(path for pattern in (*PROMPTS.values(), PAIRS) for path in folder.glob(pattern))
    if not found:
        raise UserError(
            f"Folder {folder} of evaluation.published holds no {', '.join(PROMPTS.values())};"
            " put BIG-bench's files there or leave the setting out."
        )
    return found


def read_published(folder: Path) -> Published:
    """Everything that the files of a folder hold.

    Raises UserError for a folder without them, and for a line that is not what its file should hold.
    """
    published_files(folder)
    prompts = tuple(
        _prompt(benchmark, row, where)
        for benchmark, pattern in PROMPTS.items()
        for path in sorted(folder.glob(pattern))
        for row, where in _rows(path, "input", "target", "comment")
    )
    seen = {
        (prompt.concept, shown)
        for prompt in prompts
        for shown in (*prompt.inputs, prompt.query_input)
    }
    for path in sorted(folder.glob(PAIRS)):
        for row, where in _rows(path, "concept", "input", "output"):
            if not isinstance(row["input"], list):
                raise UserError(f"{where}: input must be a list; restore the file from BIG-bench.")
            seen.add((str(row["concept"]), text(row["input"])))
    return Published(prompts, frozenset(seen))


def _prompt(benchmark: str, row: dict[str, Any], where: str) -> Prompt:
    concept = CONCEPT[benchmark].search(str(row["comment"]))
    # The list functions' files leave out the 'A:' before the answer.
    end = "\nA:" if benchmark == "list_functions" else ""
    pairs = SHOWN[benchmark].findall(f"{row['input']}{end} {row['target']}")
    known = concept and (benchmark != "list_functions" or concept[1] in FUNCTIONS)
    if not concept or not known or len(pairs) < 2:
        raise UserError(
            f"{where}: this is no published prompt of {benchmark}; restore the file from BIG-bench."
        )
    *shown, (query, expected) = pairs
    inputs, outputs = zip(*shown, strict=True)
    return Prompt(benchmark, concept[1], inputs, outputs, query, expected)


def _rows(path: Path, *names: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a file with JSON lines, each with where it stands."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from BIG-bench.") from error
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: no JSON ({error.msg}); restore the file from BIG-bench."
            ) from error
        if not isinstance(row, dict) or not all(name in row for name in names):
            raise UserError(f"{where}: needs {', '.join(names)}; restore the file from BIG-bench.")
        yield row, where
