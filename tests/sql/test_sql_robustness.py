"""The marts of calibrated choices, of what choices follow and of language, against polars."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sql_rows import Row, Run, completions, predictions, running
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from symtune_pipeline.sql.statistics import cluster_high, cluster_low
from symtune_pipeline.tables import (
    CLASSIFICATION_PREDICTIONS,
    LANGUAGE_LOSSES,
    SETTINGS,
    ZERO_SHOT,
    flipped_setting,
)

VARIANTS = ("untuned", "tuned")
CONTEXTS, QUERIES = 12, 6
SETS = {"two": 2, "four": 4}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return running(tmp_path)


def _row(rng: random.Random, dataset: str, **fields: object) -> Row:
    """A random prediction, consistent in itself."""
    logprobs, content_free, after_labels = (
        [-5 * rng.random() for _ in range(SETS[dataset])] for _ in range(3)
    )
    gains = [after - before for after, before in zip(logprobs, content_free, strict=True)]
    target = int(fields["target"])  # type: ignore[call-overload]
    choice, calibrated, channel = (
        scores.index(max(scores)) for scores in (logprobs, gains, after_labels)
    )
    return {
        "model": "micro", "dataset": dataset, "labels": list("abcd"[: SETS[dataset]]),
        "logprobs": logprobs, "content_free": content_free, "prediction": choice,
        "calibrated": calibrated, "correct": choice == target,
        "calibrated_correct": calibrated == target, "chance": 1 / SETS[dataset],
        "channel_logprobs": after_labels, "channel": channel, "channel_correct": channel == target,
    } | fields  # fmt: skip


def _flipped(rng: random.Random) -> list[Row]:
    """Two sets at two shares of flipped labels, and without exemplars, of both variants."""
    rows = []
    for dataset, classes in SETS.items():
        for query in range(CONTEXTS * QUERIES):
            truth = rng.randrange(classes)
            flip = (truth + rng.randrange(1, classes)) % classes
            shared = {"context": query // QUERIES, "query": query}
            for variant in VARIANTS:
                for percent in (50, 100):
                    name = {"setting": flipped_setting(percent), "flipped_percent": percent}
                    rows.append(_row(rng, dataset, variant=variant, target=flip, **name, **shared))
                none = {"setting": ZERO_SHOT, "flipped_percent": 0}
                rows.append(_row(rng, dataset, variant=variant, target=truth, **none, **shared))
    rng.shuffle(rows)
    return rows


def _expected(table: pl.DataFrame, counted: str) -> dict[str, float | None]:
    """Figures of the tuned variant and its gain, from one row a query and variant."""
    tuned, untuned = (
        table.filter(pl.col("variant") == variant).rename({counted: variant})
        for variant in VARIANTS[::-1]
    )
    keys = ["dataset", "context", "query"]
    both = tuned.select(*keys, "tuned").join(untuned.select(*keys, "untuned"), on=keys)
    won = both.filter(pl.col("tuned") & ~pl.col("untuned")).height
    lost = both.filter(pl.col("untuned") & ~pl.col("tuned")).height
    right, n = int(tuned["tuned"].sum()), len(tuned)
    low, high = proportion_confint(right, n, method="wilson")
    draws = (
        both.with_columns(more=pl.col("tuned").cast(pl.Int64) - pl.col("untuned").cast(pl.Int64))
        .group_by("dataset", "context")
        .agg(pl.col("more").sum(), pl.len())
        .sort(pl.format("{}/{}", "dataset", "context"))
    )
    parts, wholes = draws["more"].to_list(), draws["len"].to_list()
    return {
        "n": n, "correct": right, "accuracy": right / n, "low": low, "high": high,
        "gain": (won - lost) / len(both),
        "p": mcnemar([[0, won], [lost, 0]], exact=True).pvalue,
        "gain_cluster_low": cluster_low(parts, wholes),
        "gain_cluster_high": cluster_high(parts, wholes),
    }  # fmt: skip


def _assert_row(found: pl.DataFrame, expected: dict[str, float | None]) -> None:
    (row,) = found.filter(variant="tuned").to_dicts()
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    (untuned,) = found.filter(variant="untuned").to_dicts()
    assert untuned["gain"] is None and untuned["p"] is None


def _frame(rows: list[Row]) -> pl.DataFrame:
    return CLASSIFICATION_PREDICTIONS.frame(rows)


def test_raw_calibrated_and_channel_choices_have_the_same_figures_of_their_own(run: Run) -> None:
    rows = _flipped(random.Random(0))
    found = pl.DataFrame(run("mart_calibrated", eval_flipped=rows), infer_schema_length=None)
    asked = _frame(rows).filter(setting=flipped_setting(100))
    counted_by = {
        "raw": "correct", "calibrated": "calibrated_correct", "channel": "channel_correct",
    }  # fmt: skip
    assert set(found["choice"]) == set(counted_by)
    for choice, counted in counted_by.items():
        of_choice = found.filter(setting=flipped_setting(100), choice=choice)
        _assert_row(of_choice.filter(pl.col("dataset").is_null()), _expected(asked, counted))
        for dataset in SETS:
            own = _expected(asked.filter(dataset=dataset), counted)
            _assert_row(of_choice.filter(dataset=dataset), own)
    assert set(found["setting"]) == {flipped_setting(50), flipped_setting(100)}
    # The calibration error of a choice is that of its own probabilities.
    scores = {
        "calibrated": lambda row: np.subtract(row["logprobs"], row["content_free"]),
        "channel": lambda row: np.array(row["channel_logprobs"]),
    }
    for choice, scores_of in scores.items():
        confident = asked.filter(variant="untuned").with_columns(
            confidence=pl.struct("logprobs", "content_free", "channel_logprobs").map_elements(
                lambda row, of=scores_of: float(_normalised(of(row)).max()),
                return_dtype=pl.Float64,
            )
        )
        gaps = confident.group_by((pl.col("confidence") * 10).floor().clip(0, 9).alias("bin")).agg(
            (pl.col("confidence").mean() - pl.col(counted_by[choice]).mean()).abs(), pl.len()
        )
        error = (gaps["confidence"] * gaps["len"]).sum() / len(confident)
        (row,) = found.filter(
            pl.col("dataset").is_null(), choice=choice, variant="untuned", setting="100% flipped"
        ).to_dicts()
        assert row["ece"] == pytest.approx(error)


def _normalised(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores)
    return exponents / exponents.sum()  # type: ignore[no-any-return]


def test_choices_follow_truth_prior_or_prompt_over_all_sets_and_over_those_of_two_labels(
    run: Run,
) -> None:
    rows = _flipped(random.Random(1))
    mart = pl.DataFrame(run("mart_alignment", eval_flipped=rows), infer_schema_length=None)
    found = mart.rename({"following": "correct", "share": "accuracy"})
    keys = ["model", "variant", "dataset", "context", "query"]
    table = _frame(rows)
    own = table.filter(setting=ZERO_SHOT).select(*keys, prior="prediction", truth="target")
    choice = pl.col("prediction")
    for percent in (50, 100):
        asked = table.filter(setting=flipped_setting(percent)).join(own, on=keys)
        for sets in ("all", "two labels"):
            of_sets = asked.filter(dataset="two") if sets == "two labels" else asked
            measured = found.filter(sets=sets, flipped_percent=percent)
            for measure, follows, among in (
                ("truth", choice == pl.col("truth"), True),
                ("prior", choice == pl.col("prior"), True),
                ("prompt", choice == pl.col("target"), True),
                ("override", choice == pl.col("target"), pl.col("prior") == pl.col("truth")),
                ("zero-shot", pl.col("prior") == pl.col("truth"), True),
            ):
                counted = of_sets.filter(among).with_columns(counted=follows)
                _assert_row(measured.filter(measure=measure), _expected(counted, "counted"))
            assert set(measured["measure"]) == {"truth", "prior", "prompt", "override", "zero-shot"}
    assert set(found.filter(sets="two labels")["chance"]) == {0.5}
    assert all(0.25 < chance < 0.5 for chance in found.filter(sets="all")["chance"])


def test_questions_without_exemplars_are_in_no_accuracy(run: Run) -> None:
    rows = _flipped(random.Random(2))
    without = [row for row in rows if row["setting"] != ZERO_SHOT]
    for mart in ("mart_summary", "mart_flipped", "mart_scaling", "mart_icl"):
        catalog = [{"model": "micro", "parameters": 10}]
        with_them, alone = (
            run(mart, eval_flipped=asked, catalog_models=catalog) for asked in (rows, without)
        )
        assert with_them == [pytest.approx(row) for row in alone]  # sums in another order


def test_predictions_of_an_earlier_version_have_no_calibrated_figures(run: Run) -> None:
    (row,) = run(
        "mart_calibrated",
        eval_icl=predictions("untuned", "01"),
        eval_algorithmic=completions("untuned", "01"),
    )[:1]
    found = run("mart_calibrated", eval_icl=predictions("untuned", "01"))
    assert {row["choice"] for row in found} == {"raw"}
    assert row["accuracy"] == 0.5
    assert run("mart_alignment", eval_icl=predictions("untuned", "01")) == []


def test_the_loss_of_language_weighs_tokens_and_is_compared_text_by_text(run: Run) -> None:
    rng = random.Random(0)
    texts = [(f"set{i % 2}", i, rng.randrange(0, 40)) for i in range(30)]
    rows = [
        {
            "model": "micro", "variant": variant, "dataset": dataset, "example": example,
            "tokens": tokens, "nats": tokens * (3 + rng.random()), "path": "packed",
        }
        for dataset, example, tokens in texts
        for variant in (*VARIANTS, "pretrained")
    ]  # fmt: skip
    rng.shuffle(rows)
    mart = pl.DataFrame(run("mart_language", eval_language=rows), infer_schema_length=None)
    table = LANGUAGE_LOSSES.frame(rows).filter(pl.col("tokens") > 0).sort("example")
    for name in (None, "set0", "set1"):
        found = mart.filter(pl.col("dataset").eq_missing(pl.lit(name, pl.String)))
        own = table if name is None else table.filter(dataset=name)
        by_variant = {variant: own.filter(variant=variant) for variant in VARIANTS}
        for row in found.iter_rows(named=True):
            losses = own.filter(variant=row["variant"])
            parts, wholes = losses["nats"].to_list(), losses["tokens"].to_list()
            assert (row["texts"], row["tokens"]) == (len(losses), sum(wholes))
            assert row["loss"] == pytest.approx(sum(parts) / sum(wholes))
            assert row["low"] == pytest.approx(cluster_low(parts, wholes))
            assert row["low"] < row["loss"] < row["high"]
            if row["variant"] != "tuned":
                assert row["change"] is None and row["change_low"] is None
                continue
            more = (by_variant["tuned"]["nats"] - by_variant["untuned"]["nats"]).to_list()
            assert row["change"] == pytest.approx(sum(more) / sum(wholes))
            assert row["change_low"] == pytest.approx(cluster_low(more, wholes))
            assert row["change_high"] == pytest.approx(cluster_high(more, wholes))
    few = [row for row in rows if row["example"] < 8]
    assert {row["low"] for row in run("mart_language", eval_language=few)} == {None}


def test_reliability_is_what_the_calibration_error_sums_up(run: Run) -> None:
    """Against the bins of numpy, and against the error that the scores have of the same rows."""
    rng = random.Random(5)
    asked = [(dataset, query) for dataset in SETS for query in range(CONTEXTS * QUERIES)]
    shared = {"setting": "symbols, no instruction", "flipped_percent": 0, "variant": "tuned"}
    rows = [
        _row(rng, dataset, target=rng.randrange(SETS[dataset]), query=query,
             context=query // QUERIES, **shared)
        for dataset, query in asked
    ]  # fmt: skip
    mart = pl.DataFrame(run("int_scores", "mart_reliability", eval_icl=rows))
    probabilities = [np.exp(row["logprobs"]) / np.exp(row["logprobs"]).sum() for row in rows]
    confidences = np.array([each.max() for each in probabilities])
    bins = np.minimum((confidences * 10).astype(int), 9)
    assert mart["bin"].to_list() == sorted(set(bins.tolist()))
    correct = np.array([row["correct"] for row in rows])
    for row in mart.iter_rows(named=True):
        inside = bins == row["bin"]
        assert (row["n"], row["correct"]) == (inside.sum(), correct[inside].sum())
        assert row["confidence"] == pytest.approx(confidences[inside].mean())
        low, high = proportion_confint(row["correct"], row["n"], method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((low, high))
    (score,) = (row for row in run("int_scores", eval_icl=rows) if row["level"] == "all"
                and row["measure"] == "accuracy")  # fmt: skip
    gaps = (mart["confidence"] - mart["accuracy"]).abs() * mart["n"] / mart["n"].sum()
    assert score["ece"] == pytest.approx(gaps.sum())


def test_a_variant_that_always_says_the_same_has_a_commonest_choice_of_one(run: Run) -> None:
    same = predictions("untuned", "1" * 6) + predictions("untuned", "101100", context=1)
    same += predictions("untuned", "1", context=2)  # tells nothing
    whole, of_set = run("mart_choices", eval_icl=same)
    assert (whole["dataset"], of_set["dataset"]) == (None, "held")
    assert whole["n"] == of_set["n"] == 12
    assert whole["commonest_choice"] == pytest.approx((6 + 3) / 12)
    assert whole["commonest_target"] == 1.0  # `predictions` gives every query the same target


def test_confusions_count_the_sets_own_classes_under_whatever_symbols(run: Run) -> None:
    """A set of nine classes has none, and a pair that never met counts 0."""
    rng = random.Random(7)
    names = {"two": ["bad", "good"], "four": ["a", "b", "c", "d"], "nine": list("abcdefghi")}
    rows = []
    for setting in SETTINGS:
        for dataset, natural in names.items():
            for query in range(40):
                labels = natural if setting.relevant else [f"{query}{name}" for name in natural]
                target, choice = (rng.randrange(len(natural) - (dataset == "four")) for _ in "tc")
                rows += predictions(
                    "tuned", "1", setting=setting.name, dataset=dataset, labels=labels,
                    target=target, prediction=choice, query=query,
                )  # fmt: skip
    mart = pl.DataFrame(run("mart_confusion", eval_icl=rows))
    assert set(mart["dataset"]) == {"two", "four"}
    for (setting_name, dataset), found in mart.group_by("setting", "dataset", maintain_order=True):
        asked = [r for r in rows if (r["setting"], r["dataset"]) == (setting_name, dataset)]
        own = names[str(dataset)]
        pairs = Counter((own[r["target"]], own[r["prediction"]]) for r in asked)
        counted = found.select("target", "prediction", "n").rows()
        assert counted == [(*pair, pairs[pair]) for pair in product(own, own)]
