"""`symtune plan`: estimates what a fine-tune needs, before it costs money."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from symtune_pipeline.catalog.gpus import find_gpu
from symtune_pipeline.catalog.models import Model, all_models, find_model
from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.commands.plan_tables import details, markdown
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import PACKED_MIXTURE
from symtune_pipeline.tuning.plan import Workload, estimated_workload, make_plan, packed_workload


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
    """Estimate memory, time and price of a fine-tune on this experiment's mixture.

    Options that you leave out have the values of the model's entry in the catalogue.

    Example: symtune plan --model olmo2-7b --gpus 8 --gpu h100
    """
    if gpu:
        find_gpu(gpu)  # before anything that takes time
    store, experiment = current_store(), current_experiment()
    if every:
        plans = [
            make_plan(experiment, one, workload(store, experiment, one))
            for one in all_models().values()
        ]
        typer.echo(markdown(plans))
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
    Console(highlight=False).print(details(needs, experiment.name), soft_wrap=True)


def workload(store: Store, experiment: Experiment, model: Model) -> Workload:
    """The mixture as packed for this model, or else for another one, or else estimated."""
    packed = store.partitions(PACKED_MIXTURE.asset)
    if not packed:
        return estimated_workload(
            experiment, "estimated; materialise packed_mixture for the exact number"
        )
    key = model.key if model.key in packed else packed[0]
    return packed_workload(
        store.folder(PACKED_MIXTURE.asset, key) / PACKED_MIXTURE.file, key, experiment.tuning.loss
    )
