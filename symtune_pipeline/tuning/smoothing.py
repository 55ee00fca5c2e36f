"""Label smoothing over a prompt's own symbols: how far a label is trusted less than a certainty.

This module knows nothing about models. Shapes: N targets of a block, V vocabulary, M rivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch


@dataclass(frozen=True)
class Rivals:
    """Tokens that take a part of the probability that is asked of a target's own token, flat over targets."""

    targets: torch.Tensor  # [M] of which target, an index below N
    tokens: torch.Tensor  # [M]
    shares: torch.Tensor  # [M] of the probability

    def more(self, logits_NV: torch.Tensor, own_N: torch.Tensor) -> torch.Tensor:
        """What they add to the summed cross-entropy of the targets' own tokens, in nats.

        A share of -log p(own) is replaced by that of -log p(rival): the difference of two logits.
        """
        device = logits_NV.device
        of = self.targets.to(device)
        own, rival = logits_NV[of, own_N[of]], logits_NV[of, self.tokens.to(device)]
        return (self.shares.to(device) * (own - rival).float()).sum()


def rivals_of(row: Mapping[str, Any], targets: Sequence[int], smoothing: float) -> Rivals:
    """The rivals in a block, a row of a packed mixture, whose trained positions are `targets` [N].

    The symbols of a prompt are the different token sequences that stand as its labels. A label is
    smoothed at one token: the first, where another symbol that begins alike goes on with another token.
    There the target is no longer the label's own token alone: 1 - s of the probability is asked of it, and
    s is spread evenly over all symbols that begin with the label's tokens before and go on, its own
    among them, each for its next token; s is `smoothing`. Where a label has no such token, as it is
    the beginning of all that begin alike, and at its other tokens, the loss stays as it is.
    """
    number_of = {position: number for number, position in enumerate(targets)}
    found: list[tuple[int, int, float]] = []
    for labels in _labels(row):
        symbols = set(labels.values())
        for start, own in labels.items():
            if start not in number_of:
                continue
            for i, token in enumerate(own):
                others = [other[i] for other in symbols if len(other) > i and other[:i] == own[:i]]
                if set(others) != {token}:
                    share = smoothing / len(others)
                    at = number_of[start + i]
                    found += [(at, other, share) for other in sorted(others) if other != token]
                    break
    numbers, tokens, shares = zip(*found, strict=True) if found else ((), (), ())
    long, single = torch.long, torch.float32
    return Rivals(
        torch.tensor(numbers, dtype=long),
        torch.tensor(tokens, dtype=long),
        torch.tensor(shares, dtype=single),
    )


def _labels(row: Mapping[str, Any]) -> list[dict[int, tuple[int, ...]]]:
    """The labels of each prompt of a block: their tokens by the position of the first one."""
    ends = list(accumulate(row["sequence_lengths"]))
    prompts: list[dict[int, tuple[int, ...]]] = [{} for _ in ends]
    prompt = start = 0
    before: tuple[int, int] | None = None  # position and kind of the token before
    for position, kind in zip(row["target_positions"], row["target_kinds"], strict=True):
        if before != (position - 1, kind):  # something always stands between two labels
            start = position
            while position >= ends[prompt]:
                prompt += 1
        own = prompts[prompt]
        own[start] = (*own.get(start, ()), row["tokens"][position])
        before = position, kind
    return prompts
