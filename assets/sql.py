"""One asset per SQL model; its dependencies and its checks come from the SQL and schema.yml."""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import polars as pl

from assets.common import code_version, user_errors
from assets.raw import raw_key
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog.models import all_models
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.sql.engine import run_model, run_tests
from symtune_pipeline.sql.model import SqlModel, column_lineage, load_models
from symtune_pipeline.tables import CATALOG_DATASETS, CATALOG_MODELS, SOURCES

MODELS_FOLDER = Path(__file__).resolve().parent.parent / "dbt_like_sql"
GROUPS = {"staging": "examples", "intermediate": "examples", "marts": "marts"}
BLOCKING = "int_contamination"
SCREEN = 40  # rows
# What SQL reads of the catalogue: the file behind each table.
CATALOG = {"catalog_datasets": "catalog/datasets.yaml", "catalog_models": "catalog/models.yaml"}


def sql_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The assets stg_..., int_... and mart_...."""
    return [_sql_asset(model, experiment) for model in load_models(MODELS_FOLDER, SOURCES).values()]


def _sql_asset(model: SqlModel, experiment: Experiment) -> dg.AssetsDefinition:
    version = code_version(
        experiment,
        ("data",),
        *("warehouse.py", "statistics.py"),
        *(CATALOG[name] for name in model.depends_on if name in CATALOG),
        f"../dbt_like_sql/{model.path.relative_to(MODELS_FOLDER)}",
    )

    @dg.asset(
        name=model.name,
        description=f"{model.description}\n\n```sql\n{model.sql}\n```",
        deps=[key for name in model.depends_on for key in _asset_keys(name, experiment)],
        group_name=GROUPS[model.layer],
        kinds={"duckdb", "sql"},
        code_version=version,
        metadata={
            "dagster/code_references": dg.CodeReferencesMetadataValue(
                code_references=[
                    dg.LocalFileCodeReference(file_path=str(model.path), line_number=1, label="SQL")
                ]
            )
        },
        check_specs=[
            dg.AssetCheckSpec(
                str(claim),
                asset=model.name,
                description=claim.sentence,
                blocking=model.name == BLOCKING,
            )
            for claim in model.tests
        ],
    )
    def sql_model(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        tables = _tables(model, experiment, store)

        def build(folder: Path) -> Metadata:
            variables = {
                "cap": experiment.data.cap,
                "seed": experiment.seed,
                "labels": experiment.mixture.labels,
            }
            run_model(model, tables, variables, folder / TABLE)
            return {}

        with user_errors():
            result = store.make(context, build, columns=model.columns)
            path = store.store.folder(model.name) / TABLE
            tested = run_tests(model, tables, path)
        passed = sum(found.passed for found in tested)
        context.log.info(f"{model.name}: {passed} of {len(tested)} tests hold")
        checks = [
            dg.AssetCheckResult(
                check_name=str(found.test),
                passed=found.passed,
                description=found.message,
                metadata={"failing rows": found.failures},
            )
            for found in tested
        ]
        shown = {
            "dagster/column_lineage": _lineage(model, experiment),
            "preview": dg.MetadataValue.md(_preview(path)),
        }
        return result._replace(metadata={**(result.metadata or {}), **shown}, check_results=checks)

    return sql_model


def _asset_keys(table: str, experiment: Experiment) -> list[str]:
    """The assets behind a table that the SQL names; the catalogue is none."""
    if table == "raw_examples":
        return [raw_key(entry) for entry in experiment.datasets()]
    return [] if table in CATALOG else [table]


def _lineage(model: SqlModel, experiment: Experiment) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(dg.AssetKey(key), source)
                for table, source in sources
                for key in _asset_keys(table, experiment)
            ]
            for column, sources in column_lineage(model).items()
        }
    )


def _preview(path: Path) -> str:
    """The first five rows of a table in Markdown; all of those that fit a screen."""
    with pl.Config(
        tbl_formatting="MARKDOWN",
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_cols=-1,
        tbl_rows=-1,
        tbl_width_chars=10_000,
        fmt_str_lengths=100,
    ):
        rows = pl.scan_parquet(path).head(SCREEN + 1).collect()
        rows = rows.head(5) if len(rows) > SCREEN else rows
        return str(rows.with_columns(pl.col(pl.String).str.replace_all("|", r"\|", literal=True)))


def _tables(
    model: SqlModel, experiment: Experiment, store: StoreResource
) -> Mapping[str, list[Path] | pl.DataFrame]:
    """The model's inputs: Parquet files of assets, and the catalogue as a frame."""
    tables: dict[str, list[Path] | pl.DataFrame] = {}
    for name in model.depends_on:
        if name == "catalog_datasets":
            tables[name] = catalog_table(experiment)
        elif name == "catalog_models":
            tables[name] = model_table()
        elif name == "raw_examples":
            tables[name] = [store.store.folder(raw_key(e)) / TABLE for e in experiment.datasets()]
        else:
            partitions: list[str | None] = [*store.store.partitions(name)] or [None]
            tables[name] = [store.store.folder(name, partition) / TABLE for partition in partitions]
    return tables


def catalog_table(experiment: Experiment) -> pl.DataFrame:
    """The experiment's datasets as the SQL sees them."""
    return CATALOG_DATASETS.frame(
        [
            {
                "dataset": entry.key,
                "role": entry.role,
                "task_type": entry.task_type,
                "labels": list(entry.labels.values()),
                "instruction": entry.instruction,
            }
            for entry in experiment.datasets()
        ]
    )


def model_table() -> pl.DataFrame:
    """The models of the catalogue as the SQL sees them."""
    return CATALOG_MODELS.frame(
        [{"model": model.key, "parameters": model.parameters} for model in all_models().values()]
    )
