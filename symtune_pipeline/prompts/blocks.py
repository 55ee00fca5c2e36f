"""Prompts to token blocks: every distinct piece of text is tokenised once, then composed.

A block holds whole prompts, one after another, up to the block's length. Its row:

    block           number of the block
    tokens          token ids [T]
    prompt_lengths  tokens of each prompt, in order; they sum to T
    target_places   places in `tokens` that hold a token of a label
    target_kinds    for each of these: 0 the first label of its class in the prompt, which nothing
                    before it tells; 1 a later label; 2 the query's label

Composing is vectorised over the examples of many prompts. Shapes: P prompts, E examples of all of
them, 4 pieces to an example (before the input, input, before the label, label). This module knows
nothing about models.
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
    Segment,
    exemplar_to_drop,
    format_texts,
    label_text,
    segments,
)
from symtune_pipeline.prompts.tokens import CHECKED_PROMPTS, PieceTokenizer, Tokenizer

CHUNK = 10_000  # prompts packed at a time: bounds memory, and costs a part of one block each

Ints = NDArray[np.int64]
Parts = Callable[[Sequence[int]], list[list[int]]]


@dataclass(frozen=True)
class _Prompts:
    """References of P prompts, flat over their E examples."""

    numbers: Ints  # [P]
    datasets: list[str]  # [P]
    styles: list[tuple[int, str | None]]  # the formats and instructions that occur
    style_of: Ints  # [P] which of these
    counts: Ints  # [P] examples of each prompt, the query last
    examples: Ints  # [E]
    answers: Ints  # [E]
    labels: list[str]  # of all prompts, one after another
    label_starts: Ints  # [P]

    @classmethod
    def from_frame(cls, rows: pl.DataFrame, instructions: Mapping[str, str]) -> _Prompts:
        styles: dict[tuple[int, str | None], int] = {}
        style_of = [
            styles.setdefault((style, instructions[dataset] if told else None), len(styles))
            for style, dataset, told in rows.select("format", "dataset", "instructed").iter_rows()
        ]
        label_counts = rows["labels"].list.len().to_numpy().astype(np.int64)
        return cls(
            rows["prompt"].to_numpy().astype(np.int64),
            rows["dataset"].to_list(),
            list(styles),
            np.array(style_of),
            rows["examples"].list.len().to_numpy().astype(np.int64),
            rows["examples"].explode().to_numpy().astype(np.int64),
            rows["answers"].explode().to_numpy().astype(np.int64),
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
        """Where a prompt's examples lie."""
        start = int(self.starts[prompt])
        return slice(start, start + int(self.counts[prompt]))

    def only(self, kept: NDArray[np.bool_]) -> _Prompts:
        """The same prompts with some of their examples."""
        counts = np.add.reduceat(kept.astype(np.int64), self.starts)
        return _Prompts(
            self.numbers, self.datasets, self.styles, self.style_of, counts,
            self.examples[kept], self.answers[kept], self.labels, self.label_starts,
        )  # fmt: skip

    def segments(self, prompt: int, inputs: pl.Series, kept: Sequence[int]) -> list[Segment]:
        """A prompt with the kept ones of its examples."""
        here = self.of(prompt)
        labels = self.labels[self.label_starts[prompt] :]
        examples, answers = self.examples[here], self.answers[here]
        style, instruction = self.styles[self.style_of[prompt]]
        return segments(
            style,
            [inputs[int(examples[i])] for i in kept],
            [labels[answers[i]] for i in kept],
            instruction,
        )


class _TokenPool:
    """Token ids of many texts in one array; a text is known by its place."""

    def __init__(self) -> None:
        self._tokens = np.empty(0, np.int32)
        self._starts = np.empty(0, np.int64)
        self.lengths = np.empty(0, np.int64)

    def add(self, texts: Sequence[Sequence[int]]) -> Ints:
        """Take in texts as token ids; returns their places."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        total = int(lengths.sum())
        flat = np.fromiter((token for text in texts for token in text), np.int32, total)
        self._starts = np.append(self._starts, len(self._tokens) + lengths.cumsum() - lengths)
        self._tokens = np.append(self._tokens, flat)
        self.lengths = np.append(self.lengths, lengths)
        return np.arange(len(self.lengths) - len(texts), len(self.lengths))

    def gather(self, places: Ints) -> NDArray[np.int32]:
        """The tokens of the texts at `places`, one after another."""
        found: NDArray[np.int32] = self._tokens[_runs(self._starts[places], self.lengths[places])]
        return found


class _Composer:
    """Finds the pieces of prompts in a pool, tokenising what it has not met."""

    def __init__(self, inputs: pl.Series, tokenizer: Tokenizer) -> None:
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.pool = _TokenPool()
        self._place_of: dict[str, int] = {}
        # An input is one piece in most formats and another in those that join it otherwise.
        self._inputs_joined: dict[tuple[str, str], Ints] = {}

    def pieces(self, prompts: _Prompts) -> Ints:
        """Places in the pool of the pieces of every example, [E, 4]."""
        texts = [format_texts(*style) for style in prompts.styles]
        style_of = prompts.style_of[prompts.prompt_of]
        opening, between, before_label = (
            self._places([getattr(text, name) for text in texts])
            for name in ("opening", "between", "before_label")
        )
        before = between[style_of]
        before[prompts.starts] = opening[prompts.style_of]
        joints = [(text.before_text, text.after_text) for text in texts]
        joints += [(text.before_first, text.after_text) for text in texts]
        joint_of = style_of.copy()
        joint_of[prompts.starts] += len(texts)
        labels = self._places([label_text(label) for label in prompts.labels])
        return np.stack(
            [
                before,
                self._input_places(prompts.examples, joints, joint_of),
                before_label[style_of],
                labels[prompts.label_starts[prompts.prompt_of] + prompts.answers],
            ],
            axis=1,
        )

    def _places(self, texts: Sequence[str]) -> Ints:
        new = [text for text in dict.fromkeys(texts) if text not in self._place_of]
        self._place_of |= zip(new, self._tokenise(new).tolist(), strict=True)
        return np.array([self._place_of[text] for text in texts], dtype=np.int64)

    def _input_places(
        self, examples: Ints, joints: Sequence[tuple[str, str]], joint_of: Ints
    ) -> Ints:
        found = np.empty(len(examples), np.int64)
        for before, after in dict.fromkeys(joints):
            same = [i for i, joint in enumerate(joints) if joint == (before, after)]
            mine = np.isin(joint_of, same)
            known = self._inputs_joined.setdefault((before, after), np.full(len(self.inputs), -1))
            asked = np.unique(examples[mine])
            new = asked[known[asked] < 0]
            known[new] = self._tokenise([f"{before}{x}{after}" for x in self.inputs.gather(new)])
            found[mine] = known[examples[mine]]
        return found

    def _tokenise(self, texts: Sequence[str]) -> Ints:
        places = [
            self.pool.add(self.tokenizer(batch, add_special_tokens=False)["input_ids"])
            for start in range(0, len(texts), CHUNK)
            if (batch := list(texts[start : start + CHUNK]))
        ]
        return np.concatenate(places) if places else np.empty(0, np.int64)


def packed_blocks(
    mixture: Iterable[pl.DataFrame],
    inputs: pl.Series,
    instructions: Mapping[str, str],
    tokenizer: Tokenizer,
    block_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[pl.DataFrame]:
    """The prompts of a mixture as blocks of at most `block_tokens` tokens, in frames.

    `mixture` comes in frames, `inputs` by example number and `instructions` by dataset. A prompt
    longer than a block loses exemplars, evenly by class, until it fits; one that still does not fit
    with an exemplar of every class is a UserError. `progress` is called with the number of prompts
    done. Memory does not grow with the number of prompts, but for the tokens of what they show.
    """
    composer = _Composer(inputs, tokenizer)
    pieces = PieceTokenizer(tokenizer)
    blocks = done = 0
    for frame in mixture:
        for rows in frame.iter_slices(CHUNK):
            prompts = _Prompts.from_frame(rows, instructions)
            if not done:
                sample = range(min(len(rows), CHECKED_PROMPTS))
                pieces.check(prompts.segments(p, inputs, range(prompts.counts[p])) for p in sample)
            found = (
                _composed(prompts, composer, block_tokens)
                if pieces.composes
                else _tokenised_whole(prompts, inputs, pieces, block_tokens)
            )
            packed = _blocks(*found, block_tokens)
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
    open_rooms = 0  # bit r is set where a bin with room r is open: finds the tightest at once
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[item]
        wide_enough = open_rooms >> length
        if wide_enough:
            room = length + (wide_enough & -wide_enough).bit_length() - 1
            place = by_room[room].pop()
            if not by_room[room]:
                open_rooms ^= 1 << room
        else:
            room, place = capacity, len(bins)
            bins.append([])
        bins[place].append(item)
        by_room[room - length].append(place)
        open_rooms |= 1 << (room - length)
    return bins


def _composed(
    prompts: _Prompts, composer: _Composer, capacity: int
) -> tuple[_Prompts, Ints, _TokenPool]:
    """Prompts that fit, the places of their pieces [E, 4], and the pool that these are in."""
    pieces = composer.pieces(prompts)
    lengths = composer.pool.lengths[pieces].sum(axis=1)
    kept = np.ones(len(lengths), dtype=np.bool_)
    for prompt in np.nonzero(np.add.reduceat(lengths, prompts.starts) > capacity)[0].tolist():
        here = prompts.of(prompt)
        of_example = lengths[here]

        def tokens(some: Sequence[int], of_example: Ints = of_example) -> int:
            return int(of_example[some].sum())

        kept[here] = False
        kept[prompts.starts[prompt] + np.array(_fitting(prompts, prompt, tokens, capacity))] = True
    return prompts.only(kept), pieces[kept], composer.pool


def _tokenised_whole(
    prompts: _Prompts, inputs: pl.Series, pieces: PieceTokenizer, capacity: int
) -> tuple[_Prompts, Ints, _TokenPool]:
    """The same for a tokenizer that merges across pieces: each prompt has pieces of its own."""
    parts: list[list[int]] = []
    kept = np.zeros(len(prompts.examples), dtype=np.bool_)
    for prompt in range(len(prompts.counts)):

        def parts_of(some: Sequence[int], prompt: int = prompt) -> list[list[int]]:
            return pieces.pieces(prompts.segments(prompt, inputs, some))

        def tokens(some: Sequence[int], parts_of: Parts = parts_of) -> int:
            return sum(map(len, parts_of(some)))

        stays = _fitting(prompts, prompt, tokens, capacity)
        kept[prompts.starts[prompt] + np.array(stays)] = True
        parts += parts_of(stays)
    pool = _TokenPool()
    return prompts.only(kept), pool.add(parts).reshape(-1, 4), pool


def _fitting(
    prompts: _Prompts, prompt: int, tokens: Callable[[Sequence[int]], int], capacity: int
) -> list[int]:
    """The examples of a prompt that stay, as few as need be left out; `tokens` counts theirs."""
    answers = prompts.answers[prompts.of(prompt)].tolist()
    kept = list(range(len(answers)))
    while (count := tokens(kept)) > capacity:
        place = exemplar_to_drop([answers[i] for i in kept[:-1]])
        if place is None:
            raise UserError(
                f"Prompt {prompts.numbers[prompt]} of dataset '{prompts.datasets[prompt]}' has"
                f" {count} tokens with one exemplar per class; raise tuning.block_tokens above"
                f" {capacity} or leave the dataset out."
            )
        kept.pop(place)
    return kept


def _blocks(prompts: _Prompts, pieces: Ints, pool: _TokenPool, capacity: int) -> pl.DataFrame:
    kinds = np.full(len(pieces), SEEN, dtype=np.uint8)
    _, first = np.unique(prompts.prompt_of << 8 | prompts.answers, return_index=True)
    kinds[first] = FIRST
    kinds[prompts.starts + prompts.counts - 1] = QUERY

    lengths = np.add.reduceat(pool.lengths[pieces].sum(axis=1), prompts.starts)
    bins = fill(lengths.tolist(), capacity)
    order = np.concatenate([np.array(members) for members in bins])
    examples = _runs(prompts.starts[order], prompts.counts[order])
    flat = pieces[examples].reshape(-1)
    piece_lengths = pool.lengths[flat]
    label_lengths = piece_lengths[3::4]
    label_starts = (piece_lengths.cumsum() - piece_lengths)[3::4]

    prompts_of_block = np.array([len(members) for members in bins])
    prompt_ends = np.append(0, lengths[order].cumsum())
    block_ends = prompt_ends[np.append(0, prompts_of_block.cumsum())]
    places = _runs(label_starts, label_lengths)
    target_ends = np.searchsorted(places, block_ends)
    places -= np.repeat(block_ends[:-1], np.diff(target_ends))
    return pl.DataFrame(
        {
            "block": pl.arange(len(bins), dtype=pl.UInt32, eager=True),
            "tokens": _lists(pool.gather(flat), block_ends, pa.int32()),
            "prompt_lengths": _lists(
                lengths[order], np.append(0, prompts_of_block.cumsum()), pa.uint32()
            ),
            "target_places": _lists(places, target_ends, pa.uint32()),
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
