"""Prompts to token blocks: every distinct text of a segment is tokenised once, then composed.

Prompts whose segments do not compose (`tokens.Junctions`) are tokenised whole and packed apart.

A block, a row of `tables.PACKED_MIXTURE`, holds whole prompts, one sequence after another, up to the
block's length. Composing is vectorised over the examples of many prompts. This module knows nothing
about models.

Shapes: P prompts, E examples of all of them, S segments of an example (`text.EXAMPLE`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.composing import Composer, Ints, Prompts, TokenPool, runs
from symtune_pipeline.prompts.targets import FIRST, QUERY, SEEN
from symtune_pipeline.prompts.text import EXAMPLE, Role, exemplar_to_drop
from symtune_pipeline.prompts.tokens import SegmentTokenizer
from symtune_pipeline.tables import MOST_CLASSES, PACKED_MIXTURE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 10_000  # prompts packed at a time: bounds memory, and leaves one block partly filled each


class TooLong:
    """Prompts that exceed a block: what they lost, and which are left out.

    A prompt is left out that exceeds a block even with one exemplar per class. `least` is how many
    exemplars per class a prompt should have.
    """

    def __init__(self, least: int = 1) -> None:
        self.least = least
        self.prompts: Counter[str] = Counter()  # left out, by dataset
        self.shortened: Counter[str] = Counter()  # prompts that lost exemplars, by dataset
        self.exemplars: Counter[str] = Counter()  # that these lost, by dataset
        self.too_few: Counter[str] = Counter()  # of these, prompts now below `least`, by dataset
        self._shortest: dict[str, int] = {}  # tokens, by dataset

    def add(self, dataset: str, tokens: int) -> None:
        """Count a prompt that has so many tokens with one exemplar per class."""
        self.prompts[dataset] += 1
        self._shortest[dataset] = min(tokens, self._shortest.get(dataset, tokens))

    def shorten(self, dataset: str, before: Sequence[int], after: Sequence[int]) -> None:
        """Count a prompt that lost exemplars; they are given by their classes."""
        self.shortened[dataset] += 1
        self.exemplars[dataset] += len(before) - len(after)
        rarest_before, rarest_after = (min(Counter(each).values()) for each in (before, after))
        self.too_few[dataset] += rarest_after < self.least <= rarest_before

    def sentences(self, capacity: int) -> list[str]:
        """What blocks of `capacity` tokens had no room for, in sentences."""
        return [*self._losses(capacity), *self._left_out(capacity)]

    def _losses(self, capacity: int) -> list[str]:
        if not self.shortened:
            return []
        return [
            f"{self.shortened.total():,} prompts exceed a block of {capacity:,} tokens and lost"
            f" {self.exemplars.total():,} exemplars; {self.too_few.total():,} of these prompts now"
            f" have fewer than {self.least} exemplars per class; tuning.block_tokens sets the size"
        ]

    def _left_out(self, capacity: int) -> list[str]:
        return [
            f"{dataset}: left out {prompts:,} prompts that exceed a block of {capacity:,} tokens even"
            " with one exemplar per class; tuning.block_tokens sets the size"
            for dataset, prompts in sorted(self.prompts.items())
        ]

    def check(self, drawn: Mapping[str, int], capacity: int) -> None:
        """Raise UserError for a dataset that has no prompt left of those drawn, by dataset."""
        for dataset, shortest in self._shortest.items():
            if self.prompts[dataset] == drawn[dataset]:
                raise UserError(
                    f"No prompt of dataset '{dataset}' fits a block of {capacity:,} tokens: the"
                    f" shortest of {drawn[dataset]:,} has {shortest:,} with one exemplar per class;"
                    f" raise tuning.block_tokens to {shortest:,} or more, or leave the dataset out."
                )


def packed_blocks(
    mixture: Iterable[pl.DataFrame],
    inputs: pl.Series,
    instructions: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    block_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
    chat: bool = False,
    too_long: TooLong | None = None,
) -> Iterator[pl.DataFrame]:
    """The prompts of a mixture as blocks of at most `block_tokens` tokens, in frames.

    The frames are of `tables.PACKED_MIXTURE`; `mixture` comes in those of `tables.TUNING_MIXTURE`,
    `inputs` by example number and `instructions` by dataset. Every prompt begins with what the
    tokenizer puts before a text; with `chat`, it stands in the tokenizer's chat template. One longer
    than a block loses exemplars, evenly by class, until it fits; one that does not fit with an
    exemplar of every class is left out; `too_long` counts both. Raises UserError for a dataset
    that has no other prompt, for a label without tokens, and where `SegmentTokenizer` does.
    `progress` is called with the number of prompts done. Memory grows with the number of different
    inputs and labels, not with that of prompts.
    """
    composer = Composer(inputs, SegmentTokenizer(tokenizer, chat))
    too_long = too_long or TooLong()
    drawn: Counter[str] = Counter()
    blocks = done = 0
    for frame in mixture:
        for rows in frame.iter_slices(CHUNK):
            prompts = Prompts.from_frame(rows, instructions)
            drawn.update(prompts.datasets)
            for fitted in _fitted(prompts, composer, block_tokens, too_long):
                if not len(fitted[0].numbers):
                    continue
                packed = _blocks(*fitted, block_tokens)
                yield packed.with_columns(block=pl.col("block") + blocks)
                blocks += len(packed)
            done += len(rows)
            progress(done)
    too_long.check(drawn, block_tokens)


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


def _fitted(
    prompts: Prompts, composer: Composer, capacity: int, too_long: TooLong
) -> Iterator[tuple[Prompts, Ints, TokenPool]]:
    """Prompts that fit, the addresses of their segments [E, S], and the pool that these are in.

    First those that are composed, then those that are tokenised whole; of either there may be none.
    """
    addresses = composer.segments(prompts)
    composing = composer.composing(prompts, addresses)
    of_examples = np.repeat(composing, prompts.counts)
    composed, addresses = prompts.where(composing), addresses[of_examples]
    yield _composed(composed, addresses, composer.pool, capacity, too_long)
    yield _whole(prompts.where(~composing), composer, capacity, too_long)


def _composed(
    prompts: Prompts, addresses: Ints, pool: TokenPool, capacity: int, too_long: TooLong
) -> tuple[Prompts, Ints, TokenPool]:
    lengths = pool.lengths[addresses].sum(axis=1)
    kept = np.ones(len(lengths), dtype=np.bool_)
    for prompt in np.nonzero(np.add.reduceat(lengths, prompts.starts) > capacity)[0].tolist():
        own = prompts.of(prompt)
        of_example = lengths[own]

        def tokens(some: Sequence[int], of_example: Ints = of_example) -> int:
            return int(of_example[some].sum())

        kept[own] = False
        stays = _fitting(prompts, prompt, tokens, capacity, too_long)
        kept[prompts.starts[prompt] + stays] = True
    return _without_empty(prompts.only(kept)), addresses[kept], pool


def _whole(
    prompts: Prompts, composer: Composer, capacity: int, too_long: TooLong
) -> tuple[Prompts, Ints, TokenPool]:
    inputs, by_segment = composer.inputs, composer.by_segment
    before, frame = by_segment.encoder.before, by_segment.frame

    def tokens_of(prompt: int, some: Sequence[int]) -> list[list[int]]:
        [found] = by_segment.whole([prompts.segments(prompt, inputs, some, frame)])
        return found

    texts: list[list[int]] = []
    kept = np.ones(len(prompts.examples), dtype=np.bool_)
    everything = by_segment.whole(
        [
            prompts.segments(p, inputs, range(n), frame)
            for p, n in enumerate(prompts.counts.tolist())
        ]
    )
    for prompt, found in enumerate(everything):
        if len(before) + sum(map(len, found)) > capacity:

            def tokens(some: Sequence[int], prompt: int = prompt) -> int:
                return len(before) + sum(map(len, tokens_of(prompt, some)))

            stays = _fitting(prompts, prompt, tokens, capacity, too_long)
            kept[prompts.of(prompt)] = False
            kept[prompts.starts[prompt] + stays] = True
            if not len(stays):
                continue
            found = tokens_of(prompt, stays.tolist())
        texts += [before + found[0], *found[1:]]
    pool = TokenPool()  # each prompt has texts of its own
    return _without_empty(prompts.only(kept)), pool.add(texts).reshape(-1, len(EXAMPLE)), pool


def _fitting(
    prompts: Prompts,
    prompt: int,
    tokens: Callable[[Sequence[int]], int],
    capacity: int,
    too_long: TooLong,
) -> Ints:
    """The examples of a prompt that stay, as few as need be left out; `tokens` counts theirs.

    None where the prompt does not fit with one exemplar per class; `too_long` counts either.
    """
    targets = prompts.targets[prompts.of(prompt)].tolist()
    kept = list(range(len(targets)))
    while (count := tokens(kept)) > capacity:
        index = exemplar_to_drop([targets[i] for i in kept[:-1]])
        if index is None:
            too_long.add(prompts.datasets[prompt], count)
            return np.empty(0, np.int64)
        kept.pop(index)
    if len(kept) < len(targets):
        shown = [targets[i] for i in kept]
        too_long.shorten(prompts.datasets[prompt], targets[:-1], shown[:-1])
    return np.array(kept)


def _without_empty(prompts: Prompts) -> Prompts:
    """Without those of which no example stays."""
    return prompts.where(prompts.counts > 0)


def _blocks(prompts: Prompts, addresses: Ints, pool: TokenPool, capacity: int) -> pl.DataFrame:
    """The rows of `tables.PACKED_MIXTURE`; `addresses` are those of the segments, [E, S]."""
    kinds = np.full(len(addresses), SEEN, dtype=np.uint8)
    _, first = np.unique(prompts.prompt_of * MOST_CLASSES + prompts.targets, return_index=True)
    kinds[first] = FIRST
    kinds[prompts.starts + prompts.counts - 1] = QUERY

    lengths = np.add.reduceat(pool.lengths[addresses].sum(axis=1), prompts.starts)
    bins = fill(lengths.tolist(), capacity)
    order = np.concatenate([np.array(members) for members in bins])
    examples = runs(prompts.starts[order], prompts.counts[order])
    flat = addresses[examples].reshape(-1)
    segment_lengths = pool.lengths[flat]
    labels = slice(EXAMPLE.index(Role.LABEL), None, len(EXAMPLE))
    label_lengths = segment_lengths[labels]
    label_starts = (segment_lengths.cumsum() - segment_lengths)[labels]
    if not label_lengths.all():
        _refuse_label(prompts, int(examples[label_lengths.argmin()]))

    prompt_counts = np.array([len(members) for members in bins])
    sequence_ends = np.append(0, lengths[order].cumsum())
    prompt_ends = np.append(0, prompt_counts.cumsum())
    block_ends = sequence_ends[prompt_ends]
    positions = runs(label_starts, label_lengths)
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


def _refuse_label(prompts: Prompts, example: int) -> None:
    """A label that the tokenizer drops would be asked for and never trained."""
    prompt = int(prompts.prompt_of[example])
    label = prompts.labels[int(prompts.label_starts[prompt] + prompts.targets[example])]
    raise UserError(
        f"The label '{label}' in prompt {prompts.numbers[prompt]} of dataset"
        f" '{prompts.datasets[prompt]}' has no token of its own for this model; rename it or leave the"
        " dataset or the model out."
    )


def _lists(values: NDArray, ends: Ints, dtype: pa.DataType) -> pl.Series:
    """A column of lists: row i holds values[ends[i]:ends[i + 1]]."""
    return pl.Series(pa.LargeListArray.from_arrays(ends, pa.array(values, type=dtype)))
