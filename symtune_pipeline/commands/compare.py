"""`symtune compare`: the results of several experiments side by side, and what differs in their settings."""

from __future__ import annotations

import html
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import polars as pl
import typer
from rich.console import Console

from symtune_pipeline.commands.common import store_of
from symtune_pipeline.contract import Table
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.asked import are_to, questions
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.files import content_hash, write_text
from symtune_pipeline.report.compared import QUESTION, compared_html, print_compared
from symtune_pipeline.report.settings import Settings, differences, kept_settings
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import ALGORITHMIC_SUITE, CLASSIFICATION_SUITE, ZERO_SHOT

REPORT = "eval_report"  # which keeps the settings that made the results
EXAMPLES = "int_evaluation_examples"  # which the suite refers to
CLASSIFIED = {"eval_icl": "icl", "eval_flipped": "flipped"}  # the benchmark of each
SOLVED = "eval_algorithmic"
MOST_NAMED = 5  # settings, in a warning
# What tells the questions of a suite apart.
PLACE = ("benchmark", "setting", "flipped_percent", "dataset", "concept", "context", "query")
LEFT_OUT = ("name", "variants")  # of the settings that differ: every run has its own
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
td, th {{ padding: .2rem .6rem; text-align: left; overflow-wrap: anywhere }}</style>
<h1>{title}</h1><h2>Settings that differ</h2>{settings}<h2>Results</h2>
<p>Points and p: against {first}, on the questions in common.</p>{results}</html>
"""


@dataclass(frozen=True)
class Run:
    """A tuned model of an experiment: its name in the tables, what made it, where its answers are."""

    name: str
    settings: Settings
    store: Store
    variant: str


def compare(
    experiments: Annotated[
        list[str], typer.Argument(help="Two or more experiments: names in experiments/, or files.")
    ],
    model: Annotated[
        str | None, typer.Option(help="The model. Default: the first that all have.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write an HTML page to this file.")] = None,
) -> None:
    """Compare the results of experiments, and what differs in their settings.

    The others, each with all its variants, are tested against the first on the questions that both
    were asked.

    Example: symtune compare quickstart mine.yaml
    """
    loaded = {name: load_experiment(name) for name in experiments}
    stores = {name: store_of(experiment) for name, experiment in loaded.items()}
    if len({store.root for store in stores.values()}) < len(experiments) or len(experiments) < 2:
        raise UserError("Name two experiments or more, each with a name of its own.")
    key = model or _common_model(list(loaded.values()), list(stores.values()))
    runs = [run for name in experiments for run in _runs(name, loaded[name], stores[name])]
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise UserError(
                f"Two of what is compared are called '{name}', a variant being called after its"
                " experiment; set another `name` in one of the experiments."
            )
    if page and (page.is_dir() or not page.parent.is_dir()):
        raise UserError(f"--page {page} is no file in a folder that exists; choose another path.")
    settings = differences({run.name: run.settings for run in runs})
    differing = [(name, values) for name, values in settings if name.split(".")[0] not in LEFT_OUT]
    answers = {run.name: answers_of(run, key) for run in runs}
    _print(differing, answers, [run.name for run in runs])
    if page:
        write_text(page, _page(differing, answers, [run.name for run in runs]))
        typer.echo(f"Page: {page}")


def _runs(file: str, experiment: Experiment, store: Store) -> Iterator[Run]:
    """What an experiment has tuned, with the settings of that time; warns where its file has others now."""
    kept = kept_settings(store.folder(REPORT))
    now = experiment.model_dump(mode="json")
    changed = [name for name, _ in differences({"kept": kept["tuned"], "now": now})]
    if changed:
        more = f" and {len(changed) - MOST_NAMED:,} more" if len(changed) > MOST_NAMED else ""
        typer.echo(
            f"warning: {file} has other settings now than when its results were made"
            f" ({', '.join(changed[:MOST_NAMED])}{more}); run it again to compare those of now.",
            err=True,
        )
    for variant, settings in kept.items():
        yield Run(settings["name"], settings, store, variant)


def _common_model(experiments: Sequence[Experiment], stores: Sequence[Store]) -> str:
    """The first model that every experiment was evaluated with."""
    evaluated = [set(store.partitions("eval_icl")) for store in stores]
    common = [key for key in experiments[0].models if all(key in keys for keys in evaluated)]
    if not common:
        names = ", ".join(experiment.name for experiment in experiments)
        raise UserError(
            f"No model was evaluated in all of {names}; run `symtune run --model <model>` for the same"
            " model in each."
        )
    return common[0]


def answers_of(run: Run, model: str) -> pl.DataFrame:
    """A row for each question: `QUESTION`, where it stands, and whether the answer was right."""
    classified = [
        _answers(run, asset, CLASSIFICATION_SUITE, model).with_columns(benchmark=pl.lit(benchmark))
        for asset, benchmark in CLASSIFIED.items()
    ]
    solved = _answers(run, SOLVED, ALGORITHMIC_SUITE, model)
    examples = run.store.input_of(
        CLASSIFICATION_SUITE.asset, EXAMPLES
    ).version  # which the suite refers to
    found = pl.concat(
        [
            _asked(run, CLASSIFICATION_SUITE, pl.concat(classified, how="diagonal"), examples),
            _asked(run, ALGORITHMIC_SUITE, solved, "").rename({"concept": "dataset"}),
        ]
    )
    if found.is_empty():
        raise UserError(
            f"'{run.name}' has no answers of its variant '{run.variant}'; evaluate it again."
        )
    return found


def _answers(run: Run, asset: str, suite: Table, model: str) -> pl.DataFrame:
    """What a run's variant has answered; raises UserError where that was another suite."""
    answers = run.store.read_table(asset, model)
    if not are_to(run.store.folder(asset, model), questions(run.store, suite, EXAMPLES)):
        raise UserError(
            f"The answers of '{run.name}' are to other questions than those of its suites now; evaluate it"
            f" again with `symtune run --model {quote(model)}`."
        )
    return answers.filter(pl.col("variant") == run.variant, pl.col("setting") != ZERO_SHOT)


def _asked(run: Run, suite: Table, answers: pl.DataFrame, examples: str) -> pl.DataFrame:
    """The answers with the questions of a suite; equal ones have equal hashes, whoever asked."""
    table = run.store.read_table(suite.asset, name=suite.file)
    hashes = [content_hash([examples, *row]) for row in table.iter_rows()]
    where = [name for name in PLACE if name in table.columns and name in answers.columns]
    asked = table.with_columns(question=pl.Series(hashes, dtype=pl.String))
    joined = answers.join(asked.select(*where, QUESTION), on=where, nulls_equal=True)
    of_what = "dataset" if "dataset" in where else "concept"
    return joined.select("benchmark", "setting", of_what, "context", QUESTION, "correct")


def _print(
    differing: Sequence[tuple[str, Sequence[str]]],
    answers: Mapping[str, pl.DataFrame],
    names: Sequence[str],
) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print("Settings that differ", style="bold")
    for setting, values in differing:
        console.print(f"  {setting}", markup=False, highlight=False)
        for name, value in zip(names, values, strict=True):
            console.print(f"    {name}: {value}", markup=False, highlight=False)
    print_compared(console, answers)


def _page(
    differing: Sequence[tuple[str, Sequence[str]]],
    answers: Mapping[str, pl.DataFrame],
    names: Sequence[str],
) -> str:
    def cells(tag: str, texts: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    rows = "".join(cells("td", [setting, *values]) for setting, values in differing)
    return PAGE.format(
        title=html.escape(" and ".join(names)),
        settings=f"<table>{cells('th', ['setting', *names])}{rows}</table>",
        first=html.escape(names[0]),
        results=compared_html(answers),
    )
