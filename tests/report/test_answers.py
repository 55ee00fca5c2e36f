"""The page's browser shows what was asked and answered: all of it, or a sample that is small and fair."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from html import unescape
from typing import Any

import polars as pl
import pytest

from symtune_pipeline.catalog.datasets import find_dataset
from symtune_pipeline.evaluation.predictions import by_context, generated, of_model, ranked
from symtune_pipeline.evaluation.suites import algorithmic_suite, classification_suite
from symtune_pipeline.prompts.text import Frame, Slot, classification_prompt, render
from symtune_pipeline.prompts.tokens import Asked, asked_within
from symtune_pipeline.report import answers as browser
from symtune_pipeline.report.answers import Answers, answers_html
from symtune_pipeline.report.tables import setting_label
from symtune_pipeline.sections import EvaluationConfig

VARIANTS = ("untuned", "tuned", "aardvark")
CONFIG = EvaluationConfig(
    contexts=3, queries=8, exemplars_per_class=2, list_functions=4, turing_programs=3
)
ODD = "</script><script>alert('odd & \"bad\"')</script>\n\N{SNOWMAN}"
SYMBOLS = "symbols, no instruction"


@pytest.fixture(scope="module")
def answers(evaluation_examples: pl.DataFrame, symbols: pl.DataFrame) -> Answers:
    """The suites of three sets, answered at random by three variants of a model."""
    inputs = [
        ODD if place % 7 == 0 else text for place, text in enumerate(evaluation_examples["input"])
    ]
    instructions = {
        key: find_dataset(key).instruction for key in set(evaluation_examples["dataset"])
    }
    suite = classification_suite(evaluation_examples, symbols, instructions, CONFIG, seed=0)
    algorithmic, rng = algorithmic_suite(CONFIG, seed=0), random.Random(0)
    contexts, _ = by_context(suite, inputs)
    predictions, completions = [], []
    for variant in VARIANTS:
        said = [[[-9 * rng.random() for _ in row["labels"]] for row in rows] for rows in contexts]
        table = ranked(suite, said, [0] * len(contexts), "plain")
        predictions.append(of_model(table.with_columns(suite["benchmark"]), "micro", variant))
        written = [rng.choice([target, "[7]"]) for target in algorithmic["target"]]
        completions.append(of_model(generated(algorithmic, written, "plain"), "micro", variant))
    tables = pl.concat(predictions), pl.concat(completions)
    return Answers(suite, algorithmic, *tables, inputs, frames={}, seed=0)


def shown(html: str) -> tuple[dict[str, Any], list[list[Any]]]:
    """What the script of the page reads: names by kind, and rows."""
    names, rows = re.findall(r"^(?:const answers|answers\.rows) = (.*);$", html, re.MULTILINE)
    return json.loads(names), json.loads(rows)


def number_of_questions(answers: Answers) -> int:
    return (len(answers.predictions) + len(answers.completions)) // len(VARIANTS)


def test_every_question_has_the_answers_of_the_tables(answers: Answers) -> None:
    names, rows = shown(answers_html(answers))
    assert names["variants"] == list(VARIANTS)
    assert len(rows) == number_of_questions(answers)
    listed = Counter(
        (names["settings"][setting], names["parts"][part], target, variant, right, str(said))
        for _, setting, part, _, target, given in rows
        for variant, (right, said) in zip(VARIANTS, given, strict=True)
    )
    natural = {
        row["dataset"]: row["labels"]
        for row in answers.predictions.iter_rows(named=True)
        if row["setting"].startswith("relevant")
    }
    expected: Counter[Any] = Counter()
    for row in answers.predictions.iter_rows(named=True):
        labels = [
            label if label == name else f"{label} ({name})"
            for label, name in zip(row["labels"], natural[row["dataset"]], strict=True)
        ]
        said = sorted(zip(labels, row["logprobs"], strict=True), key=lambda pair: -pair[1])
        assert said[0][0] == labels[row["prediction"]]
        rounded = str([[label, round(logprob, 2)] for label, logprob in said])
        setting, target = setting_label(row["benchmark"], row["setting"]), labels[row["target"]]
        expected[setting, row["dataset"], target, row["variant"], row["correct"], rounded] += 1
    for row in answers.completions.iter_rows(named=True):
        setting, said = setting_label(row["benchmark"], row["setting"]), row["completion"]
        whose = row["target"], row["variant"]
        expected[setting, row["category"], *whose, row["correct"], said] += 1
    assert listed == expected


def test_a_question_has_the_text_that_was_asked(answers: Answers) -> None:
    names, rows = shown(answers_html(answers))
    listed = Counter((names["settings"][row[1]], names["texts"][row[3]]) for row in rows)
    asked = Counter(
        (setting_label(row["benchmark"], row["setting"]), answers.inputs[row["query"]])
        for row in answers.classification.iter_rows(named=True)
    )
    asked += Counter(
        (setting_label(row["benchmark"], row["setting"]), row["query_input"])
        for row in answers.algorithmic.iter_rows(named=True)
    )
    assert listed == asked


def test_a_sample_is_drawn_by_seed_evenly_over_settings_with_the_same_queries(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = " ".join(answers_html(answers).split())
    assert f"The list has all {number_of_questions(answers)} questions." in whole
    monkeypatch.setattr(browser, "BYTES", 8_000)
    html = answers_html(answers)
    names, rows = shown(html)
    counts = Counter(row[1] for row in rows)
    assert set(counts) == set(range(len(names["settings"])))
    assert min(counts.values()) >= 3 and max(counts.values()) - min(counts.values()) <= 1
    queries = {
        tuple(row[3] for row in rows if row[1] == number)[:3]
        for number, setting in enumerate(names["settings"])
        if "fresh" not in setting
    }
    assert len(queries) == 1
    sentence = f"The list has {len(rows)} of {number_of_questions(answers)} questions, so that"
    assert sentence in " ".join(html.split())
    shuffled = replace(answers, predictions=answers.predictions.sample(fraction=1, shuffle=True))
    assert answers_html(shuffled) == html
    assert shown(answers_html(replace(answers, seed=1)))[1] != rows


def test_long_texts_and_hundreds_of_labels_keep_the_page_small(answers: Answers) -> None:
    labels = [f"class {number}" for number in range(300)]
    wide = (
        pl.lit(labels, dtype=pl.List(pl.String)).alias("labels"),
        pl.lit(250, dtype=pl.UInt16).alias("target"),
    )
    falling = pl.lit([-float(n) for n in range(300)], dtype=pl.List(pl.Float64)).alias("logprobs")
    html = answers_html(
        replace(
            answers,
            classification=answers.classification.with_columns(wide),
            predictions=answers.predictions.with_columns(*wide, falling),
            inputs=["\N{SNOWMAN}<" * 20_000] * len(answers.inputs),
        )
    )
    assert len(html.encode()) < 1_900_000  # all else is 1.1 MB
    names, rows = shown(html)
    assert max(map(len, names["texts"])) <= browser.TEXT + 2
    ((_, said), *_) = next(row[5] for row in rows if names["settings"][row[1]] == SYMBOLS)
    assert [label for label, _ in said] == [*labels[: browser.LABELS], "class 250"]
    assert "characters left out" in html


def test_the_prompt_of_a_setting_is_the_one_that_a_model_reads(answers: Answers) -> None:
    """In the chat template of the model, and without the exemplars that did not fit."""
    frame, too_many = Frame("<|user|>", "<|end|>", Slot()), 2
    dropped = pl.when(setting=SYMBOLS).then(too_many).otherwise("dropped").cast(pl.UInt32)
    predictions = answers.predictions.with_columns(dropped.alias("dropped"))
    html = answers_html(replace(answers, predictions=predictions, frames={"micro": frame}))
    assert ODD not in html and "2 exemplars were left out" in html
    found = re.findall(r"<summary>(.*?)</summary>\s*<pre.*?>(.*?)</pre>", html, re.DOTALL)
    prompts = {setting: unescape(text) for setting, text in found}

    def read(row: dict[str, Any], most: int) -> str:
        """As scoring drops exemplars; a prompt has a token an exemplar here."""
        asked: list[dict[str, Any]] = []

        def ask(rows: list[dict[str, Any]]) -> list[Asked]:
            asked[:] = rows
            return [([0] * len(each["exemplars"]), [[]]) for each in rows]

        asked_within([row], ask, most)
        return render(classification_prompt(asked[0], answers.inputs, frame))

    possible: dict[str, set[str]] = {}
    for row in answers.classification.iter_rows(named=True):
        setting = setting_label(row["benchmark"], row["setting"])
        most = len(row["exemplars"]) - (too_many if row["setting"] == SYMBOLS else 0)
        possible.setdefault(setting, set()).add(read(row, most))
    assert set(possible) | {"List functions, fresh", "Turing concepts, fresh"} == set(prompts)
    assert all(prompts[setting] in texts for setting, texts in possible.items())


def test_models_that_read_the_same_share_a_prompt(answers: Answers) -> None:
    def twice(table: pl.DataFrame) -> pl.DataFrame:
        return pl.concat([table, table.with_columns(model=pl.lit("smollm2-135m"))])

    both = replace(
        answers, predictions=twice(answers.predictions), completions=twice(answers.completions)
    )
    html = answers_html(both)
    assert html.count("<pre") == answers_html(answers).count("<pre")
    assert f"<summary>{SYMBOLS} (micro, smollm2-135m)</summary>" in html
    html = answers_html(replace(both, frames={"micro": Frame("<|user|>")}))
    assert f"<summary>{SYMBOLS} (micro)</summary>" in html
    assert f"<summary>{SYMBOLS} (smollm2-135m)</summary>" in html


def test_models_whose_answers_are_to_earlier_questions_are_named(answers: Answers) -> None:
    assert "are not shown" not in answers_html(answers)
    html = answers_html(replace(answers, earlier=["before"]))
    assert "Answers of before are not shown" in html
    assert shown(html)[0]["models"] == ["micro"]
    none = {"predictions": answers.predictions.clear(), "completions": answers.completions.clear()}
    assert "Answers of before" in answers_html(replace(answers, **none, earlier=["before"]))


def test_where_nothing_was_asked_there_is_no_browser(answers: Answers) -> None:
    none = replace(
        answers, predictions=answers.predictions.clear(), completions=answers.completions.clear()
    )
    assert answers_html(none) == ""
