"""The report's folder: one self-contained page, a PNG of every chart, and summary.json.

It arranges what `tables` and `plots` make and puts the finding into words. It knows nothing
about how a figure was computed. Equal inputs give equal bytes: it adds no time of its own.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.origin import in_words
from symtune_pipeline.report import plots, robustness
from symtune_pipeline.report.answers import Answers, answers_html
from symtune_pipeline.report.calibration import html_tables as choice_tables
from symtune_pipeline.report.calibration import reliability_chart
from symtune_pipeline.report.confusion import confusion_html
from symtune_pipeline.report.exemplars import html_tables as exemplar_tables
from symtune_pipeline.report.finetuned import html_tables as finetuned_tables
from symtune_pipeline.report.paper import paper_table
from symtune_pipeline.report.tables import (
    OVER_DRAWS,
    Comparison,
    as_html,
    comparisons,
    fraction_text,
    gain_text,
    html_tables,
    in_order,
    models,
    setting_label,
    several_models,
    split_number,
    summary_records,
    unbroken,
)
from symtune_pipeline.report.template import rendered
from symtune_pipeline.report.variants import html_tables as variant_tables
from symtune_pipeline.tables import EXEMPLARS, SETTINGS, flipped_setting

if TYPE_CHECKING:
    from symtune_pipeline.report.plots import Chart

IN_CONTEXT = {(setting.relevant, setting.instructed): setting.name for setting in SETTINGS}
# The settings a finding spells out: the method's aim, its hardest test, and what it may cost.
HEADLINES = {
    ("icl", IN_CONTEXT[False, False]): "With symbols and no instruction",
    ("flipped", flipped_setting(100)): "With all labels flipped",
    ("icl", IN_CONTEXT[True, True]): "With relevant labels and an instruction",
}
SIGNIFICANT = 0.05  # the p below which a verdict counts a gain


@dataclass(frozen=True)
class Figure:
    """A chart, what kind it is, what it is about, the name of its PNG (without ending), and its words."""

    kind: str
    subject: str
    name: str
    chart: Chart
    words: str


def write_report(
    folder: Path,
    *,
    summary: pl.DataFrame,
    icl: pl.DataFrame,
    flipped: pl.DataFrame,
    algorithmic: pl.DataFrame,
    scaling: pl.DataFrame,
    calibrated: pl.DataFrame,
    alignment: pl.DataFrame,
    language: pl.DataFrame,
    variants: pl.DataFrame,
    seeds: pl.DataFrame,
    exemplars: pl.DataFrame,
    finetuned: pl.DataFrame,
    reliability: pl.DataFrame,
    choices: pl.DataFrame,
    confusion: pl.DataFrame,
    answers: Answers,
    training_log: dict[str, pl.DataFrame],
    provenance: dict[str, Any],
) -> None:
    """Write index.html, `<chart>-<subject>.png` per chart, and summary.json into `folder`.

    Every frame has a row per model, benchmark, setting and variant. The rows of `icl` also stand for
    one dataset each, those of `flipped` for one percentage, those of `algorithmic` for one category,
    and `scaling` adds the cost of inference. `calibrated`, `alignment` and `language` are what
    `robustness` shows, `variants` and `seeds` what the module `variants` does, `reliability` and `choices`
    what `calibration` does, and `exemplars`, `finetuned`, `confusion` and `answers` what the modules of
    these names do. `training_log` holds each model's log, and `provenance` may nest. All but `summary` may
    be empty, and what is empty is left out. index.html is written last, so a page never speaks of a file
    that is not there. Raises UserError where `summary` has no row.
    """
    if summary.is_empty():
        raise UserError(
            "The summary has no row to report; run the evaluation for at least one model."
        )
    figures = list(
        draw(
            *(summary, icl, flipped, alignment, algorithmic, scaling, exemplars, reliability),
            training_log,
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        write(folder / f"{figure.name}.png", plots.to_png(figure.chart))
    records = json.dumps(summary_records(summary), indent=2, ensure_ascii=False) + "\n"
    write(folder / "summary.json", records.encode())
    tables = html_tables(summary=summary, icl=icl, algorithmic=algorithmic, scaling=scaling)
    tables["paper"] = as_html("paper", paper_table(summary))
    tables |= robustness.html_tables(calibrated=calibrated, alignment=alignment, language=language)
    tables |= variant_tables(variants, seeds) | exemplar_tables(exemplars)
    tables |= choice_tables(choices) | finetuned_tables(finetuned)
    parts = {"confusion": confusion_html(confusion, choices), "answers": answers_html(answers)}
    html = render(summary, figures, tables, parts, provenance, training_log, answers.earlier)
    write(folder / "index.html", html.encode())


def render(
    summary: pl.DataFrame,
    figures: list[Figure],
    tables: dict[str, str],
    parts: dict[str, str],
    provenance: dict[str, Any],
    training_log: dict[str, pl.DataFrame],
    earlier: Collection[str],
) -> str:
    """The page's HTML, with the chart library in it once.

    `earlier` are the models whose answers are to the questions of other settings than the experiment's now.
    """
    return rendered(
        "page.html",
        models=models(summary),
        findings={
            name: [unbroken(sentence) for sentence in finding(rows)]
            for name, rows in by_model(summary)
        },
        stand_ins=stand_ins(provenance),
        earlier=earlier,
        figures={kind: list(alike) for kind, alike in groupby(figures, attrgetter("kind"))},
        specs={figure.name: page_spec(figure.chart) for figure in figures},
        tables=tables,
        parts=parts,
        facts=facts(provenance, training_log),
        provenance={name: list(flat(value)) for name, value in provenance.items()},
        script=chart_library(),
    )


@functools.cache  # seconds of bundling, and always the same
def chart_library() -> str:
    """JavaScript that draws a chart in a browser: Vega-Lite in the version Altair writes."""
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return script


def finding(summary: pl.DataFrame) -> list[str]:
    """One model's result in short sentences, from its numbers, whichever way they point."""
    tested = [pair for pair in comparisons(summary) if pair.tuned.get("p") is not None]
    if not tested:
        return ["No setting was measured on both the untuned and the symbol-tuned model."]
    judged = [pair for pair in tested if is_better_higher(pair)]
    clear = [pair for pair in judged if is_clear(pair)]
    worse = [pair for pair in clear if pair.tuned["gain"] < 0]
    unknown = sum(interval(pair) is None for pair in judged)
    verdict = (
        f"Of {len(judged)} settings, symbol tuning improved {len(clear) - len(worse)} and worsened"
        f" {named(worse)}, counting those whose 95% interval over draws of exemplars excludes 0 and"
        f" whose p is below {SIGNIFICANT}."
    )
    if unknown:
        verdict += f" Settings with too few draws for an interval: {unknown}."
    if len(judged) < len(tested):
        verdict += " Settings with half of the labels flipped or fewer are not counted."
    headlines = []
    for key, opening in HEADLINES.items():
        asked = [pair for pair in tested if key == (pair.benchmark, split_number(pair.setting)[0])]
        # Of several numbers of exemplars the fewest and the most.
        headlines += [headline(opening, pair) for pair in asked[:1] + asked[1:][-1:]]
    return [verdict, *headlines]


def interval(pair: Comparison) -> tuple[float, float] | None:
    """The gain's interval over draws; a setting with fewer than ten draws has none.

    Queries of a context share its exemplars, so a test that takes them for independent claims more.
    """
    low, high = (pair.tuned[f"{OVER_DRAWS}_{end}"] for end in ("low", "high"))
    return None if low is None else (low, high)


def is_better_higher(pair: Comparison) -> bool:
    """Whether a better model is right more often.

    It follows flipped labels only where most are flipped, and elsewhere they count as right all the same.
    """
    percent = pair.tuned.get("flipped_percent")
    return percent is None or percent > 50


def is_clear(pair: Comparison) -> bool:
    """Whether the interval leaves out 0 and the test agrees; without an interval, nothing is claimed.

    Of few answers that tuning changed, the interval alone claims too much: it may be narrow by luck.
    """
    over_draws = interval(pair)
    excludes_zero = over_draws is not None and (over_draws[0] > 0 or over_draws[1] < 0)
    return excludes_zero and bool(pair.tuned["p"] < SIGNIFICANT)


def named(pairs: list[Comparison]) -> str:
    """How many settings, and which, as `1 (List functions, fresh)`."""
    labels = "; ".join(setting_label(pair.benchmark, pair.setting) for pair in pairs)
    return f"{len(pairs)} ({labels})" if pairs else "0"


def headline(opening: str, pair: Comparison) -> str:
    """A setting's accuracies and gain in one sentence, with the gain's interval over draws."""
    untuned, tuned = (fraction_text(pair.rows[name]["accuracy"]) for name in ("untuned", "tuned"))
    unclear = "not significant, " if interval(pair) else "too few draws for an interval, "
    doubt = "" if is_clear(pair) else unclear
    number = split_number(pair.setting)[1]
    opening += f", k = {number}" if number else ""
    return (
        f"{opening}: accuracy {untuned} → {tuned}, {gain_text(pair.tuned, OVER_DRAWS)} points"
        f" ({doubt}n = {pair.tuned['n']})."
    )


def facts(provenance: dict[str, Any], training_log: dict[str, pl.DataFrame]) -> list[str]:
    """What was run, in a few words each: experiment, datasets, what each model was tuned on."""
    experiment, sets = provenance.get("experiment", {}), provenance.get("datasets", {})
    found = [f"experiment {experiment['name']}"] if "name" in experiment else []
    kinds = Counter(_kind(origin) for origin in sets.values())
    if kinds:
        found.append(f"data: {', '.join(_datasets(n, kind) for kind, n in kinds.items())}")
    for model, log in training_log.items():
        if "tokens" in log.columns and log["tokens"].count():
            tokens = log["tokens"].drop_nulls().to_list()[-1]
            found.append(f"{model} tuned on {tokens:,} tokens in {log['step'][-1]:,} steps")
    if "evaluation" in experiment:
        asked = experiment["evaluation"]
        found.append(
            f"{asked['queries']} queries per context or dataset, {asked['protocol']} exemplars"
        )
    return found


def _datasets(number: int, kind: str) -> str:
    return f"{number} {kind} dataset{'' if number == 1 else 's'}"


def _kind(origin: str) -> str:
    """Whether a dataset is generated, the user's own, or public."""
    source = origin.partition(";")[0]
    return {"generated": "generated", "own files": "own"}.get(source, "public")


def stand_ins(provenance: dict[str, Any]) -> dict[str, str]:
    """Of each model that was not tuned from the hub's weights: which ones it was tuned from."""
    bases = {model: of["base model"] for model, of in provenance.get("models", {}).items()}
    return {model: in_words(base) for model, base in bases.items() if base["source"] == "package"}


def draw(
    summary: pl.DataFrame,
    icl: pl.DataFrame,
    flipped: pl.DataFrame,
    alignment: pl.DataFrame,
    algorithmic: pl.DataFrame,
    scaling: pl.DataFrame,
    exemplars: pl.DataFrame,
    reliability: pl.DataFrame,
    training_log: dict[str, pl.DataFrame],
) -> Iterator[Figure]:
    """Every chart that the frames have rows for, kind by kind."""
    for model, rows in by_model(summary):
        yield figure("settings", model, plots.settings_chart(rows))
    for subject, rows in by_number(reliability):
        if len(headline_rows := rows.filter(setting=IN_CONTEXT[False, False])):
            yield figure("reliability", subject, reliability_chart(headline_rows))
    for subject, rows in by_number(flipped):
        if rows["flipped_percent"].n_unique() > 1:
            yield figure("flipped", subject, plots.flipped_chart(rows))
    for subject, rows in by_number(alignment):
        yield figure("alignment", subject, plots.alignment_chart(rows))
    for model, of_model in by_model(exemplars):
        for setting, rows in by_setting(of_model.filter(measure="accuracy")):
            yield figure("exemplars", f"{model}, {setting}", plots.exemplars_chart(rows))
    if several_models(scaling):
        for setting, rows in by_setting(scaling):
            yield figure("scaling", setting, plots.scaling_chart(rows))
    for subject, rows in by_number(icl):
        yield figure("gains", subject, plots.gains_chart(rows))
    for model, rows in by_model(algorithmic):
        yield figure("algorithmic", model, plots.category_chart(rows))
    for model in models(summary):
        log = training_log.get(model)
        if log is not None and not log.is_empty():
            yield figure("loss", model, plots.loss_chart(log))
            # A model that was tuned by an earlier version has no such column.
            if "symbol_accuracy" in log.columns and log["symbol_accuracy"].count():
                yield figure("symbols", model, plots.symbol_chart(log))


def figure(kind: str, subject: str, chart: Chart) -> Figure:
    """The chart under the name of its file."""
    # A model's name becomes part of a file name: anything but plain characters is replaced.
    name = f"{kind}-{re.sub(r'[^A-Za-z0-9.]+', '-', subject)}"
    return Figure(kind, subject, name, plots.legible(chart), plots.in_words(chart))


def by_model(mart: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Each model with its rows, small models first."""
    for model in models(mart) if not mart.is_empty() else []:
        yield model, mart.filter(pl.col("model") == model)


def by_number(mart: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Each model with its rows, or with those of each number of exemplars where several are asked."""
    number = pl.col("setting").str.extract(EXEMPLARS).cast(pl.Int64)
    for model, rows in by_model(mart):
        numbered = rows.with_columns(number=number).sort("number", maintain_order=True)
        without = numbered.with_columns(pl.col("setting").str.replace(EXEMPLARS, ""))
        for (asked,), alike in without.group_by("number", maintain_order=True):
            yield f"{model}, k = {asked}" if asked else model, alike.drop("number")


def by_setting(mart: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """What a reader calls each setting, with its rows, in reading order."""
    keys = ["benchmark", "setting"]
    for (benchmark, setting), rows in in_order(mart).group_by(keys, maintain_order=True):
        yield setting_label(str(benchmark), str(setting)), rows


def page_spec(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite for a page: as wide as its container, on its ground, with no address in it."""
    spec: dict[str, Any] = chart.to_dict()
    del spec["$schema"]
    fit = {"type": "fit-x", "contains": "padding"}
    return {**spec, "width": "container", "autosize": fit, "background": None}


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested provenance as (dotted name, text) pairs."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value))
    else:
        yield name, str(value)


def write(path: Path, content: bytes) -> None:
    """Write beside, then rename: a killed run leaves no half a file."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(content)
    os.replace(beside, path)
