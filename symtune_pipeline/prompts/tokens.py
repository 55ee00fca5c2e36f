"""Tokenising prompts segment by segment, where that equals tokenising the whole string."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from symtune_pipeline.prompts.text import Segment, render

CHECKED_PROMPTS = 64  # enough to meet every format several times


class Tokenizer(Protocol):
    """What this module needs of a transformers tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""

    def __call__(
        self,
        text: str | list[str],
        *,
        add_special_tokens: bool,
        return_offsets_mapping: bool = False,
    ) -> Mapping[str, Any]:
        """`input_ids`, and in `offset_mapping` each token's first character and the one after."""


@dataclass
class SegmentTokenizer:
    """Composes the tokens of prompts from those of their segments, each text tokenised once.

    Where a tokenizer merges characters across the boundary of two segments, composing would differ
    from tokenising the whole string. `check` detects that; prompts are then tokenised whole.
    """

    tokenizer: Tokenizer
    composes: bool = True
    _known: dict[str, list[int]] = field(default_factory=dict)

    def check(self, prompts: Iterable[Sequence[Segment]]) -> bool:
        """Whether composing equals whole-string tokenisation on all of `prompts`; sets `composes`."""
        self.composes = all(
            [token for segment in prompt for token in self.text_tokens(segment.text)]
            == self._ids(render(prompt))
            for prompt in prompts
        )
        return self.composes

    def text_tokens(self, text: str) -> list[int]:
        """Token ids of a text on its own."""
        ids = self._known.get(text)
        if ids is None:
            ids = self._known[text] = self._ids(text)
        return ids

    def segment_tokens(self, prompt: Sequence[Segment]) -> list[list[int]]:
        """Token ids of each segment of a prompt."""
        if self.composes:
            return [self.text_tokens(segment.text) for segment in prompt]
        # A token that crosses a boundary belongs to the segment in which it begins.
        text = render(prompt)
        whole = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = list(accumulate(len(segment.text) for segment in prompt))
        by_segment: list[list[int]] = [[] for _ in prompt]
        for token, (start, _) in zip(whole["input_ids"], whole["offset_mapping"], strict=True):
            by_segment[bisect_right(ends, start)].append(token)
        return by_segment

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)
