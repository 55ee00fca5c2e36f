"""References to text: the only place that knows what a prompt looks like.

Tuning and evaluation both build their prompts here, so a model is asked in the form it was tuned
on. A prompt is a list of segments; joined, their texts are the prompt. This module knows nothing
about tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import polars as pl

from symtune_pipeline.catalog.formats import prompt_formats

SEPARATOR = "\n\n"
Inputs = Sequence[str] | pl.Series


class Role(Enum):
    """What a segment is in its prompt."""

    INSTRUCTION = "instruction"
    FORMAT = "format"
    INPUT = "input"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt; `example` is its place among the prompt's examples (query last)."""

    text: str
    role: Role
    example: int = -1


def segments(
    format_id: int,
    inputs: Sequence[str],
    labels: Sequence[str],
    instruction: str | None = None,
) -> list[Segment]:
    """A prompt from its inputs (query last) and their labels.

    With as many labels as inputs, the prompt ends with the query's label (tuning); with one fewer,
    it ends where the query's label must come (evaluation).
    """
    style = format_texts(format_id, instruction)
    pieces = []
    for i, text in enumerate(inputs):
        role = Role.INSTRUCTION if i == 0 and instruction else Role.FORMAT
        pieces.append(Segment(style.between if i else style.opening, role))
        before = style.before_text if i else style.before_first
        pieces.append(Segment(f"{before}{text}{style.after_text}", Role.INPUT, i))
        pieces.append(Segment(style.before_label, Role.FORMAT))
        if i < len(labels):
            pieces.append(Segment(label_text(labels[i]), Role.LABEL, i))
    return pieces


def tuning_prompt(
    row: Mapping[str, Any], inputs: Inputs, instructions: Mapping[str, str]
) -> list[Segment]:
    """A row of a mixture; its last segment is the query's label.

    `inputs` are by example number, `instructions` by dataset.
    """
    labels = [row["labels"][answer] for answer in row["answers"]]
    instruction = instructions[row["dataset"]] if row["instructed"] else None
    return segments(row["format"], [inputs[e] for e in row["examples"]], labels, instruction)


def classification_prompt(row: Mapping[str, Any], inputs: Inputs) -> list[Segment]:
    """A row of a classification suite, `inputs` by example number; the query's label is to come."""
    shown = [row["labels"][answer] for answer in row["exemplar_answers"]]
    asked = [inputs[e] for e in (*row["exemplars"], row["query"])]
    return segments(row["format"], asked, shown, row["instruction"])


def algorithmic_prompt(row: Mapping[str, Any]) -> list[Segment]:
    """A row of the algorithmic suite; the query's output is to come."""
    # 'Input: … Output: …', in which both benchmarks are published.
    return segments(0, [*row["inputs"], row["query_input"]], row["outputs"])


def exemplar_to_drop(classes: Sequence[int]) -> int | None:
    """The place of the exemplar that a prompt above its length does without: evenly by class.

    The last one of the commonest class, so that the prompt's opening stays where it is. None where
    every class has one exemplar left. `classes` are those of the exemplars, without the query.
    """
    most = max(classes, key=classes.count)
    if classes.count(most) == 1:
        return None
    return len(classes) - 1 - classes[::-1].index(most)


@dataclass(frozen=True)
class FormatTexts:
    """What a format puts around the inputs and labels of a prompt; a text may be empty.

    White space goes with the word after it, and a line's end with the line: as tokenizers split.
    """

    opening: str  # begins the prompt
    between: str  # begins every later example
    before_first: str  # white space that belongs to the first input
    before_text: str  # and to the later ones
    after_text: str
    before_label: str


def format_texts(format_id: int, instruction: str | None = None) -> FormatTexts:
    """The texts of one of the ten formats, opening with the instruction where there is one."""
    style = prompt_formats()[format_id]
    first = SEPARATOR if instruction else ""
    named = bool(style.before_input)
    return FormatTexts(
        opening=f"{instruction or ''}{first}{style.before_input}" if named else instruction or "",
        between=f"{SEPARATOR}{style.before_input}" if named else "",
        before_first=" " if named else first,
        before_text=" " if named else SEPARATOR,
        after_text="\n" if style.before_label.startswith("\n") else "",
        before_label=style.before_label.removeprefix("\n"),
    )


def label_text(label: str) -> str:
    """A label as it stands in a prompt: one space, then the label."""
    return f" {label}"


def render(pieces: Sequence[Segment]) -> str:
    """The prompt as one string."""
    return "".join(piece.text for piece in pieces)
