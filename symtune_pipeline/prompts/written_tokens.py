"""Written prompts to token blocks, and those that measure progress to tokens.

Every prompt is tokenised as one string, and a label's tokens are found by their places in it. A prompt
is taken whole or left out: what stands between its labels is not known well enough to shorten it. This
module knows nothing about how prompts were drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.blocks import fill
from symtune_pipeline.prompts.targets import FIRST, QUERY, SEEN
from symtune_pipeline.prompts.text import Frame, Role, Segment, render
from symtune_pipeline.prompts.tokens import SegmentTokenizer, shared_beginning
from symtune_pipeline.tables import PACKED_HELD_OUT, PACKED_MIXTURE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 2_000  # prompts packed at a time: bounds memory, and leaves one block partly filled each

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Sequence:
    """A prompt as tokens, and for each token of a label its position and kind."""

    tokens: list[int]
    targets: list[tuple[int, int]]


@dataclass
class LeftOut:
    """Prompts that no block holds, by task."""

    too_long: Counter[str] = field(default_factory=Counter)
    without_token: Counter[str] = field(default_factory=Counter)  # of a label
    shortest: int = 0  # tokens, of those that are too long

    def add_long(self, task: str, tokens: int) -> None:
        """Count a prompt of so many tokens."""
        self.too_long[task] += 1
        self.shortest = min(tokens, self.shortest or tokens)

    def sentences(self, capacity: int) -> list[str]:
        """What was left out of blocks of `capacity` tokens."""
        reasons = (
            (self.too_long, f"exceed a block of {capacity:,} tokens; tuning.block_tokens sets the size"),
            (self.without_token, "have a label of which this model's tokenizer makes no token"),
        )  # fmt: skip
        return [
            f"left out {prompts.total():,} prompts of {len(prompts)} tasks, most of"
            f" {prompts.most_common(1)[0][0]}, which {why}"
            for prompts, why in reasons
            if prompts
        ]


def packed_written(
    mixture: Iterable[pl.DataFrame],
    tokenizer: PreTrainedTokenizerBase,
    block_tokens: int,
    left_out: LeftOut,
    progress: Callable[[int], None] = lambda _: None,
    chat: bool = False,
) -> Iterator[pl.DataFrame]:
    """The prompts of `tables.WRITTEN_MIXTURE` as blocks of at most `block_tokens` tokens, in frames.

    The frames are of `tables.PACKED_MIXTURE`. A prompt begins with what the tokenizer puts before a
    text; with `chat`, it stands in the tokenizer's chat template, and the query's label is the answer.
    One that is longer than a block, or has a label without a token, is counted in `left_out`. Raises
    UserError where no other is there. `progress` is called with the number of prompts done.
    """
    by_segment = SegmentTokenizer(tokenizer, chat)
    blocks = done = 0
    for frame in mixture:
        for rows in frame.iter_slices(CHUNK):
            sequences = list(_fitting(rows, by_segment, block_tokens, left_out))
            if sequences:
                packed = _blocks(sequences, block_tokens, blocks)
                blocks += len(packed)
                yield packed
            done += len(rows)
            progress(done)
    if not blocks:
        way_out = f"raise tuning.block_tokens to {left_out.shortest:,} or more"
        raise UserError(
            f"None of {done:,} prompts fits a block of {block_tokens:,} tokens;"
            f" {way_out if left_out.shortest else 'take another model'}."
        )


def written_segments(row: Row, frame: Frame) -> list[Segment]:
    """A prompt as texts and labels in turn, the query's label last.

    A space before a label belongs to it, as in the prompts that are made here.
    """
    text, end, prompt = row["text"], 0, list[Segment]()
    last = len(row["targets"]) - 1
    for i, (start, target) in enumerate(zip(row["label_starts"], row["targets"], strict=True)):
        label = row["labels"][target]
        before, space = text[end:start], ""
        if i == last and frame.opening + frame.closing:  # the answer to a message
            before = before.rstrip() + frame.closing
        elif before.endswith(" "):
            before, space = before[:-1], " "
        opening = "" if i else frame.opening
        prompt += [Segment(opening + before, Role.INPUT, i), Segment(space + label, Role.LABEL, i)]
        end = start + len(label)
    return prompt


def held_out_written(
    rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, most_tokens: int, chat: bool = False
) -> pl.DataFrame:
    """Prompts of `tables.WRITTEN_HELD_OUT` as those of `tables.PACKED_HELD_OUT`, each with its one query.

    One above `most_tokens`, or two symbols of which are the same tokens or none, is left out.
    """
    by_segment = SegmentTokenizer(tokenizer, chat)
    packed = (_asked(row, by_segment, most_tokens) for row in rows.iter_rows(named=True))
    return PACKED_HELD_OUT.frame([prompt for prompt in packed if prompt])


def _asked(row: Row, by_segment: SegmentTokenizer, most: int) -> dict[str, object] | None:
    *before, own = written_segments(row, by_segment.frame)
    space = " " if own.text.startswith(" ") else ""
    prompt = render(before)
    texts = [prompt, *(f"{prompt}{space}{symbol}" for symbol in row["labels"])]
    alone, *joined = (by_segment.encoder.before + ids for ids in by_segment.encoder.ids(texts))
    # Where a label changes the prompt's last tokens, these are left to the labels, of all of them alike.
    shared = min(shared_beginning([alone, tokens]) for tokens in joined)
    symbols = [tuple(tokens[shared:]) for tokens in joined]
    if not shared or max(map(len, joined)) > most or not _differ(symbols):
        return None
    return {
        "prompt": row["prompt"],
        "dataset": row["dataset"],
        "tokens": alone[: shared - 1],
        "query_tokens": [alone[shared - 1 : shared]],
        "symbol_tokens": [list(map(list, symbols))],
        "targets": [row["targets"][-1]],
    }


def _differ(symbols: list[tuple[int, ...]]) -> bool:
    return all(symbols) and len(set(symbols)) == len(symbols)


def _fitting(
    rows: pl.DataFrame, by_segment: SegmentTokenizer, capacity: int, left_out: LeftOut
) -> Iterator[_Sequence]:
    """The prompts that a block holds, as tokens."""
    before = by_segment.encoder.before
    named = rows.to_dicts()
    prompts = [written_segments(row, by_segment.frame) for row in named]
    for row, prompt, found in zip(named, prompts, by_segment.whole(prompts), strict=True):
        length = len(before) + sum(map(len, found))
        if length > capacity:
            left_out.add_long(row["dataset"], length)
        elif not all(t for t, s in zip(found, prompt, strict=True) if s.role is Role.LABEL):
            left_out.without_token[row["dataset"]] += 1
        else:
            yield _sequence(before, prompt, found, row["targets"])


def _sequence(
    before: list[int], prompt: list[Segment], found: list[list[int]], classes: list[int]
) -> _Sequence:
    tokens, targets, known = list(before), list[tuple[int, int]](), set[int]()
    for segment, ids in zip(prompt, found, strict=True):
        if segment.role is Role.LABEL:
            of_class = classes[segment.example]
            kind = SEEN if of_class in known else FIRST
            known.add(of_class)
            kind = QUERY if segment.example == len(classes) - 1 else kind
            targets += [(position, kind) for position in range(len(tokens), len(tokens) + len(ids))]
        tokens += ids
    return _Sequence(tokens, targets)


def _blocks(sequences: list[_Sequence], capacity: int, first: int) -> pl.DataFrame:
    """Sequences as rows of `tables.PACKED_MIXTURE`, numbered from `first`."""
    rows = []
    for number, members in enumerate(fill([len(s.tokens) for s in sequences], capacity), first):
        tokens, targets = list[int](), list[tuple[int, int]]()
        for each in (sequences[member] for member in members):
            targets += [(len(tokens) + position, kind) for position, kind in each.targets]
            tokens += each.tokens
        rows.append(
            {
                "block": number,
                "tokens": tokens,
                "sequence_lengths": [len(sequences[member].tokens) for member in members],
                "target_positions": [position for position, _ in targets],
                "target_kinds": [kind for _, kind in targets],
            }
        )
    return PACKED_MIXTURE.frame(rows)
