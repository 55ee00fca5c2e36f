"""What a model's configuration makes of the length of what runs: windows, and positions scaled by it."""

from __future__ import annotations

from typing import Any

WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size")
SCALED = ("dynamic", "longrope")  # kinds of RoPE


def narrowest_window(config: Any) -> float:
    """The fewest tokens that a layer attends to; infinite where all layers attend to all."""
    sizes = [getattr(config, name, None) for name in WINDOWS]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=float("inf"))


def scaled_above(config: Any) -> float | None:
    """The length above which the longest text of a pass scales the positions of all; None: nothing does."""
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    bounds = [
        part.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
        for part in by_layer
        if part.get("rope_type") in SCALED
    ]
    return min(bounds, default=None)
