"""How several sequences lie in what a model sees as one, and which of its tokens see which.

Tuning packs the prompts of a block, scoring packs contexts with their queries and labels. This module
knows nothing about prompts and nothing about models.

Shapes: Q tokens that see K others, P positions, T tokens of a pack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch

Span = tuple[int, int]  # the first of some tokens, and the one after the last


@dataclass(frozen=True)
class Branch:
    """Tokens that see the root of their sequence: a stem, then twigs that see it but not each other."""

    stem: int
    twigs: Sequence[int] = ()

    def __len__(self) -> int:
        return self.stem + sum(self.twigs)

    def visible(self, root: int) -> torch.Tensor:
        """Which tokens its own ones see, of the root and the branch [own, root + own]."""
        size = len(self)
        visible = np.zeros((size, root + size), dtype=np.bool_)
        visible[:, :root] = True
        own = visible[:, root:]
        own[: self.stem, : self.stem] = np.tri(self.stem, dtype=np.bool_)
        own[self.stem :, : self.stem] = True
        start = self.stem
        for twig in self.twigs:
            end = start + twig
            own[start:end, start:end] = np.tri(twig, dtype=np.bool_)
            start = end
        return torch.from_numpy(visible)


@dataclass(frozen=True)
class PackedSequence:
    """A causal root of so many tokens, then branches that see the root and themselves."""

    root: int
    branches: Sequence[Branch] = ()

    @property
    def lengths(self) -> list[int]:
        """Tokens of the root and of each branch."""
        return [self.root, *map(len, self.branches)]


@dataclass(frozen=True)
class Parts:
    """Parts of a pack whose tokens all see those of a part before them, as a kernel takes them.

    Token numbers and bounds of the parts that see (Q of each) and of those that are seen (K of each).
    """

    rows_q: torch.Tensor
    rows_k: torch.Tensor
    bounds_q: torch.Tensor
    bounds_k: torch.Tensor
    longest_q: int
    longest_k: int


class Pack:
    """Sequences that lie one after another, and what every layer needs to know of them.

    What is on a device is made once: a copy to a GPU waits for what the GPU computes.
    """

    def __init__(self, sequences: Sequence[PackedSequence], device: torch.device) -> None:
        self.sequences = sequences
        self.device = device

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each sequence with its branches."""
        return [sum(sequence.lengths) for sequence in self.sequences]

    @cached_property
    def longest(self) -> int:
        """A bound of the positions in the sequences."""
        return max(s.root + max(map(len, s.branches), default=0) for s in self.sequences)

    @cached_property
    def masks(self) -> list[list[torch.Tensor]]:
        """Of each sequence its branches' `visible`."""
        return [
            [branch.visible(sequence.root).to(self.device) for branch in sequence.branches]
            for sequence in self.sequences
        ]

    @cached_property
    def runs(self) -> tuple[torch.Tensor, int]:
        """Bounds of the runs of tokens that see those before them in it, and the longest's tokens.

        The second is rounded up to a power of two: where it is another than before, a compiled layer is
        compiled once more, and for all numbers from then on.
        """
        lengths = [length for length in self._runs() if length]
        return self._bounds(lengths), 1 << (max(lengths) - 1).bit_length()

    @cached_property
    def seen(self) -> list[Parts]:
        """What runs see beside themselves: all branches of a sequence its root, twigs their stem."""
        branches, twigs = [], []
        for sequence, start in zip(
            self.sequences, accumulate(self.lengths, initial=0), strict=False
        ):
            own = start + sequence.root
            if sequence.root and sequence.branches:
                end = start + sum(sequence.lengths)
                branches.append(((own, end), (start, own)))
            for branch in sequence.branches:
                if branch.stem and len(branch) > branch.stem:
                    stem_end = own + branch.stem
                    twigs.append(((stem_end, own + len(branch)), (own, stem_end)))
                own += len(branch)
        return [self._parts(pairs) for pairs in (branches, twigs) if pairs]

    def _runs(self) -> Iterator[int]:
        for sequence in self.sequences:
            yield sequence.root
            for branch in sequence.branches:
                yield branch.stem
                yield from branch.twigs

    def _parts(self, pairs: Sequence[tuple[Span, Span]]) -> Parts:
        seeing, seen = zip(*pairs, strict=True)
        lengths_q, lengths_k = ([end - start for start, end in spans] for spans in (seeing, seen))
        return Parts(
            rows_q=self._rows(seeing),
            rows_k=self._rows(seen),
            bounds_q=self._bounds(lengths_q),
            bounds_k=self._bounds(lengths_k),
            longest_q=max(lengths_q),
            longest_k=max(lengths_k),
        )

    def _rows(self, spans: Sequence[Span]) -> torch.Tensor:
        numbers = np.concatenate([np.arange(start, end) for start, end in spans])
        return torch.from_numpy(numbers).to(self.device)

    def _bounds(self, lengths: Sequence[int]) -> torch.Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self.device)
