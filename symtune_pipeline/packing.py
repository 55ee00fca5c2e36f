"""Prompts to token blocks: every distinct piece of text is tokenised once, then composed.

A block holds whole prompts, one after another, up to the block's length. Its row:

    block           number of the block
    tokens          token ids [T]
    prompt_lengths  tokens of each prompt, in order; they sum to T
    target_places   places in `tokens` that hold a token of a label
    target_kinds    for each of these: 0 the first label of its class in the prompt, which nothing
                    before it tells; 1 a later label; 2 the query's label

This module knows nothing about models.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts import Role, Segment, render, segments

FIRST, SEEN, QUERY = 0, 1, 2
CHECKED_PROMPTS = 64

Ids = NDArray[np.int32]


class Tokenizer(Protocol):
    """What this module needs of a transformers tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""

    def __call__(
        self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool
    ) -> Mapping[str, Any]:
        """`input_ids`, and in `offset_mapping` each token's first character and the one after."""


@dataclass
class PieceTokenizer:
    """Composes prompts from token arrays of their pieces, each tokenised once.

    Where a tokenizer merges characters across the boundary of two pieces, composing would differ
    from tokenising the whole string. `check` finds that out; prompts are then tokenised whole.
    """

    tokenizer: Tokenizer
    composes: bool = True
    _known: dict[str, list[int]] = field(default_factory=dict)

    def check(self, prompts: Iterable[Sequence[Segment]]) -> bool:
        """Whether composing equals whole-string tokenisation on all of `prompts`; sets `composes`."""
        self.composes = all(
            [i for piece in prompt for i in self.piece(piece.text)] == self._ids(render(prompt))
            for prompt in prompts
        )
        return self.composes

    def piece(self, text: str) -> list[int]:
        """Token ids of one piece of text."""
        ids = self._known.get(text)
        if ids is None:
            ids = self._known[text] = self._ids(text)
        return ids

    def pieces(self, prompt: Sequence[Segment]) -> list[list[int]]:
        """Token ids of each segment of a prompt."""
        if self.composes:
            return [self.piece(segment.text) for segment in prompt]
        # A token that crosses a boundary belongs to the segment in which it begins.
        text = render(prompt)
        whole = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = list(accumulate(len(segment.text) for segment in prompt))
        parts: list[list[int]] = [[] for _ in prompt]
        for token, (start, _) in zip(whole["input_ids"], whole["offset_mapping"], strict=True):
            parts[bisect_right(ends, start)].append(token)
        return parts

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of a prompt with the places and kinds of its label tokens."""

    tokens: list[int]
    target_places: list[int]
    target_kinds: list[int]


def encode(
    prompt: Sequence[Segment], answers: Sequence[int], pieces: PieceTokenizer
) -> EncodedPrompt:
    """Tokenise a tuning prompt; `answers` are the classes of its examples, the query's last."""
    tokens: list[int] = []
    places: list[int] = []
    kinds: list[int] = []
    seen: set[int] = set()
    for segment, ids in zip(prompt, pieces.pieces(prompt), strict=True):
        if segment.role is Role.LABEL:
            answer = answers[segment.example]
            query = segment.example == len(answers) - 1
            kind = QUERY if query else SEEN if answer in seen else FIRST
            seen.add(answer)
            places.extend(range(len(tokens), len(tokens) + len(ids)))
            kinds.extend([kind] * len(ids))
        tokens.extend(ids)
    return EncodedPrompt(tokens, places, kinds)


def pack_mixture(
    mixture: pl.DataFrame,
    inputs: Sequence[str],
    tokenizer: Tokenizer,
    block_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> pl.DataFrame:
    """All prompts of a mixture as blocks of at most `block_tokens` tokens.

    `inputs` are the inputs by example number. A prompt longer than a block loses exemplars, evenly
    by class, until it fits; one that still does not fit with an exemplar of every class is a
    UserError. `progress` is called with the number of prompts done.
    """
    pieces = PieceTokenizer(tokenizer)
    rows = mixture.select("prompt", "dataset", "format", "examples", "answers", "labels")
    pieces.check(
        _segments(row[2], row[3], row[4], row[5], inputs)
        for row in rows.head(CHECKED_PROMPTS).rows()
    )
    encoded = []
    for done, (prompt, dataset, style, examples, answers, labels) in enumerate(rows.iter_rows()):
        while True:
            found = encode(_segments(style, examples, answers, labels, inputs), answers, pieces)
            if len(found.tokens) <= block_tokens:
                break
            place = _droppable(answers)
            if place is None:
                raise UserError(
                    f"Prompt {prompt} of dataset '{dataset}' has {len(found.tokens)} tokens with one"
                    f" exemplar per class; raise tuning.block_tokens above {block_tokens} or leave"
                    " the dataset out."
                )
            examples = examples[:place] + examples[place + 1 :]
            answers = answers[:place] + answers[place + 1 :]
        encoded.append(found)
        progress(done + 1)
    return _blocks(encoded, block_tokens)


def fill(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bin packing, best fit decreasing: the items of each bin, none above `capacity` together.

    The largest items come first and each goes where the least room stays (Johnson 1973).
    """
    room_of: list[int] = []
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # open bins by the room left
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        room = next((r for r in range(lengths[item], capacity + 1) if by_room[r]), None)
        if room is None:
            place = len(bins)
            bins.append([])
            room_of.append(capacity)
        else:
            place = by_room[room].pop()
        bins[place].append(item)
        room_of[place] -= lengths[item]
        by_room[room_of[place]].append(place)
    return bins


def _segments(
    style: int,
    examples: Sequence[int],
    answers: Sequence[int],
    labels: Sequence[str],
    inputs: Sequence[str],
) -> list[Segment]:
    return segments(style, [inputs[e] for e in examples], [labels[a] for a in answers])


def _droppable(answers: Sequence[int]) -> int | None:
    """The first exemplar of the most frequent class, or None where each class has one left."""
    exemplars = list(answers[:-1])
    most = max(exemplars, key=exemplars.count)
    return exemplars.index(most) if exemplars.count(most) > 1 else None


def _blocks(encoded: Sequence[EncodedPrompt], block_tokens: int) -> pl.DataFrame:
    rows: list[tuple[object, ...]] = []
    for members in fill([len(prompt.tokens) for prompt in encoded], block_tokens):
        tokens: list[int] = []
        places: list[int] = []
        for member in members:
            places.extend(len(tokens) + place for place in encoded[member].target_places)
            tokens.extend(encoded[member].tokens)
        lengths = [len(encoded[member].tokens) for member in members]
        kinds = [kind for member in members for kind in encoded[member].target_kinds]
        rows.append((len(rows), tokens, lengths, places, kinds))
    return pl.DataFrame(
        rows,
        schema={
            "block": pl.UInt32,
            "tokens": pl.List(pl.Int32),
            "prompt_lengths": pl.List(pl.UInt32),
            "target_places": pl.List(pl.UInt32),
            "target_kinds": pl.List(pl.UInt8),
        },
        orient="row",
    )
