"""`symtune plan`: estimates what a fine-tune and an evaluation need, before they cost money."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console, Group

from symtune_pipeline.catalog.gpus import find_gpu
from symtune_pipeline.catalog.models import Model, all_models, find_model
from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.commands.plan_evaluation import evaluation_details, evaluation_markdown
from symtune_pipeline.commands.plan_tables import details, markdown
from symtune_pipeline.contract import Table
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.plan import plan_evaluation
from symtune_pipeline.evaluation.questions import Questions, counted, estimated
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import (
    ALGORITHMIC_SUITE,
    CLASSIFICATION_SUITE,
    LANGUAGE_SUITE,
    PACKED_MIXTURE,
    Suite,
)
from symtune_pipeline.tuning.plan import make_plan
from symtune_pipeline.tuning.workload import Workload, estimated_workload, packed_workload

BASE, EXAMPLES = "base_model", "int_evaluation_examples"
ESTIMATED = f"estimated: materialise {CLASSIFICATION_SUITE.asset} and {BASE} to know"


def plan(
    model: Annotated[str | None, typer.Option(help="A model of the catalogue.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Kind of GPU: l4, a100, h100, h200, b200, or cpu.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Number of GPUs.")] = None,
    lora: Annotated[
        bool | None, typer.Option("--lora/--full", help="Tune adapters, or all weights.")
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--activation-checkpointing/--no-activation-checkpointing",
            help="Compute activations twice to save memory.",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Plan every model of the catalogue, as a Markdown table.")
    ] = False,
) -> None:
    """Estimate memory, time and price of the fine-tune and the evaluation of this experiment.

    Options that you leave out have the values of the model's entry in the catalogue.

    Example: symtune plan --experiment paper --model olmo2-7b --gpus 8 --gpu h100
    """
    if gpu:
        find_gpu(gpu)  # before anything that takes time
    store, experiment = current_store(), current_experiment()
    if every:
        models = all_models().values()
        tuning = [make_plan(experiment, one, workload(store, experiment, one)) for one in models]
        answering = [
            plan_evaluation(experiment, one, questions(store, experiment, one)) for one in models
        ]
        typer.echo(f"{markdown(tuning)}\n\n{evaluation_markdown(answering)}")
        return
    if model is None:
        raise UserError("Name a model with --model, or plan every one with --all.")
    entry = find_model(model)
    needs = make_plan(
        experiment,
        entry,
        workload(store, experiment, entry),
        gpu=gpu,
        gpus=gpus,
        lora=lora,
        activation_checkpointing=checkpointing,
    )
    asked = questions(store, experiment, entry)
    answers = plan_evaluation(experiment, entry, asked, gpu=gpu, gpus=gpus)
    both = Group(details(needs, experiment.name), "", evaluation_details(answers))
    Console(highlight=False).print(both, soft_wrap=True)


def workload(store: Store, experiment: Experiment, model: Model) -> Workload:
    """The mixture as packed for this model, or else for another one, or else estimated."""
    packed = store.partitions(PACKED_MIXTURE.asset)
    if not packed and experiment.mixture.source == "tasksource":
        raise UserError(
            "The tokens of tasksource's prompts are known once they are packed; materialise packed_mixture"
            " first."
        )
    if not packed:
        source = "estimated; materialise packed_mixture for the exact number"
        return estimated_workload(experiment, source, _lengths(store, experiment))
    key = model.key if model.key in packed else packed[0]
    return packed_workload(
        store.folder(PACKED_MIXTURE.asset, key) / PACKED_MIXTURE.file, key, experiment.tuning.loss
    )


def _lengths(store: Store, experiment: Experiment) -> dict[str, float]:
    """The mean characters of the inputs of the sets that have been loaded."""
    found: dict[str, float] = {}
    for entry in experiment.datasets():
        asset = f"raw_{entry.key}"
        if (entry.hub or entry.files) and store.find(asset):
            mean = store.read_table(asset)["input"].str.len_chars().mean()
            found |= {entry.key: mean} if isinstance(mean, float) else {}
    return found


def questions(store: Store, experiment: Experiment, model: Model) -> Questions:
    """The suites as this model reads them, or estimated where they or its tokenizer are not there."""
    suites: dict[Suite, Table] = {
        "classification": CLASSIFICATION_SUITE,
        "algorithmic": ALGORITHMIC_SUITE,
        "language": LANGUAGE_SUITE,
    }
    if model.key not in store.partitions(BASE) or not all(
        store.find(key) for key in (EXAMPLES, *{table.asset for table in suites.values()})
    ):
        return estimated(experiment, ESTIMATED, _lengths(store, experiment))
    # The tokenizer alone: the weights beside it may be large.
    weights = store.location(BASE, model.key, store.manifest(BASE, model.key))
    if not (weights / "tokenizer.json").is_file():
        return estimated(experiment, ESTIMATED, _lengths(store, experiment))
    tables = {
        suite: store.read_table(table.asset, name=table.file) for suite, table in suites.items()
    }
    inputs = store.read_input(CLASSIFICATION_SUITE.asset, EXAMPLES).sort("example")["input"]
    return counted(weights, tables, inputs.to_list(), model.context_tokens, experiment.evaluation)
