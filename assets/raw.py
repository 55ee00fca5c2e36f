"""Raw datasets in the normal form: one step, one node of lineage per dataset."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl

from assets.common import code_version, user_errors
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog import Dataset
from symtune_pipeline.experiment import Experiment, mirror_folder
from symtune_pipeline.schemas import checked
from symtune_pipeline.sources.load import load_examples
from symtune_pipeline.sources.normal import empty_inputs
from symtune_pipeline.storage import TABLE


def raw_key(dataset: Dataset) -> str:
    """The asset that holds a dataset."""
    return f"raw_{dataset.key}"


def raw_assets(experiment: Experiment) -> dg.AssetsDefinition:
    """All datasets of the experiment; any subset can be materialised on its own."""
    datasets = {raw_key(entry): entry for entry in experiment.datasets()}
    files = ["sources/load.py", "sources/normal.py", "catalog/datasets.yaml"]
    if experiment.data.source == "generated":
        files += ["sources/generated.py", "sources/generated_sets.yaml"]
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
    )
    def raw(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> Iterator[dg.MaterializeResult]:
        for key, dataset in datasets.items():
            if dg.AssetKey(key) not in context.selected_asset_keys:
                continue

            def build(folder: Path, dataset: Dataset = dataset) -> Metadata:
                table = load_examples(dataset, experiment, mirror_folder())
                warning = empty_inputs(table, f"Dataset '{dataset.key}'")
                if warning:
                    context.log.warning(warning)
                checked(table, "raw_examples").write_parquet(folder / TABLE)
                return {"classes": dg.MetadataValue.json(_counts(table))}

            with user_errors():
                result = store.make(context, build, key=dg.AssetKey(key))
            yield result

    return raw


def _counts(table: pl.DataFrame) -> dict[str, int]:
    return dict(table.group_by("label").len().sort("label").iter_rows())
