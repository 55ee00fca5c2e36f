"""References to text: the only place that knows what a prompt looks like.

Tuning and evaluation both build their prompts here, so a model is asked in the form it was tuned
on. A prompt is a list of segments; joined, their texts are the prompt. An example is four segments,
`EXAMPLE`, whose texts `example_layout` gives. This module knows nothing about tokens.
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


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a prompt: before it, between it and the query's label, and after that."""

    opening: str = ""
    closing: str = ""
    label: Slot = LABEL  # the query's
    end: str = SEPARATOR


PLAIN: Final = Frame()


def example_layout(
    format_id: int,
    instruction: str | None,
    frame: Frame,
    *,
    first: bool,
    last: bool,
    channel: bool = False,
) -> Layout:
    """The slots of an example in one of the ten formats: a prompt's first, its last, or another.

    With `channel`, labels come before inputs. A text may be empty. White space goes with the word
    after it, and a line's end with the line: as tokenizers split.
    """
    style = prompt_formats()[format_id]
    style = style.reversed() if channel else style
    opening = f"{frame.opening}{instruction or ''}" if first else ""
    separator = "" if first and not instruction else SEPARATOR
    end = "\n" if style.before_label.startswith("\n") else ""
    before_label = Slot(style.before_label.removeprefix("\n") + (frame.closing if last else ""))
    label = frame.label if last else LABEL
    if style.before_input:
        opens = Slot(f"{opening}{separator}{style.before_input}")
        return opens, Slot(" ", end), before_label, label
    # The example begins with its input, which the white space before it then belongs to.
    return Slot(opening), Slot(separator, end), before_label, label


def segments(
    format_id: int,
    inputs: Sequence[str],
    labels: Sequence[str],
    instruction: str | None = None,
    frame: Frame = PLAIN,
    channel: bool = False,
) -> list[Segment]:
    """A prompt from its inputs (query last) and their labels.

    With as many labels as inputs, the prompt ends with the query's label (tuning); with one fewer,
    it ends where the query's label must come (evaluation). With `channel`, `inputs` are labels and
    `labels` are inputs, in the format reversed.
    """
    prompt = []
    for i, text in enumerate(inputs):
        opening, around_input, before_label, around_label = example_layout(
            format_id, instruction, frame, first=i == 0, last=i == len(inputs) - 1, channel=channel
        )
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


def classification_prompt(
    row: Mapping[str, Any], inputs: Inputs, frame: Frame = PLAIN
) -> list[Segment]:
    """A row of a classification suite, `inputs` by example number; the query's label is to come."""
    labels = [row["labels"][target] for target in row["exemplar_targets"]]
    texts = [inputs[e] for e in (*row["exemplars"], row["query"])]
    return segments(row["format"], texts, labels, row["instruction"], frame)


def channel_prompt(
    row: Mapping[str, Any], inputs: Inputs, label: str, frame: Frame = PLAIN
) -> list[Segment]:
    """A row of a classification suite with every label before its input; the query's input is to come.

    `label` is the query's. Source: Min et al., "Noisy channel language model prompting for few-shot text
    classification" (2022), whose demonstrations are flipped alike.
    """
    shown = [row["labels"][target] for target in row["exemplar_targets"]]
    texts = [inputs[e] for e in row["exemplars"]]
    labels = [*shown, label]
    return segments(row["format"], labels, texts, row["instruction"], frame, channel=True)


def algorithmic_prompt(row: Mapping[str, Any], frame: Frame = PLAIN) -> list[Segment]:
    """A row of the algorithmic suite; the query's output is to come."""
    # 'Input: … Output: …', in which the benchmarks are published.
    return segments(0, [*row["inputs"], row["query_input"]], row["outputs"], frame=frame)


def exemplar_to_drop(classes: Sequence[int]) -> int | None:
    """The index of the exemplar that a prompt above its length does without: evenly by class.

    The last one of the commonest class, so that the prompt's opening stays where it is. None where
    every class has one exemplar left, or none. `classes` are those of the exemplars, without the query.
    """
    most = max(classes, key=classes.count, default=None)
    if most is None or classes.count(most) == 1:
        return None
    return len(classes) - 1 - classes[::-1].index(most)


def label_text(label: str) -> str:
    """A label as it stands in a prompt: one space, then the label."""
    return LABEL.filled(label)


def render(prompt: Sequence[Segment]) -> str:
    """The prompt as one string."""
    return "".join(segment.text for segment in prompt)
