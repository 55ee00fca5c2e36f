"""Many prompts at a time: references in arrays, and tokens by address.

Every distinct text of a segment is tokenised once and has an address in a pool; a prompt is then a list
of addresses, and putting prompts together is arithmetic on arrays. Which of them have the tokens of the
whole string that way is asked once for every kind of junction (`tokens.Junctions`).

Shapes: P prompts, E examples of all of them, S segments of an example (`text.EXAMPLE`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress

import numpy as np
import polars as pl
from numpy.typing import NDArray

from symtune_pipeline.prompts.text import (
    EXAMPLE,
    Frame,
    Role,
    Segment,
    Slot,
    example_layout,
    segments,
)
from symtune_pipeline.prompts.tokens import SegmentTokenizer, ending, starting

BATCH = 10_000  # texts tokenised at a time

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Prompts:
    """References of P prompts, flat over their E examples."""

    numbers: Ints  # [P]
    datasets: list[str]  # [P]
    styles: list[tuple[int, str | None]]  # the formats and instructions that occur
    style_of: Ints  # [P] which of these
    counts: Ints  # [P] examples of each prompt, the query last
    examples: Ints  # [E]
    targets: Ints  # [E]
    labels: list[str]  # of all prompts, one after another
    label_starts: Ints  # [P]

    @classmethod
    def from_frame(cls, rows: pl.DataFrame, instructions: Mapping[str, str]) -> Prompts:
        styles: dict[tuple[int, str | None], int] = {}
        style_of = [
            styles.setdefault((style, instructions[dataset] if instructed else None), len(styles))
            for style, dataset, instructed in rows.select(
                "format", "dataset", "instructed"
            ).iter_rows()
        ]
        label_counts = rows["labels"].list.len().to_numpy().astype(np.int64)
        return cls(
            rows["prompt"].to_numpy().astype(np.int64),
            rows["dataset"].to_list(),
            list(styles),
            np.array(style_of),
            rows["examples"].list.len().to_numpy().astype(np.int64),
            rows["examples"].explode().to_numpy().astype(np.int64),
            rows["targets"].explode().to_numpy().astype(np.int64),
            rows["labels"].explode().to_list(),
            label_counts.cumsum() - label_counts,
        )

    @cached_property
    def prompt_of(self) -> Ints:
        """The prompt of each example, [E]."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def starts(self) -> Ints:
        """Each prompt's first example, [P]."""
        return self.counts.cumsum() - self.counts

    def of(self, prompt: int) -> slice:
        """The examples of a prompt, as a slice of [E]."""
        start = int(self.starts[prompt])
        return slice(start, start + int(self.counts[prompt]))

    def where(self, chosen: NDArray[np.bool_]) -> Prompts:
        """Some of the prompts; `chosen` is of shape [P]."""
        examples = np.repeat(chosen, self.counts)
        return Prompts(
            self.numbers[chosen], list(compress(self.datasets, chosen)), self.styles,
            self.style_of[chosen], self.counts[chosen], self.examples[examples],
            self.targets[examples], self.labels, self.label_starts[chosen],
        )  # fmt: skip

    def only(self, kept: NDArray[np.bool_]) -> Prompts:
        """The same prompts with some of their examples."""
        counts = np.add.reduceat(kept.astype(np.int64), self.starts)
        return Prompts(
            self.numbers, self.datasets, self.styles, self.style_of, counts,
            self.examples[kept], self.targets[kept], self.labels, self.label_starts,
        )  # fmt: skip

    def segments(
        self, prompt: int, inputs: pl.Series, kept: Sequence[int], frame: Frame
    ) -> list[Segment]:
        """A prompt with the kept ones of its examples."""
        own = self.of(prompt)
        labels = self.labels[self.label_starts[prompt] :]
        examples, targets = self.examples[own], self.targets[own]
        style, instruction = self.styles[self.style_of[prompt]]
        return segments(
            style,
            [inputs[int(examples[i])] for i in kept],
            [labels[targets[i]] for i in kept],
            instruction,
            frame,
        )


class TokenPool:
    """Token ids of many texts in one array; a text is known by its address, a number."""

    def __init__(self) -> None:
        self._tokens = np.empty(0, np.int32)
        self._starts = np.empty(0, np.int64)
        self.lengths = np.empty(0, np.int64)

    def add(self, texts: Sequence[Sequence[int]]) -> Ints:
        """Take in texts as token ids; returns their addresses."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        total = int(lengths.sum())
        flat = np.fromiter((token for text in texts for token in text), np.int32, total)
        self._starts = np.append(self._starts, len(self._tokens) + lengths.cumsum() - lengths)
        self._tokens = np.append(self._tokens, flat)
        self.lengths = np.append(self.lengths, lengths)
        return np.arange(len(self.lengths) - len(texts), len(self.lengths))

    def gather(self, addresses: Ints) -> NDArray[np.int32]:
        """The tokens of the texts at these addresses, one after another."""
        tokens: NDArray[np.int32] = self._tokens[
            runs(self._starts[addresses], self.lengths[addresses])
        ]
        return tokens


class _Ends:
    """The ends of texts by the texts' addresses, told apart as far as `kind_of` does."""

    def __init__(self, kind_of: Callable[[str], str]) -> None:
        self._kind_of = kind_of
        self._numbers: dict[str, int] = {}
        self.texts: list[str] = []  # one of each kind
        self.of = np.empty(0, np.int64)  # [addresses]

    def add(self, texts: Sequence[str]) -> None:
        """Take in texts whose addresses are the next ones."""
        numbers = []
        for text in texts:
            number = self._numbers.setdefault(self._kind_of(text), len(self.texts))
            if number == len(self.texts):
                self.texts.append(text)
            numbers.append(number)
        self.of = np.append(self.of, numbers).astype(np.int64)


class Composer:
    """Puts prompts together from texts in a pool, tokenising those that it has not met."""

    def __init__(self, inputs: pl.Series, by_segment: SegmentTokenizer) -> None:
        self.inputs = inputs
        self.by_segment = by_segment
        self.pool = TokenPool()
        self._endings, self._startings = _Ends(ending), _Ends(starting)
        self._empty = np.empty(0, np.bool_)  # [addresses]
        self._address_of: dict[str, int] = {}
        # The same texts at the start of a prompt, with the tokens that stand before it.
        self._opening_of: dict[str, int] = {}
        # An input is one text in most formats and another in those that join it otherwise.
        self._inputs_joined: dict[Slot, Ints] = {}

    def segments(self, prompts: Prompts) -> Ints:
        """The addresses of every example's segments, [E, S]."""
        styles, frame = prompts.styles, self.by_segment.frame
        layouts = [
            example_layout(*style, frame, first=first, last=last)
            for first, last in ((True, False), (False, False), (False, True))
            for style in styles
        ]
        # By segment of an example: its slot in first examples of every style, in later ones, in queries.
        slots_of = zip(*layouts, strict=True)
        layout_of = prompts.style_of[prompts.prompt_of] + len(styles)
        layout_of[prompts.starts] -= len(styles)
        layout_of[prompts.starts + prompts.counts - 1] += len(styles)
        columns: list[Ints] = []
        for role, slots in zip(EXAMPLE, slots_of, strict=True):
            if role is Role.INPUT:
                column = self._input_addresses(prompts.examples, slots, layout_of)
            elif role is Role.LABEL:
                column = self._label_addresses(prompts, slots, layout_of)
            else:
                texts = [slot.filled() for slot in slots]
                # A prompt opens with the first segment of its first example.
                opening = 0 if columns else len(styles)
                first, later = self._openings(texts[:opening]), self._addresses(texts[opening:])
                column = np.append(first, later)[layout_of]
            columns.append(column)
        return np.stack(columns, axis=1)

    def composing(self, prompts: Prompts, addresses: Ints) -> NDArray[np.bool_]:
        """Which prompts have the tokens of their segments, one after another, as a whole, [P]."""
        flat = addresses.reshape(-1)
        prompt_of = np.repeat(prompts.prompt_of, len(EXAMPLE))
        there = ~self._empty[flat]
        flat, prompt_of = flat[there], prompt_of[there]
        meet = prompt_of[1:] == prompt_of[:-1]
        left, right = self._endings.of[flat[:-1][meet]], self._startings.of[flat[1:][meet]]
        apart = np.zeros((len(self._endings.texts), len(self._startings.texts)), np.bool_)
        apart[left, right] = True
        for end, start in np.argwhere(apart).tolist():
            texts = self._endings.texts[end], self._startings.texts[start]
            apart[end, start] = not self.by_segment.junctions.compose(*texts)
        composing = np.ones(len(prompts.counts), np.bool_)
        composing[prompt_of[1:][meet][apart[left, right]]] = False
        return composing

    def _openings(self, texts: Sequence[str]) -> Ints:
        return self._looked_up(texts, self._opening_of, self.by_segment.encoder.before)

    def _addresses(self, texts: Sequence[str]) -> Ints:
        return self._looked_up(texts, self._address_of)

    def _looked_up(
        self, texts: Sequence[str], known: dict[str, int], before: Sequence[int] = ()
    ) -> Ints:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known |= zip(new, self._tokenise(new, before).tolist(), strict=True)
        return np.array([known[text] for text in texts], dtype=np.int64)

    def _input_addresses(self, examples: Ints, slots: Sequence[Slot], slot_of: Ints) -> Ints:
        """The addresses of inputs in their slots, [E]; `slot_of` [E] is an index of `slots`."""
        addresses = np.empty(len(examples), np.int64)
        for slot, mine in _by_slot(slots, slot_of):
            known = self._inputs_joined.setdefault(slot, np.full(len(self.inputs), -1))
            wanted = np.unique(examples[mine])
            new = wanted[known[wanted] < 0]
            known[new] = self._tokenise([slot.filled(text) for text in self.inputs.gather(new)])
            addresses[mine] = known[examples[mine]]
        return addresses

    def _label_addresses(self, prompts: Prompts, slots: Sequence[Slot], slot_of: Ints) -> Ints:
        """The same of labels."""
        of_example = prompts.label_starts[prompts.prompt_of] + prompts.targets
        addresses = np.empty(len(of_example), np.int64)
        for slot, mine in _by_slot(slots, slot_of):
            labels = self._addresses([slot.filled(label) for label in prompts.labels])
            addresses[mine] = labels[of_example[mine]]
        return addresses

    def _tokenise(self, texts: Sequence[str], before: Sequence[int] = ()) -> Ints:
        addresses = [np.empty(0, np.int64)]
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            addresses.append(
                self.pool.add([[*before, *ids] for ids in self.by_segment.encoder.ids(batch)])
            )
        self._endings.add(texts)
        self._startings.add(texts)
        self._empty = np.append(self._empty, [not text for text in texts]).astype(np.bool_)
        return np.concatenate(addresses)


def _by_slot(slots: Sequence[Slot], slot_of: Ints) -> Iterator[tuple[Slot, NDArray[np.bool_]]]:
    """Every slot once, and the examples that have it, [E]."""
    for slot in dict.fromkeys(slots):
        yield slot, np.isin(slot_of, [i for i, other in enumerate(slots) if other == slot])


def runs(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, … of every run, one after another."""
    before = lengths.cumsum() - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
