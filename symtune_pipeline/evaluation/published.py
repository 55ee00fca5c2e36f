"""BIG-bench's own prompts of the algorithmic benchmarks, read from a folder of JSON lines.

Inputs and outputs keep the words of the files, so that a Turing prompt is asked exactly as it was
published. A list function's is asked with 'Input:' and 'Output:' for its 'Q:' and 'A:'.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.concepts import (
    Prompt,
    Published,
    PublishedFormat,
    published_formats,
)
from symtune_pipeline.files import parse_json


def published_files(folder: Path) -> list[Path]:
    """The files of a folder that hold published data, sorted by name.

    Raises UserError where there is none.
    """
    formats = published_formats().values()
    patterns = [style.files for style in formats]
    patterns += [style.pair_files for style in formats if style.pair_files]
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if not files:
        raise UserError(
            f"Folder {folder} of evaluation.published holds no"
            f" {', '.join(style.files for style in formats)}; put BIG-bench's files there or leave the"
            " setting out."
        )
    return files


def read_published(folder: Path) -> Published:
    """Everything that the files of a folder hold.

    Raises UserError for a folder without them, and for a line that is not what its file should hold.
    """
    published_files(folder)
    formats = published_formats()
    prompts = tuple(
        _prompt(benchmark, style, row, where)
        for benchmark, style in formats.items()
        for path in sorted(folder.glob(style.files))
        for row, where in _rows(path, "input", "target", "comment")
    )
    seen = {
        (prompt.concept, text)
        for prompt in prompts
        for text in (*prompt.inputs, prompt.query_input)
    }
    pair_files = [style.pair_files for style in formats.values() if style.pair_files]
    for path in sorted(path for pattern in pair_files for path in folder.glob(pattern)):
        for row, where in _rows(path, "concept", "input", "output"):
            if not isinstance(row["input"], list):
                raise UserError(f"{where}: input must be a list; restore the file from BIG-bench.")
            seen.add((str(row["concept"]), json.dumps(row["input"])))  # as prompts write a list
    return Published(prompts, frozenset(seen))


def _prompt(benchmark: str, style: PublishedFormat, row: dict[str, Any], where: str) -> Prompt:
    concept = style.concept.search(str(row["comment"]))
    pairs = style.pair.findall(f"{row['input']}{style.before_target} {row['target']}")
    if concept is None or style.category(concept[1]) is None or len(pairs) < 2:
        raise UserError(
            f"{where}: this is no published prompt of {benchmark}; restore the file from BIG-bench."
        )
    *solved, (query_input, target) = pairs
    inputs, outputs = zip(*solved, strict=True)
    return Prompt(benchmark, concept[1], inputs, outputs, query_input, target)


def _rows(path: Path, *names: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a file with JSON lines, each with the file and line that it is from."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from BIG-bench.") from error
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(
                f"{where}: no JSON ({error}); restore the file from BIG-bench."
            ) from error
        if not isinstance(row, dict) or not all(name in row for name in names):
            raise UserError(f"{where}: needs {', '.join(names)}; restore the file from BIG-bench.")
        yield row, where
