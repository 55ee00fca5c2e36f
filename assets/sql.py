"""One asset per SQL model; its dependencies and its checks come from the SQL and schema.yml."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl

from assets.raw import raw_key
from assets.step import Step, as_metadata, code_reference, user_errors
from assets.variants import keys_of
from assets.versions import code_version
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog.models import all_models
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE, read_table, scan_table
from symtune_pipeline.report.numbers import of_summary
from symtune_pipeline.sql.engine import TestResult, run_model, run_tests
from symtune_pipeline.sql.model import SqlModel, column_lineage, load_models
from symtune_pipeline.tables import (
    CATALOG_DATASETS,
    CATALOG_MODELS,
    CATALOG_VARIANTS,
    RAW_EXAMPLES,
    SOURCES,
    SYMBOL_POOL,
    TUNING_MIXTURE,
)

SQL = Path(__file__).resolve().parent.parent / "dbt_like_sql"
# By layer; three intermediate tables stand where their inputs come from.
GROUPS = {"staging": "examples", "intermediate": "examples", "marts": "scores"}
GROUPS |= {"int_contamination": "mixture", "int_outcomes": "scores", "int_scores": "scores"}
BLOCKING = "int_contamination"
SUMMARY = "mart_summary"
SCREEN = 40  # rows
CODE = ("symtune_pipeline.sql.engine",)
CATALOG = (CATALOG_DATASETS.name, CATALOG_MODELS.name, CATALOG_VARIANTS.name)

Tables = Mapping[str, list[Path] | pl.DataFrame]


def sql_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The assets stg_..., int_... and mart_...."""
    return [_sql_asset(model, experiment) for model in load_models(SQL, SOURCES).values()]


def _sql_asset(model: SqlModel, experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        name=model.name,
        description=f"{model.description}\n\n```sql\n{model.sql}\n```",
        deps=[key for name in model.depends_on for key in _asset_keys(name, experiment)],
        group_name=GROUPS.get(model.name) or GROUPS[model.layer],
        kinds={"duckdb", "sql"},
        code_version=code_version(CODE, _settings(model, experiment)),
        metadata={"dagster/code_references": code_reference(model.path, 1, "SQL")},
        check_specs=_check_specs(model),
    )
    def sql_model(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        return _run(Step(context, store, experiment), model)

    return sql_model


def _settings(model: SqlModel, experiment: Experiment) -> object:
    """The SQL, its variables, and what it reads of the catalogue."""
    facts = [_catalog(name, experiment).to_dicts() for name in model.depends_on if name in CATALOG]
    variables = {name: _variables(experiment)[name] for name in model.variables}
    return model.sql, variables, facts


def _check_specs(model: SqlModel) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            str(claim),
            asset=model.name,
            description=claim.sentence,
            blocking=model.name == BLOCKING,
        )
        for claim in model.tests
    ]


def _run(step: Step, model: SqlModel) -> dg.MaterializeResult:
    """Make the table or recognise it, then test its claims."""
    with user_errors():
        made = step.resource.make(step.context, partial(_build, step, model), columns=model.columns)
        path = step.artifacts.folder(model.name) / TABLE
        tested = run_tests(model, _tables(step, model), path)
    passed = sum(found.passed for found in tested)
    step.say(f"{model.name}: {passed} of {len(tested)} tests hold")
    more = {
        "dagster/column_lineage": _lineage(model, step.experiment),
        "preview": dg.MetadataValue.md(_preview(path)),
    }
    if model.name == SUMMARY:
        more |= as_metadata(of_summary(read_table(path)))
    return made._replace(
        metadata={**(made.metadata or {}), **more}, check_results=[_result(test) for test in tested]
    )


def _build(step: Step, model: SqlModel, folder: Path) -> Metadata:
    # Inputs are looked up after what the table is made from was noted: one that another run makes
    # meanwhile is read too early at worst, and the table is then made once more.
    run_model(model, _tables(step, model), _variables(step.experiment), folder / TABLE)
    return {}


def _variables(experiment: Experiment) -> dict[str, int | float | str]:
    return {
        "cap": experiment.data.cap,
        "seed": experiment.seed,
        "labels": next(iter(_guarded(experiment).values())).mixture.labels,
    }


def _guarded(experiment: Experiment) -> dict[str, Experiment]:
    """The experiment and its variants whose mixture shows symbols; where none does, all of them.

    A mixture of tasksource's prompts has a guard of its own.
    """
    every = experiment.tuned()
    made = {name: e for name, e in every.items() if e.mixture.source == "datasets"}
    symbols = {name: e for name, e in made.items() if e.mixture.labels != "natural"}
    return symbols or made or every


def _result(tested: TestResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=str(tested.test),
        passed=tested.passed,
        description=tested.message,
        metadata={"failing rows": tested.failures},
    )


def _asset_keys(table: str, experiment: Experiment) -> list[str]:
    """The assets behind a table that the SQL names; the catalogue is none."""
    if table == RAW_EXAMPLES.name:
        return [raw_key(entry) for entry in experiment.datasets()]
    if table in (TUNING_MIXTURE.name, SYMBOL_POOL.name):  # those of all variants, for one guard
        own, guarded = keys_of(experiment, table), _guarded(experiment)
        written = table == TUNING_MIXTURE.name and all(
            each.mixture.source == "tasksource" for each in guarded.values()
        )
        return [] if written else list(dict.fromkeys(own[variant] for variant in guarded))
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
        rows = scan_table(path).head(SCREEN + 1).collect()
        rows = rows.head(5) if len(rows) > SCREEN else rows
        return str(rows.with_columns(pl.col(pl.String).str.replace_all("|", r"\|", literal=True)))


def _tables(step: Step, model: SqlModel) -> Tables:
    """The inputs: Parquet files of assets, all partitions of each, and the catalogue as frames."""
    return {
        name: _catalog(name, step.experiment)
        if name in CATALOG
        else _files(step, name) or SOURCES[name].frame()
        for name in model.depends_on
    }


def _files(step: Step, name: str) -> list[Path]:
    found = []
    for key in _asset_keys(name, step.experiment):
        partitions: list[str | None] = [*step.artifacts.partitions(key)] or [None]
        found += [step.artifacts.folder(key, partition) / TABLE for partition in partitions]
    return found


def _catalog(name: str, experiment: Experiment) -> pl.DataFrame:
    """What SQL sees of the catalogue: the experiment's datasets, or all models."""
    if name == CATALOG_MODELS.name:
        models = all_models().values()
        return CATALOG_MODELS.frame([(m.key, m.parameters) for m in models], orient="row")
    if name == CATALOG_VARIANTS.name:
        served = {endpoint: endpoint for endpoint in experiment.evaluation.endpoints}
        return CATALOG_VARIANTS.frame(list((experiment.recipes() | served).items()), orient="row")
    return CATALOG_DATASETS.frame(
        [
            (entry.key, entry.role, entry.task_type, list(entry.labels.values()), entry.instruction)
            for entry in experiment.datasets()
        ],
        orient="row",
    )
