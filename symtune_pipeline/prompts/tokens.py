"""The tokens of prompts: those of the whole string, composed from its segments where that is the same.

A prompt's tokens are what the tokenizer makes of the prompt as one string, and before them what it
puts before a text. Composing is far faster, because a text that stands in many prompts is tokenised
once. It gives the same tokens wherever every junction of two segments composes (`Junctions`).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, chain, pairwise, takewhile
from typing import TYPE_CHECKING, Any

from symtune_pipeline.prompts.chat import answer_end, chat_frame
from symtune_pipeline.prompts.encoding import TextEncoder
from symtune_pipeline.prompts.text import (
    PLAIN,
    Frame,
    Role,
    Segment,
    Slot,
    exemplar_to_drop,
    render,
    segments,
)

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

Asked = tuple[list[int], list[list[int]]]  # the tokens of a prompt, and of each label after it

REACH = 4  # characters on each side of a junction by which a tokenizer may decide where to split
BATCH = 200  # texts at a time: the places of their tokens take more memory than the tokens


class Junctions:
    """Whether two neighbouring texts have the same tokens apart as joined.

    They do where no token reaches across and each side is split as it is alone. The first is certain
    where no token of the vocabulary holds the two characters that meet. The second is tried once for
    every kind of end and start that meet, `ending` and `starting`.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._vocabulary = "\0".join(encoder.vocabulary())
        self._known: dict[tuple[str, str], bool] = {}
        self._reaching: dict[str, bool] = {}  # by the two characters that meet

    def compose(self, left: str, right: str) -> bool:
        """Whether it holds for two texts that are not empty."""
        kinds = ending(left), starting(right)
        known = self._known.get(kinds)
        if known is None:
            known = self._known[kinds] = self._try(left, right)
        return known

    def _try(self, left: str, right: str) -> bool:
        if self._may_reach_across(left[-1], right[0]):
            return False
        before, after, words = (self._encoder.words(text) for text in (left, right, left + right))
        one_word = [*before[:-1], "".join(before[-1:] + after[:1]), *after[1:]]
        if words not in (before + after, one_word):
            return False
        apart, other, joined = self._encoder.ids([left, right, left + right])
        return apart + other == joined

    def _may_reach_across(self, last: str, first: str) -> bool:
        """Whether some token holds these characters side by side, as they are or as it is spelled."""
        met = last + first
        if met not in self._reaching:  # looking through a vocabulary takes long
            ends, starts = ("".join(self._encoder.words(character)) for character in met)
            pairs = {met, ends[-1:] + starts[:1]}
            found = any(len(pair) == 2 and pair in self._vocabulary for pair in pairs)
            self._reaching[met] = found
        return self._reaching[met]


def ending(text: str) -> str:
    """The kind of a text's end: its last character, and what kind of characters come before."""
    return _kind(text[: -REACH - 1 : -1])


def starting(text: str) -> str:
    """The kind of a text's start: its first character, and what kind of characters follow."""
    return _kind(text[:REACH])


@cache
def _kind(characters: str) -> str:
    """The first character itself, and the Unicode category of the others; white space and "'" stay.

    These are what tokenizers split by; "'" begins the ends of words such as 're.
    """
    kinds = (c if c.isspace() or c == "'" else unicodedata.category(c) for c in characters[1:])
    return characters[:1] + "\0".join(kinds)


class SegmentTokenizer:
    """The tokens of prompts, of their segments and of the labels that may follow them.

    Prompts are those in its `frame`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: bool = False) -> None:
        """With `chat`, a prompt is a user's message in the tokenizer's chat template.

        The query's label is then the whole answer: no space stands before it. Raises UserError for a
        tokenizer that `TextEncoder` or `chat_frame` does not take.
        """
        self.encoder = TextEncoder(tokenizer, chat)
        self.frame = PLAIN
        if chat:
            around = (*chat_frame(tokenizer), answer_end(tokenizer))
            opening, closing, end = map(self.encoder.as_control, around)
            self.frame = Frame(opening, closing, Slot(), end)
        self.junctions = Junctions(self.encoder)
        self._known: dict[str, list[int]] = {}

    def composes(self, prompt: Sequence[Segment]) -> bool:
        """Whether the tokens of the prompt's segments, one after another, are those of the whole."""
        texts = [segment.text for segment in prompt if segment.text]
        return all(self.junctions.compose(left, right) for left, right in pairwise(texts))

    def segment_tokens(self, prompt: Sequence[Segment]) -> list[list[int]]:
        """Token ids of each segment of a prompt, without those before the prompt."""
        if self.composes(prompt):
            return [self._text_tokens(segment.text) for segment in prompt]
        return self.whole([prompt])[0]

    def whole(self, prompts: Sequence[Sequence[Segment]]) -> list[list[list[int]]]:
        """The same for many prompts, each tokenised as one string."""
        found = []
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            encodings = self.encoder.encodings([render(prompt) for prompt in batch])
            found += [_by_segment(*pair) for pair in zip(batch, encodings, strict=True)]
        return found

    def tokens(self, prompt: Sequence[Segment]) -> list[int]:
        """Token ids of a prompt, with those before it."""
        if self.composes(prompt):
            texts = (self._text_tokens(segment.text) for segment in prompt)
            return [*self.encoder.before, *chain.from_iterable(texts)]
        return self.encoder.before + self.encoder.ids([render(prompt)])[0]

    def continuations(
        self, prompt: Sequence[Segment], labels: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """A prompt's tokens, and those of each label that may follow it, in the whole string.

        Where a label changes the prompt's last tokens, these are left to the labels, of all of them
        alike, so that what is compared begins at the same place. Where the tokens of one label begin
        another's, what follows a label belongs to each: else the longer is never the more probable one.
        """
        alone, joined = self._continued(prompt, labels)
        if one_begins_another(joined):
            alone, joined = self._continued(prompt, [f"{each}{self.frame.end}" for each in labels])
        shared = min((shared_beginning([alone, tokens]) for tokens in joined), default=len(alone))
        return alone[:shared], [tokens[shared:] for tokens in joined]

    def continuation_of_each(self, prompt: Sequence[Segment], texts: Sequence[str]) -> list[Asked]:
        """As `continuations` of each text by itself: none changes where another begins."""
        alone, joined = self._continued(prompt, texts)
        ends = [shared_beginning([alone, tokens]) for tokens in joined]
        return [(alone[:end], [tokens[end:]]) for end, tokens in zip(ends, joined, strict=True)]

    def _continued(
        self, prompt: Sequence[Segment], texts: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """The tokens of the prompt alone, and of the prompt with each text after it."""
        composes = self.composes(prompt)
        alone = self.tokens(prompt)
        return alone, [
            alone + self._text_tokens(added.text)
            if composes and self.junctions.compose(prompt[-1].text, added.text)
            else self.tokens([*prompt, added])
            for added in (Segment(self.frame.label.filled(text), Role.LABEL) for text in texts)
        ]

    def _text_tokens(self, text: str) -> list[int]:
        ids = self._known.get(text)
        if ids is None:
            ids = self._known[text] = self.encoder.ids([text])[0]
        return ids


def label_tokens(
    labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, chat: bool = False
) -> list[list[int]]:
    """Token ids of each label as it follows a prompt, in the first of the formats."""
    by_segment = SegmentTokenizer(tokenizer, chat)
    prompt = segments(0, ["x"], [], frame=by_segment.frame)
    texts = [by_segment.frame.label.filled(label) for label in labels]
    found = by_segment.encoder.ids(texts)
    joins = [
        i for i, text in enumerate(texts) if not by_segment.junctions.compose(prompt[-1].text, text)
    ]
    whole = by_segment.whole([[*prompt, Segment(texts[i], Role.LABEL)] for i in joins])
    for i, by_place in zip(joins, whole, strict=True):
        found[i] = by_place[-1]
    return found


def _by_segment(prompt: Sequence[Segment], encoding: Encoding) -> list[list[int]]:
    """The tokens of a whole prompt, each with the segment in which it begins.

    One that begins before a label and reaches into its word belongs to the label.
    """
    ends = list(accumulate(len(segment.text) for segment in prompt))
    found: list[list[int]] = [[] for _ in prompt]
    for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        begins = min(bisect_right(ends, start), len(prompt) - 1)
        later = range(begins + 1, bisect_right(ends, end - 1, begins) + 1)
        reached = (
            i
            for i in later
            if prompt[i].role is Role.LABEL
            and end > ends[i - 1] + prompt[i].text.startswith(" ")  # a space alone is no word
        )
        found[next(reached, begins)].append(token)
    return found


def shared_beginning(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with alike."""
    first, last = min(prompts), max(prompts)  # what these share, all do that lie between
    if last[: len(first)] == first:
        return len(first)
    pairs = zip(first, last, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def one_begins_another(texts: Sequence[list[int]]) -> bool:
    """Whether the tokens of some text are the first ones of another."""
    return any(later[: len(text)] == text for text, later in pairwise(sorted(texts)))


def asked_within(
    rows: Sequence[dict[str, Any]],
    ask: Callable[[list[dict[str, Any]]], list[Asked]],
    most: int | None,
) -> tuple[list[Asked], int]:
    """What `ask` makes of the rows of a context, and how many exemplars were left out of all.

    They are left out evenly by class until no prompt with a label exceeds `most` tokens, or one of each
    class is left: then `longest` of what is returned may still be above it.
    """
    kept = {name: list(rows[0][name]) for name in ("exemplars", "exemplar_targets")}
    while True:
        asked = ask([row | kept for row in rows])
        index = exemplar_to_drop(kept["exemplar_targets"])
        if most is None or longest(asked) <= most or index is None:
            return asked, len(rows[0]["exemplars"]) - len(kept["exemplars"])
        for values in kept.values():
            values.pop(index)


def longest(asked: Sequence[Asked]) -> int:
    """The tokens of the longest prompt with its longest label."""
    return max(len(prompt) + max(map(len, labels)) for prompt, labels in asked)
