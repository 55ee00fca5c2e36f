"""The asset `symbol_tuned_model`: the fine-tune job, started and put away."""

import base64
import json
import shutil
from pathlib import Path

import dagster as dg
import polars as pl

from assets.step import GPU, Check, Step, Verdict, asset
from assets.versions import code_version
from resources.store import Metadata
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE, write_text
from symtune_pipeline.report.curves import curves
from symtune_pipeline.tables import TUNING_LOG
from symtune_pipeline.tuning.card import final_metrics, model_card
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.result import SUMMARY, read_result
from symtune_pipeline.tuning.settings import job_config

NAME, LOG = "symbol_tuned_model", "tuning_log"
CODE = ("symtune_pipeline.tuning.job",)  # not the card's wording: no fine-tune is repeated for it
OF_THIS_MACHINE = {"model_folder", "blocks", "output_folder", "checkpoint_url"}


def _settings(experiment: Experiment) -> object:
    """What the job gets of the experiment and of each model's entry in the catalogue."""
    models = [find_model(key) for key in experiment.models]
    plans = [(m.tuning, m.plan.lora_rank, m.plan.activation_checkpointing) for m in models]
    return experiment.seed, experiment.tuning, plans


def _finite(step: Step) -> Verdict:
    log = step.artifacts.read_table(LOG, step.partition)
    broken = log.filter(~pl.col("loss").is_finite())["step"].to_list()
    return Verdict(
        not broken,
        f"Steps of {log.height:,} whose loss is no finite number: {broken[:5] or 'none'}.",
        {"steps": dg.MetadataValue.int(len(broken))},
    )


FINITE_LOSS = Check("finite_loss", "The loss of every step is a finite number.", _finite)


def _clear(step: Step) -> Metadata:
    """Only now: a run killed before finds the finished job's result and need not tune again."""
    shutil.rmtree(step.resource.work_folder(NAME, step.partition), ignore_errors=True)
    return {}


@asset(
    group="models",
    kinds={"pytorch", "huggingface"},
    deps=["base_model", "packed_mixture"],
    code=CODE,
    settings=_settings,
    checks=[FINITE_LOSS],
    partitioned=True,
    pool=GPU,
    resources=["launcher", "tracker"],
    after=_clear,
)
def symbol_tuned_model(step: Step, folder: Path) -> Metadata:
    """The output of the fine-tune job: a folder that transformers loads."""
    job = _job(step)
    result = step.context.resources.launcher.run(step.context, job)
    summary = read_result(result)
    log = TUNING_LOG.frame(summary["log"])
    settings = job.model_dump(mode="json", exclude=OF_THIS_MACHINE)
    name = f"{step.experiment.name}-{step.partition}"
    step.context.resources.tracker.log_job(name, log, settings, step.warn)
    # The log holds times, so it would make the version of equal models differ.
    with step.artifacts.writing(LOG, step.partition) as beside:
        log.write_parquet(beside / TABLE)
        write_text(beside / "settings.json", json.dumps(settings, indent=1))
    shutil.copytree(result, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SUMMARY))
    base = step.artifacts.folder("base_model", step.partition)
    provenance = json.loads((base / "provenance.json").read_text(encoding="utf-8"))
    card = model_card(step.model, step.experiment, provenance, step.inputs(), log)
    write_text(folder / "README.md", card)
    return _described(log, summary) | {"settings": dg.MetadataValue.json(settings)}


def _job(step: Step) -> JobConfig:
    return job_config(
        step.model,
        step.experiment,
        model_folder=step.artifacts.folder("base_model", step.partition),
        blocks=step.artifacts.folder("packed_mixture", step.partition) / TABLE,
        output_folder=step.resource.work_folder(NAME, step.partition),
        checkpoint_url=step.resource.checkpoint_url(NAME, step.partition),
        # The code counts too: no job goes on from the checkpoint of another program.
        inputs=step.inputs() | {"code": code_version(CODE, None)},
    )


def _described(log: pl.DataFrame, summary: dict[str, float]) -> Metadata:
    image = base64.b64encode(curves(log)).decode()
    numbers = {
        "seconds": summary["seconds"],
        "tokens per second": log["tokens"][-1] / summary["seconds"],
        "most memory, GiB": log["memory_gib"][-1],
        **final_metrics(log),
    }
    return {
        "curves": dg.MetadataValue.md(f"![curves](data:image/png;base64,{image})"),
        "precision": dg.MetadataValue.text(str(summary["precision"])),
        "attention": dg.MetadataValue.text(str(summary["attention"])),
        **{name: dg.MetadataValue.float(round(float(n), 3)) for name, n in numbers.items()},
    }
