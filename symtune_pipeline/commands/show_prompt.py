"""`symtune show prompt`: prints a prompt with its labels marked, and the class of each label.

Prompts of the tuning mixture and of the evaluation suites are brought into one form, a table with
the columns setting, format, instruction, examples (the query last), targets and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import polars as pl
import typer
from rich.console import Console, Group
from rich.text import Text

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.formats import prompt_formats
from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.mixture import class_pools
from symtune_pipeline.prompts.text import Role, segments
from symtune_pipeline.tables import CLASSIFICATION_SUITE, SETTINGS

QUIET = "dim"
SETTING_OF = {(setting.relevant, setting.instructed): setting.name for setting in SETTINGS}


def prompt(
    dataset: Annotated[str, typer.Option(help="A dataset of the experiment.")],
    setting: Annotated[
        str | None,
        typer.Option(help='For example "symbols, no instruction". Default: any setting.'),
    ] = None,
    number: Annotated[int, typer.Option(help="Number of the prompt, from 0.")] = 0,
) -> None:
    """Print a prompt with its symbols and target marked.

    Prompts of a tuning dataset come from tuning_mixture, those of an evaluation dataset from eval.

    Example: symtune show prompt --dataset hotel_reviews --number 3
    """
    entry = current_experiment().dataset(dataset)
    store = current_store()
    if entry.role == "tuning" and current_experiment().mixture.source == "tasksource":
        raise UserError(
            f"Dataset '{dataset}' is in no prompt: those of the mixture are tasksource's, which"
            " `symtune show table tuning_mixture` prints."
        )
    if entry.role == "tuning":
        mixture = store.read_table("tuning_mixture")
        examples = store.read_input("tuning_mixture", "int_tuning_examples")
        prompts = tuning_prompts(mixture, examples, entry)
    else:
        suite = store.read_table("eval", name=CLASSIFICATION_SUITE.file)
        examples = store.read_input("eval", "int_evaluation_examples")
        prompts = evaluation_prompts(suite, entry)
    console = Console(highlight=False)
    colour = console.is_terminal and not console.no_color
    console.print(printed(prompts, examples, entry, setting, number, colour), soft_wrap=True)


def tuning_prompts(mixture: pl.DataFrame, examples: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """The prompts of a tuning set; their settings are named as those of the evaluation."""
    natural = pl.col("labels") == pl.lit(class_names(examples, dataset), dtype=pl.List(pl.String))
    return mixture.filter(dataset=dataset.key).select(
        pl.when("instructed")
        .then(pl.lit(SETTING_OF[True, True]))
        .when(natural)
        .then(pl.lit(SETTING_OF[True, False]))
        .otherwise(pl.lit(SETTING_OF[False, False]))
        .alias("setting"),
        "format",
        pl.when("instructed").then(pl.lit(dataset.instruction)).alias("instruction"),
        *("examples", "targets", "labels"),
    )


def evaluation_prompts(suite: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """The prompts of an evaluation set."""
    return suite.filter(dataset=dataset.key).select(
        *("setting", "format", "instruction", "labels"),
        pl.concat_list("exemplars", "query").alias("examples"),
        pl.concat_list("exemplar_targets", "target").alias("targets"),
    )


def class_names(examples: pl.DataFrame, dataset: Dataset) -> list[str]:
    """The natural labels of the classes that prompts of a dataset number from 0."""
    pools = class_pools(examples.filter(dataset=dataset.key))
    return list(pools[0].labels) if pools else []


def printed(
    prompts: pl.DataFrame,
    examples: pl.DataFrame,
    dataset: Dataset,
    setting: str | None,
    number: int,
    colour: bool,
) -> Group:
    """Prompt `number` from 0 among those of a setting (None: of any), ready to print.

    Without `colour`, brackets mark the labels, double ones the target. Raises UserError for a
    dataset without prompts and for a setting or a number that is not there.
    """
    if prompts.is_empty():
        raise UserError(
            f"Dataset '{dataset.key}' is in no prompt that was made; raise mixture.prompts or choose"
            " another dataset."
        )
    settings = prompts["setting"].unique(maintain_order=True).to_list()
    if setting is not None and setting not in settings:
        raise UserError(
            f"Dataset '{dataset.key}' has no prompt of setting '{setting}'; choose one of"
            f" {'; '.join(settings)}."
        )
    of_setting = prompts if setting is None else prompts.filter(setting=setting)
    if not 0 <= number < len(of_setting):
        raise UserError(
            f"There is no prompt {number} of dataset '{dataset.key}'; choose a number from 0 to"
            f" {len(of_setting) - 1}."
        )
    row = of_setting.row(number, named=True)
    inputs = dict(examples.select("example", "input").iter_rows())
    names = class_names(examples, dataset)
    return Group(
        Text(f"{dataset.key}, prompt {number:,} of {len(of_setting):,}", style="bold"),
        Text(f"{row['setting']}; format {prompt_formats()[row['format']].name}", style=QUIET),
        *_legend(names, row["labels"], colour),
        Text(),
        _marked(row, [inputs[example] for example in row["examples"]], colour),
    )


def _legend(names: Sequence[str], labels: Sequence[str], colour: bool) -> list[Text]:
    width = max(map(len, names))
    return [
        Text.assemble(f"  {name:<{width}} → ", _mark(label, False, colour))
        for name, label in zip(names, labels, strict=True)
    ]


def _marked(row: dict[str, Any], inputs: Sequence[str], colour: bool) -> Text:
    labels = [row["labels"][target] for target in row["targets"]]
    text = Text()
    for segment in segments(row["format"], inputs, labels, row["instruction"]):
        if segment.role is Role.LABEL:
            label = labels[segment.example]
            text.append(segment.text.removesuffix(label))
            text.append_text(_mark(label, segment.example == len(labels) - 1, colour))
        else:
            text.append(segment.text, "" if segment.role is Role.INPUT else QUIET)
    return text


def _mark(label: str, target: bool, colour: bool) -> Text:
    if colour:
        return Text(label, "bold black on green" if target else "bold cyan")
    return Text(f"[[{label}]]" if target else f"[{label}]")
