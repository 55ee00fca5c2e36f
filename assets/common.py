"""What the assets share: the partitions, code versions, and how a user error is shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from resources.store import StoreResource
from symtune_pipeline import catalog
from symtune_pipeline.errors import JobLost, UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.schemas import misfit
from symtune_pipeline.storage import TABLE

MODELS = dg.StaticPartitionsDefinition(list(catalog.models()))
LIBRARY = Path(catalog.__file__).parent.parent
# Runs that want a GPU wait for each other (.dagster/dagster.yaml), so that no two share one.
GPU = "gpu"
RETRY_SECONDS = 10  # before a lost job is started again


def code_version(experiment: Experiment, sections: tuple[str, ...], *files: str) -> str:
    """Changes when the experiment's sections or the library's `files` (paths in it) change."""
    digest = hashlib.sha256(experiment.version(*sections).encode())
    for file in files:
        digest.update((LIBRARY / file).read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def user_errors() -> Iterator[None]:
    """Fail the step with a user error's sentence and without a traceback of ours.

    A lost job is tried again, once: it goes on from its last checkpoint. Nothing else is. A retry policy
    of the asset would do so for an interrupt, too, and no run could be stopped.
    """
    try:
        yield
    except JobLost as error:
        again = dg.RetryRequested(max_retries=1, seconds_to_wait=RETRY_SECONDS)
        raise again from dg.Failure(str(error))
    except UserError as error:
        raise dg.Failure(str(error)) from None


def schema_check(asset: str) -> dg.AssetCheckSpec:
    """The check that an asset's table has the columns that its schema declares."""
    return dg.AssetCheckSpec(
        "schema",
        asset=asset,
        blocking=True,
        description="The columns are those of symtune_pipeline/schemas.py. The values were held"
        " against it before they were written: a breach fails the step.",
    )


def schema_result(
    store: StoreResource, asset: str, schema: str, partition: str | None = None
) -> dg.AssetCheckResult:
    """The result of `schema_check` for the table that the store holds."""
    manifest = store.store.manifest(asset, partition)
    found = misfit(store.store.location(asset, partition, manifest) / TABLE, schema)
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name="schema",
        passed=found is None,
        description=found or f"The table fits the schema '{schema}'.",
    )
