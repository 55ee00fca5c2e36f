"""`symtune compare`: the results of several experiments side by side, and what differs in their settings."""

from __future__ import annotations

import html
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.console import Console

from symtune_pipeline.commands.common import store_of
from symtune_pipeline.contract import Table
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.files import content_hash, write_text
from symtune_pipeline.report.compared import QUESTION, compared_html, print_compared
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import ALGORITHMIC_SUITE, CLASSIFICATION_SUITE, ZERO_SHOT

SUITES = "eval"
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
    """A tuned model of an experiment: its name in the tables, its settings, where its answers are."""

    name: str
    experiment: Experiment
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
    runs = [run for name in experiments for run in _runs(load_experiment(name))]
    if len({run.store.root for run in runs}) < len(experiments) or len(experiments) < 2:
        raise UserError("Name two experiments or more, each with a name of its own.")
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise UserError(
                f"Two of what is compared are called '{name}', a variant being called after its"
                " experiment; set another `name` in one of the experiments."
            )
    if page and (page.is_dir() or not page.parent.is_dir()):
        raise UserError(f"--page {page} is no file in a folder that exists; choose another path.")
    key = model or _common_model(runs)
    differing = list(differences({run.name: run.experiment for run in runs}))
    answers = {run.name: answers_of(run, key) for run in runs}
    _print(differing, answers, [run.name for run in runs])
    if page:
        write_text(page, _page(differing, answers, [run.name for run in runs]))
        typer.echo(f"Page: {page}")


def _runs(experiment: Experiment) -> Iterator[Run]:
    store = store_of(experiment)
    yield Run(experiment.name, experiment, store, "tuned")
    for variant in experiment.variants:
        changed = experiment.variant(variant)
        yield Run(changed.name, changed, store, variant)


def _common_model(runs: Sequence[Run]) -> str:
    """The first model that every run was evaluated with."""
    evaluated = [set(run.store.partitions("eval_icl")) for run in runs]
    common = [key for key in runs[0].experiment.models if all(key in keys for keys in evaluated)]
    if not common:
        names = ", ".join(dict.fromkeys(run.experiment.name for run in runs))
        raise UserError(
            f"No model was evaluated in all of {names}; run `symtune run --select 'eval*' --model"
            " <model>` for the same model in each."
        )
    return common[0]


def differences(
    experiments: Mapping[str, Experiment],
) -> Iterator[tuple[str, list[str]]]:
    """The settings that differ, each with its value in every experiment."""
    flat = {name: dict(_flat(of.model_dump(mode="json"))) for name, of in experiments.items()}
    for setting in dict.fromkeys(setting for settings in flat.values() for setting in settings):
        values = [_text(settings.get(setting)) for settings in flat.values()]
        if len(set(values)) > 1 and setting.split(".")[0] not in LEFT_OUT:
            yield setting, values


def _text(value: Any) -> str:
    return "not set" if value is None else str(value)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def answers_of(run: Run, model: str) -> pl.DataFrame:
    """A row for each question: `QUESTION`, where it stands, and whether the answer was right."""
    classified = [
        run.store.read_table(asset, model).with_columns(benchmark=pl.lit(benchmark))
        for asset, benchmark in (("eval_icl", "icl"), ("eval_flipped", "flipped"))
    ]
    solved = run.store.read_table("eval_algorithmic", model)
    examples = run.store.input_of(
        SUITES, "int_evaluation_examples"
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


def _asked(run: Run, suite: Table, answers: pl.DataFrame, examples: str) -> pl.DataFrame:
    """The answers of a run's variant to a suite; equal questions have equal hashes, whoever asked."""
    table = run.store.read_table(SUITES, name=suite.file)
    hashes = [content_hash([examples, *row]) for row in table.iter_rows()]
    where = [name for name in PLACE if name in table.columns and name in answers.columns]
    asked = table.with_columns(question=pl.Series(hashes, dtype=pl.String))
    own = answers.filter(pl.col("variant") == run.variant, pl.col("setting") != ZERO_SHOT)
    if not _are_to(own, asked, where):
        raise UserError(
            f"The answers of '{run.name}' are to other questions than those of its settings now; evaluate it"
            " again with `symtune run --select 'eval*'`."
        )
    joined = own.join(asked.select(*where, QUESTION), on=where, nulls_equal=True)
    of_what = "dataset" if "dataset" in where else "concept"
    return joined.select("benchmark", "setting", of_what, "context", QUESTION, "correct")


def _are_to(answers: pl.DataFrame, suite: pl.DataFrame, where: Sequence[str]) -> bool:
    """Whether all answers are to questions of the suite: one made anew has other labels or targets."""
    if "labels" in answers.columns:
        labels = pl.col("labels").list.join("\0")
        answers, suite = answers.with_columns(labels), suite.with_columns(labels)
    same = [*where, *(name for name in ("labels", "target") if name in answers.columns)]
    return answers.join(suite, on=same, how="anti", nulls_equal=True).is_empty()


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
