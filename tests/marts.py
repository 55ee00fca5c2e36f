"""Rows of marts for tests of what reads them."""

from __future__ import annotations

from itertools import product
from typing import Any

import polars as pl

from symtune_pipeline.report.answers import Answers
from symtune_pipeline.tables import (
    ALGORITHMIC_PREDICTIONS,
    ALGORITHMIC_SUITE,
    CLASSIFICATION_PREDICTIONS,
    CLASSIFICATION_SUITE,
)

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
    "cluster_low": pl.Float64,
    "cluster_high": pl.Float64,
    "chance": pl.Float64,
    "gain": pl.Float64,
    "p": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "gain_cluster_low": pl.Float64,
    "gain_cluster_high": pl.Float64,
    "flipped_percent": pl.Int32,
    "ece": pl.Float64,
    **dict.fromkeys(("mean_accuracy", "mean_chance", "mean_gain"), pl.Float64),
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
                "cluster_low": max(0.0, accuracy - 0.06),
                "cluster_high": min(1.0, accuracy + 0.07),
                "chance": chance,
                "ece": None if chance is None else 0.2 if variant == "untuned" else 0.1,
                **(test if variant == "tuned" else dict.fromkeys(test)),
                **more,
            }
        )
    return rows


def mart(*pairs: list[dict[str, Any]], **more: Any) -> pl.DataFrame:
    return pl.DataFrame([row for rows in pairs for row in rows], schema={**SCHEMA, **more})


def variant_marts(model: str = "smollm2-135m") -> dict[str, pl.DataFrame]:
    """The marts `variants` and `seeds`: two variants beside `tuned`, one of which has another seed."""
    setting = {"model": model, "benchmark": "icl", "setting": "symbols, no instruction"}
    variants = [
        setting
        | {
            "measure": measure, "variant": variant, "versus": versus, "n": 440, "chance": 0.4,
            "accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05,
            "gain": accuracy - other, "gain_cluster_low": accuracy - other - 0.08,
            "gain_cluster_high": accuracy - other + 0.07, "p": 0.02,
        }
        for measure in ("accuracy", "calibrated")
        for variant, accuracy in (("tuned", 0.6), ("again", 0.64), ("final", 0.55))
        for versus, other in (("untuned", 0.5), ("tuned", 0.6))
        if variant != versus
    ]  # fmt: skip
    seeds = [
        setting
        | {
            "measure": measure, "recipe": "tuned", "seeds": 2, "n": 440,
            "accuracy": 0.62, "accuracy_spread": 0.028, "low": 0.57, "high": 0.67,
            "gain": 0.12, "gain_spread": 0.028, "gain_low": 0.04, "gain_high": 0.2,
        }
        for measure in ("accuracy", "calibrated")
    ]  # fmt: skip
    return {"variants": pl.DataFrame(variants), "seeds": pl.DataFrame(seeds)}


def calibration_marts(model: str = "smollm2-135m") -> dict[str, pl.DataFrame]:
    """The marts `reliability` and `choices` in one setting."""
    setting = {"benchmark": "icl", "setting": "symbols, no instruction", "model": model}
    reliability = [
        setting
        | {
            "variant": variant, "bin": place, "n": 40 * place, "confidence": place / 10 + 0.05,
            "correct": 4 * place * place, "accuracy": place / 10 + more, "low": 0.2, "high": 0.9,
        }
        for variant, more in (("untuned", -0.1), ("tuned", 0.15))
        for place in (5, 7)
    ]  # fmt: skip
    choices = [
        setting
        | {
            "variant": variant, "dataset": dataset, "n": 440,
            "commonest_choice": share, "commonest_target": 0.5,
        }
        for variant, share in (("untuned", 0.9), ("tuned", 0.55))
        for dataset in (None, "plants")
    ]  # fmt: skip
    return {"reliability": pl.DataFrame(reliability), "choices": pl.DataFrame(choices)}


def answer_tables(model: str = "smollm2-135m", dataset: str = "plants") -> dict[str, Any]:
    """The mart `confusion` and the answers to one query in two settings, tuned wrong and right."""
    classes = ["bad", "good"]
    settings = {"relevant labels, no instruction": classes, "symbols, no instruction": ["§1", "§2"]}
    cells = list(zip(product(classes, classes), (7, 3, 0, 9), strict=True))
    confusion = [
        {"benchmark": "icl", "setting": setting, "model": model, "variant": variant,
         "dataset": dataset, "target": target, "prediction": prediction, "n": n}
        for setting in settings
        for variant in ("untuned", "tuned")
        for (target, prediction), n in cells
    ]  # fmt: skip
    asked = [
        {"benchmark": "icl", "setting": setting, "flipped_percent": 0, "dataset": dataset,
         "context": 0, "format": 0, "exemplars": [0, 1], "exemplar_targets": [0, 1],
         "labels": labels, "query": 2, "target": 1}
        for setting, labels in settings.items()
    ]  # fmt: skip
    answered = [
        {
            **row,
            "model": model,
            "variant": variant,
            "correct": right,
            "logprobs": logprobs,
            "dropped": 0,
        }
        for row in asked
        for variant, right, logprobs in (
            ("untuned", False, [-0.5, -2.0]),
            ("tuned", True, [-3.0, -0.1]),
        )
    ]
    kept = CLASSIFICATION_PREDICTIONS.frame(
        [{name: row.get(name) for name in CLASSIFICATION_PREDICTIONS.columns} for row in answered]
    )
    answers = Answers(
        CLASSIFICATION_SUITE.frame(asked),
        ALGORITHMIC_SUITE.frame([]),
        kept.with_columns(benchmark=pl.lit("icl")),
        ALGORITHMIC_PREDICTIONS.frame([]),
        inputs=[f"It wilted in {dataset}.", "It bloomed.", "It grew & grew."],
        frames={},
        seed=0,
    )
    return {"confusion": pl.DataFrame(confusion), "answers": answers}


def robustness_marts(
    model: str = "smollm2-135m", dataset: str = "plants"
) -> dict[str, pl.DataFrame]:
    """The marts `calibrated`, `alignment` and `language`."""
    raw = [
        *pair("icl", "symbols, no instruction", 0.5, 0.6, 0.003, model=model, choice="raw"),
        *pair("flipped", "100% flipped", 0.4, 0.6, 0.003, model=model, choice="raw"),
    ]
    calibrated = [
        *pair("icl", "symbols, no instruction", 0.55, 0.6, 0.2, model=model, choice="calibrated"),
        *pair("flipped", "100% flipped", 0.45, 0.6, 0.01, model=model, choice="calibrated"),
    ]
    of_set = [row | {"dataset": dataset} for row in raw]
    follow = {"truth": 0.6, "prior": 0.7, "prompt": 0.4, "override": 0.3, "zero-shot": 0.65}
    alignment = [
        {name: value for name, value in row.items() if name not in ("accuracy", "ece")}
        | {"share": row["accuracy"]}
        for sets in ("two labels", "all")
        for measure, share in follow.items()
        for row in pair(
            "flipped", "100% flipped", share, share - 0.1, 0.04,
            model=model, sets=sets, measure=measure, flipped_percent=100,
        )
    ]  # fmt: skip
    language = [
        {
            "model": model, "variant": variant, "dataset": name, "texts": 50, "tokens": 1_200,
            "loss": loss, "low": loss - 0.1, "high": loss + 0.1,
            "change": 0.25 if variant == "tuned" else None,
            "change_low": 0.2 if variant == "tuned" else None,
            "change_high": 0.3 if variant == "tuned" else None,
        }
        for name in (None, dataset)
        for variant, loss in (("untuned", 3.5), ("tuned", 3.75))
    ]  # fmt: skip
    kinds = {"dataset": pl.String, "choice": pl.String}
    return {
        "calibrated": mart(raw + calibrated + of_set, **kinds),
        "alignment": pl.DataFrame(alignment, infer_schema_length=None),
        "language": pl.DataFrame(language, infer_schema_length=None),
    }
