"""Models that someone else drops into a folder: found by a sensor, scored by a job."""

from os import fsencode
from pathlib import Path

import dagster as dg
import polars as pl

from assets.predictions import GENERATING, SCORING
from assets.step import EXAMPLES, GPU, as_metadata, user_errors
from assets.versions import code_version
from resources.store import StoreResource
from symtune_pipeline.environment import home_url, incoming_folder
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.incoming import fingerprint, score_folder, unready
from symtune_pipeline.evaluation.predictions import paths
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.report.robustness import choice_text
from symtune_pipeline.report.tables import accuracy_text, fraction_text
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import ALGORITHMIC_SUITE, CLASSIFICATION_SUITE

SUITES = CLASSIFICATION_SUITE.asset  # which makes the other suite, too
KEPT = {"scoring": "incoming_classification", "generation": "incoming_algorithmic"}  # predictions

ON_S3 = (
    "SYMTUNE_HOME is on S3, so no folder is looked at: use the job evaluate_folder for a model folder on"
    " the machine that runs it."
)


class Folder(dg.Config):
    """Which model to evaluate."""

    folder: str


def evaluate_folder(experiment: Experiment) -> dg.JobDefinition:
    """The job that evaluates a model folder as the experiment asks its own models."""

    @dg.op(pool=GPU)
    def score_incoming(
        context: dg.OpExecutionContext, config: Folder, store: StoreResource
    ) -> None:
        """Scores a folder on the suites of the asset `eval` and shows its accuracy."""
        folder = Path(config.folder).resolve()  # so that '.' has a name
        with user_errors():
            accuracy = _accuracy(store.artifacts, folder, experiment.evaluation, context)
        context.log_event(_shown(store.artifacts, folder, accuracy))

    tags = {"experiment": experiment.name}

    @dg.job(name="evaluate_folder", executor_def=dg.in_process_executor, tags=tags)
    def job() -> None:
        """Evaluates one model folder, such as a fine-tune from elsewhere or a download."""
        score_incoming()

    return job


def _shown(artifacts: Store, folder: Path, accuracy: pl.DataFrame) -> dg.AssetMaterialization:
    # No asset of the graph: `eval*` makes what is downstream of `eval`, and this is nobody's input.
    path = {
        name: paths(artifacts.read_table(key, folder.name)).get("incoming")
        for name, key in KEPT.items()
    }
    numbers = zip(accuracy["setting"], accuracy["accuracy"], strict=True)
    return dg.AssetMaterialization(
        "incoming_model",
        description="Accuracy of a model from `incoming`, with 95% Wilson intervals.",
        partition=folder.name,
        metadata={
            "accuracy": dg.MetadataValue.md(_markdown(accuracy)),
            "path": dg.MetadataValue.json(path),
            "folder": dg.MetadataValue.path(str(folder)),
            **as_metadata({f"{setting}: accuracy": value for setting, value in numbers}),
        },
    )


def _accuracy(
    artifacts: Store, folder: Path, config: EvaluationConfig, context: dg.OpExecutionContext
) -> pl.DataFrame:
    """The accuracy of a folder on the suites, by setting."""
    suites = CLASSIFICATION_SUITE, ALGORITHMIC_SUITE
    classification, algorithmic = (
        artifacts.read_table(suite.asset, name=suite.file) for suite in suites
    )
    inputs = artifacts.read_input(SUITES, EXAMPLES).sort("example")["input"].to_list()
    versions = [artifacts.manifest(key).version for key in (SUITES, EXAMPLES)]
    versions.append(code_version([SCORING, GENERATING], None))
    return score_folder(
        artifacts, folder, classification, algorithmic, inputs, versions, config, context.log.info
    )


def _markdown(accuracy: pl.DataFrame) -> str:
    choices = ["calibrated", *(["channel"] if accuracy["channel"].count() else [])]
    lines = [
        f"| setting | n | accuracy | {' | '.join(choices)} | chance |",
        f"| --- | ---: | --- | {'--- | ' * len(choices)}---: |",
    ]
    for row in accuracy.iter_rows(named=True):
        chosen = (choice_text(row, choice) for choice in choices)
        shares = accuracy_text(row), *chosen, fraction_text(row["chance"])
        lines.append(f"| {' | '.join((row['setting'], format(row['n'], ','), *shares))} |")
    return "\n".join(lines)


@dg.sensor(job_name="evaluate_folder", minimum_interval_seconds=30)
def incoming_models(store: StoreResource) -> dg.SensorResult | dg.SkipReason:
    """Evaluates every complete model folder in `incoming`; off until switched on."""
    if home_url():
        return dg.SkipReason(ON_S3)
    incoming = incoming_folder()
    reasons = {path: unready(path) for path in sorted(incoming.glob("*")) if path.is_dir()}
    ready = [folder for folder, reason in reasons.items() if reason is None]
    if ready:
        try:
            asked = store.artifacts.manifest(SUITES).made_from[:12]
        except UserError as error:
            return dg.SkipReason(f"Model folders wait for the questions: {error}")
        return dg.SensorResult([_request(folder, asked) for folder in ready])
    waiting = [
        f"Folder {fsencode(folder).decode(errors='backslashreplace')} waits: {reason}."
        for folder, reason in reasons.items()
    ]
    return dg.SkipReason(" ".join(waiting) or f"Folder {incoming} contains no model folder.")


def _request(folder: Path, asked: str) -> dg.RunRequest:
    """A run for the folder's files and what the suites were made from; Dagster starts each key once."""
    return dg.RunRequest(
        run_key=f"{folder.name}-{fingerprint(folder)}-{asked}",
        run_config={"ops": {"score_incoming": {"config": {"folder": str(folder)}}}},
    )
