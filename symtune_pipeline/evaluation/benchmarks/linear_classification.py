"""Linear classification of whole numbers: on which side of a plane is a point?

A concept is a plane, by turns in 1, 2, 4 and 8 dimensions. Its points are whole numbers from 1 to
1,000. The labels `Foo` and `Bar` name its two sides, so that guessing is right half of the time.

After *Larger language models do in-context learning differently* (Wei et al. 2023, arXiv
2303.03846), which shows 16 points of either side and goes up to 64 dimensions. Recalled, not checked:
its weights are from 1 to 1,000, and its planes go through any point. Here the point is in the middle
half, so that either side has enough points.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator

from symtune_pipeline.evaluation.concepts import Concept, Published, needed_pairs
from symtune_pipeline.sections import EvaluationConfig

DIMENSIONS = (1, 2, 4, 8)
LARGEST = 1_000
LABELS = ("Foo", "Bar")


def fresh(config: EvaluationConfig, rng: random.Random, published: Published) -> Iterator[Concept]:
    """Planes drawn by seed. Half of the points that are shown are on either side, in any order."""
    for number in range(config.concepts.get("linear_classification", 0)):
        dimensions = DIMENSIONS[number % len(DIMENSIONS)]
        weights = [rng.randint(1, LARGEST) for _ in range(dimensions)]
        through = [rng.randint(LARGEST // 4, 3 * LARGEST // 4) for _ in range(dimensions)]
        labels = rng.sample(LABELS, 2)
        pairs: dict[str, str] = {}
        for side in _sides(config, rng):
            point = _new_point(weights, through, side, pairs, rng)
            pairs[point] = labels[side]
        yield Concept(f"plane {number + 1}", f"{dimensions} dimensions", pairs)


def _sides(config: EvaluationConfig, rng: random.Random) -> list[bool]:
    """Of every point, whether it is above the plane."""
    shown = [shot % 2 == 0 for shot in range(config.algorithmic_shots)]
    rng.shuffle(shown)
    return shown + [rng.random() < 0.5 for _ in range(needed_pairs(config) - len(shown))]


def _new_point(
    weights: list[int], through: list[int], above: bool, known: Collection[str], rng: random.Random
) -> str:
    """A point of that side as text, "648, 12", which is not among the known ones."""
    threshold = _dot(weights, through)
    while True:
        point = [rng.randint(1, LARGEST) for _ in weights]
        text = ", ".join(map(str, point))
        if (_dot(weights, point) > threshold) == above and text not in known:
            return text


def _dot(left: list[int], right: list[int]) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True))
