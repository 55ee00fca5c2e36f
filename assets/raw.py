"""Raw datasets in the normal form: one step, one node of lineage per dataset."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import dagster as dg

from assets.step import Step, contract, function_reference, user_errors
from assets.versions import code_version
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.environment import mirror_folder
from symtune_pipeline.errors import MissingData, UserError, all_missing
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.sources.load import files_version, load_examples, public_source
from symtune_pipeline.sources.normal import empty_inputs, no_examples
from symtune_pipeline.sources.source import Source
from symtune_pipeline.tables import RAW_EXAMPLES

GROUP = "raw"
LEFT_OUT = "left out"  # differs from what a set is made from, so that the next run tries again


def raw_key(dataset: Dataset) -> str:
    """The asset that holds a dataset."""
    return f"raw_{dataset.key}"


def raw_assets(experiment: Experiment) -> dg.AssetsDefinition:
    """All datasets of the experiment; any subset can be materialised on its own."""
    datasets = {raw_key(entry): entry for entry in experiment.datasets()}

    @dg.multi_asset(
        name="raw",
        can_subset=True,
        specs=[_spec(entry, experiment) for entry in datasets.values()],
        check_specs=[contract(RAW_EXAMPLES, key).spec(key, None) for key in datasets],
    )
    def raw(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> Iterator[dg.MaterializeResult]:
        asked = {key.to_user_string() for key in context.selected_asset_keys}
        chosen = {key: entry for key, entry in datasets.items() if key in asked}
        yield from _load_all(Step(context, store, experiment), chosen)

    return raw


def _spec(dataset: Dataset, experiment: Experiment) -> dg.AssetSpec:
    """The asset of a dataset; its content depends on where its examples come from."""
    sizes = (experiment.seed, experiment.data.train_rows, experiment.data.test_rows)
    own = ["own"] if dataset.key in experiment.data.own else []
    hub = ["hub"] if dataset.hub else []  # a mirror holds the same
    modules, settings = ([*own, *hub], None) if own or hub else (["generated"], sizes)
    code = [f"symtune_pipeline.sources.{name}" for name in (*modules, "normal")]
    return dg.AssetSpec(
        raw_key(dataset),
        description=f"{dataset.task_type.capitalize()}, for {dataset.role}: {dataset.instruction}",
        group_name=GROUP,
        kinds={"parquet"},
        code_version=code_version(code, (dataset, settings)),
        skippable=True,
        metadata={"dagster/code_references": function_reference(_load)},
        tags={"role": dataset.role},
    )


def _load_all(step: Step, chosen: Mapping[str, Dataset]) -> Iterator[dg.MaterializeResult]:
    """Load every set that can be had; the others are left out where the experiment allows it."""
    missing: dict[str, MissingData] = {}
    with user_errors():
        public = any(dataset.hub for dataset in chosen.values())
        source = public_source(mirror_folder() if public else None)
    for key, dataset in chosen.items():
        with user_errors():
            try:
                loaded = _make(
                    step, key, partial(_load, step, dataset, source), files_version(dataset, source)
                )
            except MissingData as error:
                missing[dataset.key] = error
                continue
        yield loaded
    if missing:
        with user_errors():
            step.warn(_left_out(missing, len(chosen), step.experiment))
    for key, dataset in chosen.items():
        if dataset.key in missing:
            with user_errors():
                empty = _make(step, key, _leave_out, LEFT_OUT)
            yield empty


def _make(
    step: Step, key: str, build: Callable[[Path], Metadata | None], sources: object
) -> dg.MaterializeResult:
    """One set's artifact, with the verdict on its contract."""
    made = step.resource.make(
        step.context,
        build,
        key=dg.AssetKey(key),
        columns=RAW_EXAMPLES.descriptions,
        sources=sources,
    )
    return made._replace(check_results=[contract(RAW_EXAMPLES, key).result(step, key)])


def _load(step: Step, dataset: Dataset, source: Source, folder: Path) -> Metadata:
    table = load_examples(dataset, step.experiment, source, step.say)
    warning = empty_inputs(table, f"Dataset '{dataset.key}'")
    if warning:
        step.warn(warning)
    RAW_EXAMPLES.write(table, folder)
    counts = table.group_by("label").len().sort("label")
    return {"classes": dg.MetadataValue.json(dict(counts.iter_rows()))}


def _leave_out(folder: Path) -> None:
    RAW_EXAMPLES.write(no_examples(), folder)


def _left_out(missing: Mapping[str, MissingData], chosen: int, experiment: Experiment) -> str:
    """The sentence about sets that cannot be had; raises it where they may not be left out."""
    sentence = all_missing(missing, chosen)
    if experiment.data.missing == "error":
        raise UserError(
            f"{sentence}; to go on without them set data.missing to leave_out, or name the others in"
            " data.datasets."
        )
    if len(missing) == chosen:
        raise UserError(f"{sentence}; none is left.")
    return f"{sentence}; they are left out."
