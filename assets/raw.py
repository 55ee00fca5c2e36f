"""Raw datasets in the normal form: one step, one node of lineage per dataset."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl

from assets.common import code_version, schema_check, schema_result, user_errors
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog.datasets import Dataset, find_dataset
from symtune_pipeline.environment import mirror_folder
from symtune_pipeline.errors import MissingData, UserError, all_missing
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.sources.load import files_version, load_examples, public_source
from symtune_pipeline.sources.normal import empty_inputs, no_examples
from symtune_pipeline.tables import checked


def raw_key(dataset: Dataset) -> str:
    """The asset that holds a dataset."""
    return f"raw_{dataset.key}"


def raw_assets(experiment: Experiment) -> dg.AssetsDefinition:
    """All datasets of the experiment; any subset can be materialised on its own."""
    datasets = {raw_key(entry): entry for entry in experiment.datasets()}
    files = ["sources/load.py", "sources/normal.py", "catalog/datasets.yaml"]
    if experiment.data.source == "generated":
        files += ["sources/generated.py", "sources/generated_sets.yaml"]
    if experiment.data.own:
        files += ["sources/own.py"]
    version = code_version(experiment, ("data",), *files)

    @dg.multi_asset(
        name="raw",
        can_subset=True,
        specs=[
            dg.AssetSpec(
                key,
                description=f"{entry.task_type.capitalize()}, for {entry.role}: {entry.instruction}",
                group_name="raw",
                kinds={"parquet"},
                code_version=version,
                skippable=True,
                tags={"role": entry.role},
            )
            for key, entry in datasets.items()
        ],
        check_specs=[schema_check(key) for key in datasets],
    )
    def raw(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> Iterator[dg.MaterializeResult]:
        chosen = {
            key: dataset
            for key, dataset in datasets.items()
            if dg.AssetKey(key) in context.selected_asset_keys
        }
        missing: dict[str, MissingData] = {}
        with user_errors():
            source = public_source(mirror_folder() if experiment.data.source == "hub" else None)
        for key, dataset in chosen.items():

            def build(folder: Path, dataset: Dataset = dataset) -> Metadata:
                table = load_examples(dataset, experiment, source)
                warning = empty_inputs(table, f"Dataset '{dataset.key}'")
                if warning:
                    context.log.warning(warning)
                checked(table, "raw_examples").write_parquet(folder / TABLE)
                return {"classes": dg.MetadataValue.json(_counts(table))}

            with user_errors():
                version = files_version(dataset, source)
                try:
                    result = store.make(context, build, key=dg.AssetKey(key), sources=version)
                except MissingData as error:
                    missing[dataset.key] = error
                    continue
            yield _with_check(result, store, key)
        if missing:
            with user_errors():
                context.log.warning(_left_out(missing, len(chosen), experiment))
        for name in missing:
            # Its sources differ from those of a set that was had, so that the next run tries again.
            key = raw_key(find_dataset(name))
            result = store.make(context, _leave_out, key=dg.AssetKey(key), sources="left out")
            yield _with_check(result, store, key)

    return raw


def _with_check(
    result: dg.MaterializeResult, store: StoreResource, key: str
) -> dg.MaterializeResult:
    return result._replace(check_results=[schema_result(store, key, "raw_examples")])


def _left_out(missing: dict[str, MissingData], chosen: int, experiment: Experiment) -> str:
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


def _leave_out(folder: Path) -> None:
    no_examples().write_parquet(folder / TABLE)


def _counts(table: pl.DataFrame) -> dict[str, int]:
    return dict(table.group_by("label").len().sort("label").iter_rows())
