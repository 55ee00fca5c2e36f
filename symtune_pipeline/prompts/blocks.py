"""Prompts to token blocks: every distinct text of a segment is tokenised once, then composed.

A block, a row of `tables.PACKED_MIXTURE`, holds whole prompts, one sequence after another, up to the
block's length. Composing is vectorised over the examples of many prompts. This module knows nothing
about models.

Shapes: P prompts, E examples of all of them, S segments of an example (`text.EXAMPLE`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.targets import FIRST, QUERY, SEEN
from symtune_pipeline.prompts.text import (
    EXAMPLE,
    Role,
    Segment,
    Slot,
    example_layouts,
    exemplar_to_drop,
    label_text,
    segments,
)
from symtune_pipeline.prompts.tokens import CHECKED_PROMPTS, SegmentTokenizer, Tokenizer
from symtune_pipeline.tables import MOST_CLASSES, PACKED_MIXTURE

CHUNK = 10_000  # prompts packed at a time: bounds memory, and leaves one block partly filled each

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Prompts:
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
    def from_frame(cls, rows: pl.DataFrame, instructions: Mapping[str, str]) -> _Prompts:
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

    def only(self, kept: NDArray[np.bool_]) -> _Prompts:
        """The same prompts with some of their examples."""
        counts = np.add.reduceat(kept.astype(np.int64), self.starts)
        return _Prompts(
            self.numbers, self.datasets, self.styles, self.style_of, counts,
            self.examples[kept], self.targets[kept], self.labels, self.label_starts,
        )  # fmt: skip

    def segments(self, prompt: int, inputs: pl.Series, kept: Sequence[int]) -> list[Segment]:
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
        )


class _TokenPool:
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
            _runs(self._starts[addresses], self.lengths[addresses])
        ]
        return tokens


class _Composer:
    """Puts prompts together from texts in a pool, tokenising those that it has not met."""

    def __init__(self, inputs: pl.Series, tokenizer: Tokenizer) -> None:
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.pool = _TokenPool()
        self._address_of: dict[str, int] = {}
        # An input is one text in most formats and another in those that join it otherwise.
        self._inputs_joined: dict[Slot, Ints] = {}

    def segments(self, prompts: _Prompts) -> Ints:
        """The addresses of every example's segments, [E, S]."""
        layouts = [example_layouts(*style) for style in prompts.styles]
        # By segment of an example: its slot in first examples of every style, then in later ones.
        slots_of = zip(
            *(first for first, _ in layouts), *(later for _, later in layouts), strict=True
        )
        layout_of = prompts.style_of[prompts.prompt_of] + len(layouts)
        layout_of[prompts.starts] -= len(layouts)
        columns = []
        for role, slots in zip(EXAMPLE, slots_of, strict=True):
            if role is Role.INPUT:
                column = self._input_addresses(prompts.examples, slots, layout_of)
            elif role is Role.LABEL:
                labels = self._addresses([label_text(label) for label in prompts.labels])
                column = labels[prompts.label_starts[prompts.prompt_of] + prompts.targets]
            else:
                column = self._addresses([slot.filled() for slot in slots])[layout_of]
            columns.append(column)
        return np.stack(columns, axis=1)

    def _addresses(self, texts: Sequence[str]) -> Ints:
        new = [text for text in dict.fromkeys(texts) if text not in self._address_of]
        self._address_of |= zip(new, self._tokenise(new).tolist(), strict=True)
        return np.array([self._address_of[text] for text in texts], dtype=np.int64)

    def _input_addresses(self, examples: Ints, slots: Sequence[Slot], slot_of: Ints) -> Ints:
        """The addresses of inputs in their slots, [E]; `slot_of` [E] is an index of `slots`."""
        addresses = np.empty(len(examples), np.int64)
        for slot in dict.fromkeys(slots):
            mine = np.isin(slot_of, [i for i, other in enumerate(slots) if other == slot])
            known = self._inputs_joined.setdefault(slot, np.full(len(self.inputs), -1))
            wanted = np.unique(examples[mine])
            new = wanted[known[wanted] < 0]
            known[new] = self._tokenise([slot.filled(text) for text in self.inputs.gather(new)])
            addresses[mine] = known[examples[mine]]
        return addresses

    def _tokenise(self, texts: Sequence[str]) -> Ints:
        addresses = [
            self.pool.add(self.tokenizer(batch, add_special_tokens=False)["input_ids"])
            for start in range(0, len(texts), CHUNK)
            if (batch := list(texts[start : start + CHUNK]))
        ]
        return np.concatenate(addresses) if addresses else np.empty(0, np.int64)


def packed_blocks(
    mixture: Iterable[pl.DataFrame],
    inputs: pl.Series,
    instructions: Mapping[str, str],
    tokenizer: Tokenizer,
    block_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[pl.DataFrame]:
    """The prompts of a mixture as blocks of at most `block_tokens` tokens, in frames.

    The frames are of `tables.PACKED_MIXTURE`; `mixture` comes in those of `tables.TUNING_MIXTURE`,
    `inputs` by example number and `instructions` by dataset. A prompt
    longer than a block loses exemplars, evenly by class, until it fits; one that still does not fit
    with an exemplar of every class is a UserError. `progress` is called with the number of prompts
    done. Memory grows with the number of different inputs and labels, not with that of prompts.
    """
    composer = _Composer(inputs, tokenizer)
    by_segment = SegmentTokenizer(tokenizer)
    blocks = done = 0
    for frame in mixture:
        for rows in frame.iter_slices(CHUNK):
            prompts = _Prompts.from_frame(rows, instructions)
            if not done:
                sample = range(min(len(rows), CHECKED_PROMPTS))
                by_segment.check(
                    prompts.segments(p, inputs, range(prompts.counts[p])) for p in sample
                )
            tokenised = (
                _composed(prompts, composer, block_tokens)
                if by_segment.composes
                else _tokenised_whole(prompts, inputs, by_segment, block_tokens)
            )
            packed = _blocks(*tokenised, block_tokens)
            yield packed.with_columns(block=pl.col("block") + blocks)
            blocks += len(packed)
            done += len(rows)
            progress(done)


def fill(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bin packing, best fit decreasing: the items of each bin, none above `capacity` together.

    The largest items come first and each goes where the least room stays (Johnson 1973).
    """
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # open bins by the room left
    open_rooms = 0  # bit r: a bin with room r is open, so that bit arithmetic gives the tightest
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[item]
        wide_enough = open_rooms >> length
        if wide_enough:
            room = length + (wide_enough & -wide_enough).bit_length() - 1
            index = by_room[room].pop()
            if not by_room[room]:
                open_rooms ^= 1 << room
        else:
            room, index = capacity, len(bins)
            bins.append([])
        bins[index].append(item)
        by_room[room - length].append(index)
        open_rooms |= 1 << (room - length)
    return bins


def _composed(
    prompts: _Prompts, composer: _Composer, capacity: int
) -> tuple[_Prompts, Ints, _TokenPool]:
    """Prompts that fit, the addresses of their segments [E, S], and the pool that these are in."""
    addresses = composer.segments(prompts)
    lengths = composer.pool.lengths[addresses].sum(axis=1)
    kept = np.ones(len(lengths), dtype=np.bool_)
    for prompt in np.nonzero(np.add.reduceat(lengths, prompts.starts) > capacity)[0].tolist():
        own = prompts.of(prompt)
        of_example = lengths[own]

        def tokens(some: Sequence[int], of_example: Ints = of_example) -> int:
            return int(of_example[some].sum())

        kept[own] = False
        kept[prompts.starts[prompt] + np.array(_fitting(prompts, prompt, tokens, capacity))] = True
    return prompts.only(kept), addresses[kept], composer.pool


def _tokenised_whole(
    prompts: _Prompts, inputs: pl.Series, by_segment: SegmentTokenizer, capacity: int
) -> tuple[_Prompts, Ints, _TokenPool]:
    """The same for a tokenizer that merges across segments: each prompt has texts of its own."""
    texts: list[list[int]] = []
    kept = np.zeros(len(prompts.examples), dtype=np.bool_)
    for prompt in range(len(prompts.counts)):

        def tokens_of(some: Sequence[int], prompt: int = prompt) -> list[list[int]]:
            return by_segment.segment_tokens(prompts.segments(prompt, inputs, some))

        def tokens(some: Sequence[int], prompt: int = prompt) -> int:
            return sum(map(len, tokens_of(some, prompt)))

        stays = _fitting(prompts, prompt, tokens, capacity)
        kept[prompts.starts[prompt] + np.array(stays)] = True
        texts += tokens_of(stays)
    pool = _TokenPool()
    return prompts.only(kept), pool.add(texts).reshape(-1, len(EXAMPLE)), pool


def _fitting(
    prompts: _Prompts, prompt: int, tokens: Callable[[Sequence[int]], int], capacity: int
) -> list[int]:
    """The examples of a prompt that stay, as few as need be left out; `tokens` counts theirs."""
    targets = prompts.targets[prompts.of(prompt)].tolist()
    kept = list(range(len(targets)))
    while (count := tokens(kept)) > capacity:
        index = exemplar_to_drop([targets[i] for i in kept[:-1]])
        if index is None:
            raise UserError(
                f"Prompt {prompts.numbers[prompt]} of dataset '{prompts.datasets[prompt]}' has"
                f" {count} tokens with one exemplar per class; raise tuning.block_tokens above"
                f" {capacity} or leave the dataset out."
            )
        kept.pop(index)
    return kept


def _blocks(prompts: _Prompts, addresses: Ints, pool: _TokenPool, capacity: int) -> pl.DataFrame:
    """The rows of `tables.PACKED_MIXTURE`; `addresses` are those of the segments, [E, S]."""
    kinds = np.full(len(addresses), SEEN, dtype=np.uint8)
    _, first = np.unique(prompts.prompt_of * MOST_CLASSES + prompts.targets, return_index=True)
    kinds[first] = FIRST
    kinds[prompts.starts + prompts.counts - 1] = QUERY

    lengths = np.add.reduceat(pool.lengths[addresses].sum(axis=1), prompts.starts)
    bins = fill(lengths.tolist(), capacity)
    order = np.concatenate([np.array(members) for members in bins])
    examples = _runs(prompts.starts[order], prompts.counts[order])
    flat = addresses[examples].reshape(-1)
    segment_lengths = pool.lengths[flat]
    labels = slice(EXAMPLE.index(Role.LABEL), None, len(EXAMPLE))
    label_lengths = segment_lengths[labels]
    label_starts = (segment_lengths.cumsum() - segment_lengths)[labels]

    prompt_counts = np.array([len(members) for members in bins])
    sequence_ends = np.append(0, lengths[order].cumsum())
    prompt_ends = np.append(0, prompt_counts.cumsum())
    block_ends = sequence_ends[prompt_ends]
    positions = _runs(label_starts, label_lengths)
    target_ends = np.searchsorted(positions, block_ends)
    positions -= np.repeat(block_ends[:-1], np.diff(target_ends))
    return PACKED_MIXTURE.frame(
        {
            "block": np.arange(len(bins), dtype=np.uint32),
            "tokens": _lists(pool.gather(flat), block_ends, pa.int32()),
            "sequence_lengths": _lists(lengths[order], prompt_ends, pa.uint32()),
            "target_positions": _lists(positions, target_ends, pa.uint32()),
            "target_kinds": _lists(
                np.repeat(kinds[examples], label_lengths), target_ends, pa.uint8()
            ),
        }
    )


def _runs(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, … of every run, one after another."""
    before = lengths.cumsum() - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _lists(values: NDArray, ends: Ints, dtype: pa.DataType) -> pl.Series:
    """A column of lists: row i holds values[ends[i]:ends[i + 1]]."""
    return pl.Series(pa.LargeListArray.from_arrays(ends, pa.array(values, type=dtype)))
