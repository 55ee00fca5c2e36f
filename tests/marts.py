"""Rows of marts for tests of what reads them."""

from __future__ import annotations

from typing import Any

import polars as pl

SCHEMA = {
    "benchmark": pl.String,
    "setting": pl.String,
    "model": pl.String,
    "variant": pl.String,
    "n": pl.Int64,
    "correct": pl.Int64,
    "accuracy": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "chance": pl.Float64,
    "gain": pl.Float64,
    "p": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "gain_cluster_low": pl.Float64,
    "gain_cluster_high": pl.Float64,
    "ece": pl.Float64,
}


def pair(
    benchmark: str,
    setting: str,
    untuned: float,
    tuned: float,
    p: float,
    chance: float | None = 0.4,
    model: str = "smollm2-135m",
    **more: Any,
) -> list[dict[str, Any]]:
    """The untuned and the tuned row of a mart, with a stand-in for an interval."""
    rows = []
    for variant, accuracy in (("untuned", untuned), ("tuned", tuned)):
        gain = tuned - untuned
        over_draws = {"gain_cluster_low": gain - 0.08, "gain_cluster_high": gain + 0.07}
        test = {"gain": gain, "p": p, "gain_low": None, "gain_high": None, **over_draws}
        rows.append(
            {
                "benchmark": benchmark,
                "setting": setting,
                "model": model,
                "variant": variant,
                "n": 440,
                "correct": round(440 * accuracy),
                "accuracy": accuracy,
                "low": max(0.0, accuracy - 0.047),
                "high": min(1.0, accuracy + 0.046),
                "chance": chance,
                "ece": None if chance is None else 0.2 if variant == "untuned" else 0.1,
                **(test if variant == "tuned" else dict.fromkeys(test)),
                **more,
            }
        )
    return rows


def mart(*pairs: list[dict[str, Any]], **more: Any) -> pl.DataFrame:
    return pl.DataFrame([row for rows in pairs for row in rows], schema={**SCHEMA, **more})
