"""References to text: the only place that knows what a prompt looks like.

Tuning and evaluation both build their prompts here, so a model is asked in the form it was tuned
on. A prompt is a list of segments; joined, their texts are the prompt. An example is four segments,
`EXAMPLE`, whose texts `example_layouts` gives. This module knows nothing about tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

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


EXAMPLE: Final = (Role.FORMAT, Role.INPUT, Role.FORMAT, Role.LABEL)
"""The segments of an example in order; the first one of a prompt holds the instruction, if any."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a prompt's text; `example` is its index in the prompt, the query's the last.

    Segments of the format belong to no example: theirs is -1.
    """

    text: str
    role: Role
    example: int = -1


@dataclass(frozen=True, slots=True)
class Slot:
    """The fixed text of a segment: all of it, or what joins the input or label that it holds."""

    before: str = ""
    after: str = ""

    def filled(self, text: str = "") -> str:
        """The segment's text with an input or a label."""
        return f"{self.before}{text}{self.after}"


Layout = tuple[Slot, Slot, Slot, Slot]
"""The slots of an example, as `EXAMPLE` names them."""

LABEL: Final = Slot(before=" ")


def example_layouts(format_id: int, instruction: str | None = None) -> tuple[Layout, Layout]:
    """The slots of a prompt's first example and of every later one, in one of the ten formats.

    A text may be empty. White space goes with the word after it, and a line's end with the line:
    as tokenizers split.
    """
    style = prompt_formats()[format_id]
    separator = SEPARATOR if instruction else ""
    end = "\n" if style.before_label.startswith("\n") else ""
    before_label = Slot(style.before_label.removeprefix("\n"))
    if style.before_input:
        joined = Slot(" ", end)
        opening = Slot(f"{instruction or ''}{separator}{style.before_input}")
        between = Slot(f"{SEPARATOR}{style.before_input}")
        return (opening, joined, before_label, LABEL), (between, joined, before_label, LABEL)
    # The example begins with its input, which the white space before it then belongs to.
    first, later = Slot(separator, end), Slot(SEPARATOR, end)
    return (
        (Slot(instruction or ""), first, before_label, LABEL),
        (Slot(), later, before_label, LABEL),
    )


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
    first, later = example_layouts(format_id, instruction)
    prompt = []
    for i, text in enumerate(inputs):
        opening, around_input, before_label, around_label = later if i else first
        opens = Role.FORMAT if i or not instruction else Role.INSTRUCTION
        prompt.append(Segment(opening.filled(), opens))
        prompt.append(Segment(around_input.filled(text), Role.INPUT, i))
        prompt.append(Segment(before_label.filled(), Role.FORMAT))
        if i < len(labels):
            prompt.append(Segment(around_label.filled(labels[i]), Role.LABEL, i))
    return prompt


def tuning_prompt(
    row: Mapping[str, Any], inputs: Inputs, instructions: Mapping[str, str]
) -> list[Segment]:
    """A row of a mixture; its last segment is the query's label.

    `inputs` are by example number, `instructions` by dataset.
    """
    labels = [row["labels"][target] for target in row["targets"]]
    instruction = instructions[row["dataset"]] if row["instructed"] else None
    return segments(row["format"], [inputs[e] for e in row["examples"]], labels, instruction)


def classification_prompt(row: Mapping[str, Any], inputs: Inputs) -> list[Segment]:
    """A row of a classification suite, `inputs` by example number; the query's label is to come."""
    labels = [row["labels"][target] for target in row["exemplar_targets"]]
    texts = [inputs[e] for e in (*row["exemplars"], row["query"])]
    return segments(row["format"], texts, labels, row["instruction"])


def algorithmic_prompt(row: Mapping[str, Any]) -> list[Segment]:
    """A row of the algorithmic suite; the query's output is to come."""
    # 'Input: … Output: …', in which the benchmarks are published.
    return segments(0, [*row["inputs"], row["query_input"]], row["outputs"])


def exemplar_to_drop(classes: Sequence[int]) -> int | None:
    """The index of the exemplar that a prompt above its length does without: evenly by class.

    The last one of the commonest class, so that the prompt's opening stays where it is. None where
    every class has one exemplar left. `classes` are those of the exemplars, without the query.
    """
    most = max(classes, key=classes.count)
    if classes.count(most) == 1:
        return None
    return len(classes) - 1 - classes[::-1].index(most)


def label_text(label: str) -> str:
    """A label as it stands in a prompt: one space, then the label."""
    return LABEL.filled(label)


def render(prompt: Sequence[Segment]) -> str:
    """The prompt as one string."""
    return "".join(segment.text for segment in prompt)
