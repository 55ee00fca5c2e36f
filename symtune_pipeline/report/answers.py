"""The page's browser: a prompt of each setting as a model reads it, and questions with their answers.

A question is a query in a setting. A page has room for some of them: a sample drawn by seed, evenly over
models and settings. This module knows the tables of suites and of predictions, and nothing about how an
answer came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from symtune_pipeline.prompts.chat import chat_frame
from symtune_pipeline.prompts.text import (
    PLAIN,
    Frame,
    Slot,
    algorithmic_prompt,
    classification_prompt,
    exemplar_to_drop,
    render,
)
from symtune_pipeline.report.tables import in_order, rank, setting_label, split_number
from symtune_pipeline.report.template import beside, rendered
from symtune_pipeline.tables import SETTINGS, VARIANTS

BYTES = 900_000  # of the page, for the questions
LEAST = 50  # bytes of one
TEXT = 500  # characters at most of the text of one
LABELS = 8  # of one, whose log-probability is shown
PROMPTS = 300_000  # characters of the page, for the prompts
GROUP = ("model", "benchmark", "setting")
QUERY = ("part", "context", "query")  # the part is a dataset or a concept
RELEVANT = tuple(setting.name for setting in SETTINGS if setting.relevant)

Row = dict[str, Any]
Key = tuple[Any, ...]  # the values of GROUP and QUERY


@dataclass(frozen=True)
class Answers:
    """What was asked, and what every variant of every model answered.

    `classification` and `algorithmic` are the suites. `predictions`, with a column benchmark, and
    `completions` are the answers. `inputs` has the texts by example number, and `frames` what stands
    around the prompts of each model. `earlier` are the models whose answers are not among these, since
    they are to earlier questions.
    """

    classification: pl.DataFrame
    algorithmic: pl.DataFrame
    predictions: pl.DataFrame
    completions: pl.DataFrame
    inputs: Sequence[str]
    frames: Mapping[str, Frame]
    seed: int
    earlier: Sequence[str] = ()


@dataclass(frozen=True)
class Prompt:
    """A prompt of a setting as some models read it; `dropped` counts the exemplars that did not fit."""

    setting: str
    text: str
    target: str
    dropped: int
    models: list[str]


@dataclass
class Questions:
    """Questions as JSON, small: what several of them share has a number and stands once, by kind.

    A row has the numbers of its model, setting, part and text, then the target, and for each variant
    whether it is right and the labels with their log-probabilities, the chosen one first, or the
    completion; null where the variant was not asked.
    """

    variants: Sequence[str]
    names: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    size: int = 0  # bytes

    def number(self, kind: str, name: str) -> int:
        """The number of a name among those of its kind."""
        known = self.names.setdefault(kind, {})
        if name not in known:
            known[name] = len(known)
            self.size += len(_json(name).encode()) + 1
        return known[name]

    def add(self, row: list[Any]) -> bool:
        """Take a row in, if there is room for it."""
        line = _json(row)
        self.size += len(line.encode()) + 1
        if self.size <= BYTES:
            self.rows.append(line)
        return self.size <= BYTES


def chat(tokenizer_folder: Path) -> Frame:
    """What stands around a prompt in the chat template of a tokenizer."""
    from symtune_pipeline.models.opening import open_tokenizer

    return Frame(*chat_frame(open_tokenizer(tokenizer_folder)), Slot())


def answers_html(answers: Answers) -> str:
    """The part of the page with prompts and questions; empty where nothing was asked."""
    others, order = answers.earlier, in_turn(answers)
    if order.is_empty():
        return rendered("answers.html", others=others, asked=0) if others else ""
    questions = sampled(answers, order)
    names = {kind: list(known) for kind, known in questions.names.items()}
    return rendered(
        "answers.html",
        prompts=prompts(answers, order),
        others=others,
        asked=len(order),
        shown=len(questions.rows),
        limits={"labels": LABELS, "characters": TEXT},
        names=names,
        compared={"untuned", "tuned"} <= set(questions.variants),
        data=_json(names | {"variants": questions.variants}),
        rows=",".join(questions.rows),
        script=beside("answers.js"),
    )


def in_turn(answers: Answers) -> pl.DataFrame:
    """Every question in the order of drawing: one of each model and setting, then the next one of each.

    At the same turn, models and settings have the same query wherever they ask the same ones.
    """
    asked = pl.concat(
        table.select(*GROUP, pl.col(part).alias("part"), *QUERY[1:])
        for table, part in ((answers.predictions, "dataset"), (answers.completions, "concept"))
    ).unique()
    queries = asked.select(QUERY).unique().sort(QUERY)
    drawn = pl.Series("drawn", np.random.default_rng(answers.seed).permutation(len(queries)))
    groups = in_order(asked.select(GROUP).unique().with_columns(variant=pl.lit("")))
    return (
        asked.join(queries.with_columns(drawn), on=QUERY)
        .join(groups.select(GROUP).with_row_index("group"), on=GROUP)
        .sort("group", "drawn")
        .with_columns(turn=pl.int_range(pl.len()).over("group"))
        .sort("turn", "group")
        .select(*GROUP, *QUERY)
    )


def sampled(answers: Answers, order: pl.DataFrame) -> Questions:
    """As many questions as the page has room for, in the order of drawing."""
    first = order.head(BYTES // LEAST)
    answered: dict[Key, dict[str, Row]] = {}
    for table, part in ((answers.predictions, "dataset"), (answers.completions, "concept")):
        rows = table.rename({part: "part"}).join(first, on=first.columns, how="semi")
        for row in rows.iter_rows(named=True):
            key = tuple(row[name] for name in first.columns)
            answered.setdefault(key, {})[row["variant"]] = row
    variants = pl.DataFrame({"variant": sorted({name for of in answered.values() for name in of})})
    questions = Questions(variants.sort(rank("variant", VARIANTS), "variant")["variant"].to_list())
    for part in sorted(
        {str(row.get("category", key[3])) for key, of in answered.items() for row in of.values()}
    ):
        questions.number("parts", part)
    classes, texts = class_names(answers.predictions), concept_inputs(answers.algorithmic)
    for key in first.iter_rows():
        text = texts[key[1:]] if key[1:] in texts else answers.inputs[key[-1]]
        names = classes.get((key[0], key[3]), ())
        if not questions.add(_question(questions, key, text, answered[key], names)):
            break
    return questions


def _question(
    questions: Questions, key: Key, text: str, answered: Mapping[str, Row], names: Sequence[str]
) -> list[Any]:
    """A row of `Questions`."""
    model, benchmark, setting, part, *_ = key
    first = next(iter(answered.values()))
    labels = with_names(first.get("labels", ()), names)
    return [
        questions.number("models", model),
        questions.number("settings", setting_label(benchmark, setting)),
        questions.number("parts", str(first.get("category", part))),
        questions.number("texts", _short(text)),
        labels[first["target"]] if labels else _short(first["target"]),
        [_answer(answered[name], labels) if name in answered else None for name in questions.variants],
    ]  # fmt: skip


def _answer(row: Row, labels: Sequence[str]) -> list[Any]:
    """Whether it is right, and what it is; see `Questions`. Of many labels, the best ones and the target."""
    if not labels:
        return [int(row["correct"]), _short(row["completion"])]
    ordered = sorted(range(len(labels)), key=lambda label: -row["logprobs"][label])
    shown = ordered[:LABELS] + [row["target"]] * (row["target"] in ordered[LABELS:])
    return [int(row["correct"]), [[labels[i], round(row["logprobs"][i], 2)] for i in shown]]


def _short(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} …"


def with_names(labels: Sequence[str], names: Sequence[str]) -> list[str]:
    """Labels with the names of the classes for which they stand, where these differ."""
    if list(labels) == list(names) or not names:
        return list(labels)
    return [f"{label} ({name})" for label, name in zip(labels, names, strict=True)]


def class_names(predictions: pl.DataFrame) -> dict[tuple[str, str], list[str]]:
    """By model and dataset the natural names of the classes: the labels where these are relevant."""
    settings = predictions["setting"].unique()
    relevant = [setting for setting in settings if split_number(setting)[0] in RELEVANT]
    rows = predictions.filter(pl.col("setting").is_in(relevant)).select(
        "model", "dataset", "labels"
    )
    return {(model, dataset): labels for model, dataset, labels in rows.iter_rows()}


def concept_inputs(algorithmic: pl.DataFrame) -> dict[Key, str]:
    """The inputs to solve, by benchmark, setting, concept, context and query."""
    columns = ("benchmark", "setting", "concept", "context", "query", "query_input")
    return {tuple(key): text for *key, text in algorithmic.select(columns).iter_rows()}


def prompts(answers: Answers, order: pl.DataFrame) -> list[Prompt]:
    """Of each setting the question that is drawn first, once for all models that read the same."""
    first = order.unique(GROUP, keep="first", maintain_order=True)
    most = PROMPTS // len(first)
    classes = class_names(answers.predictions)
    found: dict[tuple[str, str], Prompt] = {}
    for key in first.iter_rows(named=True):
        prompt = _prompt(answers, key, classes.get((key["model"], key["part"]), ()))
        found.setdefault((prompt.setting, prompt.text), prompt).models.append(key["model"])
    return [replace(prompt, text=abridged(prompt.text, most)) for prompt in found.values()]


def _prompt(answers: Answers, key: Row, names: Sequence[str]) -> Prompt:
    asked = {name: key[name] for name in ("benchmark", "setting", "context", "query")}
    setting = setting_label(key["benchmark"], key["setting"])
    frame = answers.frames.get(key["model"], PLAIN)
    concept = answers.algorithmic.filter(**asked, concept=key["part"])
    if len(concept):
        row = concept.row(0, named=True)
        return Prompt(setting, render(algorithmic_prompt(row, frame)), row["target"], 0, [])
    asked["dataset"] = key["part"]
    row = answers.classification.filter(**asked).row(0, named=True)
    dropped = int(answers.predictions.filter(**asked, model=key["model"])["dropped"][0] or 0)
    text = render(classification_prompt(_without(row, dropped), answers.inputs, frame))
    return Prompt(setting, text, with_names(row["labels"], names)[row["target"]], dropped, [])


def _without(row: Row, dropped: int) -> Row:
    """The row of a suite without the exemplars that were left out so that its prompt fits."""
    kept = {name: list(row[name]) for name in ("exemplars", "exemplar_targets")}
    for _ in range(dropped):
        index = exemplar_to_drop(kept["exemplar_targets"])
        assert index is not None, "more exemplars were dropped than a prompt can lose"
        for values in kept.values():
            values.pop(index)
    return row | kept


def abridged(text: str, most: int) -> str:
    """The beginning and the end of a text of more than `most` characters, and how many are missing."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def _json(value: object) -> str:
    """JSON that may stand in a script of a page."""
    import jinja2.utils

    return str(jinja2.utils.htmlsafe_json_dumps(value, ensure_ascii=False, separators=(",", ":")))
