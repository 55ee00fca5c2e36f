"""Dagster's records of runs and assets: each experiment has its own, in a folder of DAGSTER_HOME.

.dagster/dagster.yaml names this class. The assets of all experiments have the same keys, so one store
of records would show the runs, numbers and charts of one experiment as those of another.
"""

from __future__ import annotations

from pathlib import Path

from dagster._config.config_schema import UserConfigSchema
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.sqlite_storage import (
    DagsterSqliteStorage,
    SqliteStorageConfig,
    _runs_directory,
)
from dagster._serdes import ConfigurableClassData

from symtune_pipeline.environment import experiment_name
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import load_experiment

FOLDER = "experiments"
LOCATION = "symtune_pipeline"  # as pyproject.toml and workspace.yaml call the code location


class ExperimentHistory(DagsterSqliteStorage):
    """Dagster's SQLite storage in `<base_dir>/experiments/<experiment>`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._run_storage = RunsOfTheLocation.from_local(_runs_directory(base_dir))

    @classmethod
    def from_config_value(  # type: ignore[override]  # as Dagster's own class has it
        cls, inst_data: ConfigurableClassData, config_value: SqliteStorageConfig
    ) -> ExperimentHistory:
        """The records of the experiment that SYMTUNE_EXPERIMENT names."""
        return cls.from_local(str(Path(config_value["base_dir"], FOLDER, _experiment())), inst_data)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """As of Dagster's own storage: `base_dir`, a path or the variable that has it."""
        return DagsterSqliteStorage.config_type()


class RunsOfTheLocation(SqliteRunStorage):
    """Runs that a terminal has started are of the code location too, so that the UI's timeline has them."""

    def add_run(self, dagster_run: DagsterRun) -> DagsterRun:
        """Keep a new run."""
        if dagster_run.remote_job_origin is None:
            dagster_run = dagster_run.with_job_origin(job_origin(dagster_run.job_name))
        return super().add_run(dagster_run)


def job_origin(job: str) -> RemoteJobOrigin:
    """Where Dagster's UI finds a job of the code location."""
    location = RegisteredCodeLocationOrigin(LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)


def _experiment() -> str:
    """The experiment's name; where it cannot be read, the code location says why."""
    try:
        return load_experiment(experiment_name()).name
    except UserError:
        return "unreadable"
