"""The symbol pool."""

from pathlib import Path

import dagster as dg

from assets.common import code_version, schema_check, schema_result, user_errors
from resources.store import Metadata, StoreResource
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.prompts.symbols import in_both_splits
from symtune_pipeline.prompts.symbols import symbol_pool as make_pool
from symtune_pipeline.tables import checked


def symbol_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The asset `symbol_pool`."""

    @dg.asset(
        description="About 295,000 arbitrary symbols: integers, letter combinations and words, each"
        " for tuning or for evaluation, never both, and none that is a label of a dataset.",
        group_name="mixture",
        kinds={"parquet"},
        code_version=code_version(
            experiment,
            ("data", "symbols"),
            *("symbols.py", "catalog/datasets.yaml", "sources/generated_sets.yaml"),
        ),
        check_specs=[
            schema_check("symbol_pool"),
            dg.AssetCheckSpec(
                "symbols_disjoint",
                asset="symbol_pool",
                description="No symbol is for tuning and for evaluation, whatever its case.",
                blocking=True,
            ),
        ],
    )
    def symbol_pool(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> dg.MaterializeResult:
        def build(folder: Path) -> Metadata:
            labels = [label for entry in experiment.datasets() for label in entry.labels.values()]
            pool = checked(make_pool(experiment.symbols, labels), "symbol_pool")
            pool.write_parquet(folder / TABLE)
            counts = pool.group_by("category", "split").len().sort("category", "split")
            return {"symbols": dg.MetadataValue.md(_markdown(counts.rows()))}

        with user_errors():
            result = store.make(context, build)
            shared = in_both_splits(store.store.read_table("symbol_pool"))
        disjoint = dg.AssetCheckResult(
            check_name="symbols_disjoint",
            passed=not shared,
            description=f"Symbols in both splits: {', '.join(shared[:5]) or 'none'}.",
            metadata={"symbols": len(shared)},
        )
        schema = schema_result(store, "symbol_pool", "symbol_pool")
        return result._replace(check_results=[schema, disjoint])

    return [symbol_pool]


def _markdown(rows: list[tuple[str, str, int]]) -> str:
    lines = ["| category | split | symbols |", "| --- | --- | ---: |"]
    return "\n".join(
        lines + [f"| {category} | {split} | {count:,} |" for category, split, count in rows]
    )
