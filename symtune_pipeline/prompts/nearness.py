"""How alike symbols are to models, and the choice of symbols that are near or far from others.

This module knows nothing about where vectors come from. Shapes: P prompts, S symbols, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUMBERS = 2**24  # of candidates' vectors at a time: 64 MiB


@dataclass(frozen=True)
class Nearness:
    """Symbols' vectors [S, D] of length 1, so that an inner product is a similarity; which are preferred."""

    vectors: NDArray[np.float32]
    near: bool

    @classmethod
    def of_models(cls, by_model: Sequence[NDArray[np.float32]], near: bool) -> Nearness:
        """By the cosine of the angle between vectors of each model [S, D_m], averaged over the models.

        The mean of a model's vectors is taken away first: it is large in embeddings of language models,
        and makes all of them look alike (Mu and Viswanath 2018).
        """
        parts = []
        for vectors in by_model:
            centred = vectors - vectors.mean(axis=0)
            lengths = np.linalg.norm(centred, axis=1, keepdims=True)
            parts.append(centred / np.maximum(lengths, np.finfo(np.float32).tiny))
        joined = np.concatenate(parts, axis=1) / np.sqrt(len(parts))
        return cls(joined.astype(np.float32), near)

    def choose(
        self, drawn: NDArray[np.int64], candidates: NDArray[np.int64], taken: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Of the candidates [P, C], the one most or least like those drawn [P, n] on average: [P].

        One that is taken [P, C] is chosen only where all of a row are.
        """
        chosen = np.empty(len(drawn), dtype=np.int64)
        at_once = max(1, NUMBERS // (candidates.shape[1] * self.vectors.shape[1]))
        for start in range(0, len(drawn), at_once):
            rows = slice(start, start + at_once)
            middle_PD = self.vectors[drawn[rows]].mean(axis=1)
            score_PC = np.einsum("pcd,pd->pc", self.vectors[candidates[rows]], middle_PD)
            score_PC = np.where(taken[rows], -np.inf, score_PC if self.near else -score_PC)
            best = score_PC.argmax(axis=1)[:, None]
            chosen[rows] = np.take_along_axis(candidates[rows], best, axis=1)[:, 0]
        return chosen
