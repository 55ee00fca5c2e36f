"""The asset `symbol_tuned_model`: the fine-tune job, started and put away."""

import base64
import json
import shutil
from pathlib import Path

import dagster as dg
import polars as pl

from assets.starts import tuned_from
from assets.step import GPU, Check, Step, Verdict, asset, clear_work
from assets.tuning_log import LOG, MADE_BY, read_log
from assets.versions import code_version
from resources.store import Metadata
from symtune_pipeline.experiment import Experiment, lora_of
from symtune_pipeline.files import TABLE, scan_table, write_text
from symtune_pipeline.prompts.mixture import drawn_sets
from symtune_pipeline.report.curves import curves
from symtune_pipeline.tables import PACKED_HELD_OUT, TUNING_LOG, TUNING_LOG_BY_SET
from symtune_pipeline.tuning.card import final_metrics, model_card
from symtune_pipeline.tuning.config import PATHS_AND_PACE, JobConfig
from symtune_pipeline.tuning.log import by_set
from symtune_pipeline.tuning.result import SUMMARY, read_result
from symtune_pipeline.tuning.settings import job_config

CODE = ("symtune_pipeline.tuning.job",)  # not the card's wording: no fine-tune is repeated for it


def _settings(experiment: Experiment) -> object:
    """What the job gets of the experiment; the model that it tunes is an input."""
    return experiment.seed, experiment.tuning.model_dump(mode="json", exclude={"model"})


def _plan(step: Step) -> object:
    """What the job gets of the model's entry in the catalogue; other models change nothing."""
    tuning, plan = step.model.tuning, step.model.plan
    lora = lora_of(step.experiment.tuning, step.model)
    adapters = lora and lora.model_dump(mode="json")  # whose rank alone the catalogue has
    return [tuning.model_dump(mode="json"), adapters, plan.activation_checkpointing]


def _finite(step: Step) -> Verdict:
    log = read_log(step, step.partition)
    broken = log.filter(~pl.col("loss").is_finite())["step"].to_list()
    return Verdict(
        not broken,
        f"Steps of {log.height:,} whose loss is not a finite number: {broken[:5] or 'none'}.",
        {"steps": dg.MetadataValue.int(len(broken))},
    )


FINITE_LOSS = Check("finite_loss", "The loss of every step is a finite number.", _finite)


def _better(step: Step) -> Verdict:
    log = read_log(step, step.partition)
    measured = log.drop_nulls("symbol_accuracy")
    if measured.is_empty():
        return Verdict(True, "Nothing was measured: mixture.held_out_prompts is 0.")
    before, chance = measured["symbol_accuracy"][0], measured["symbol_chance"][0]
    after = log.filter("kept")["symbol_accuracy"].item()
    faults = [
        f"not above {what}"
        for what, other in (("the untuned model", before), ("chance", chance))
        if not after > other
    ]
    return Verdict(
        not faults,
        f"Share of held-out prompts whose correct symbol ranks first: {after:.2f} after tuning,"
        f" {before:.2f} before, {chance:.2f} by chance: {' and '.join(faults) or 'above both'}.",
        {"tuned": dg.MetadataValue.float(after), "untuned": dg.MetadataValue.float(before),
         "chance": dg.MetadataValue.float(chance)},
    )  # fmt: skip


LEARNS_SYMBOLS = Check(
    "learns_symbols",
    "On held-out prompts, the tuned model ranks the correct symbol first more often than the untuned"
    " model, and more often than chance.",
    _better,
    warns=True,
)


@asset(
    group="models",
    kinds={"pytorch", "huggingface"},
    deps=lambda e: [tuned_from(e), "packed_mixture"],
    code=CODE,
    settings=_settings,
    sources=_plan,
    beside=[LOG],
    checks=[FINITE_LOSS, LEARNS_SYMBOLS],
    partitioned=True,
    pool=GPU,
    resources=["launcher", "tracker"],
    after=clear_work,
)
def symbol_tuned_model(step: Step, folder: Path) -> Metadata:
    """The tuned model: the output of the fine-tune job, in a folder that transformers loads."""
    job = _job(step)
    result = step.context.resources.launcher.run(step.context, job)
    summary = read_result(result)
    log, sets = TUNING_LOG.frame(summary["log"]), by_set(summary["log"])
    settings = job.model_dump(mode="json", exclude=PATHS_AND_PACE)
    name = f"{step.experiment.name}-{step.partition}"
    step.context.resources.tracker.log_job(name, summary["log"], settings, step.warn)
    with step.artifacts.writing(step.key(LOG), step.partition) as beside:
        TUNING_LOG.checked(log).write_parquet(beside / TABLE)
        TUNING_LOG_BY_SET.write(sets, beside)
        write_text(beside / "settings.json", json.dumps(settings, indent=1))
    shutil.copytree(result, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SUMMARY))
    base = step.artifacts.folder(tuned_from(step.experiment), step.partition)
    provenance = json.loads((base / "provenance.json").read_text(encoding="utf-8"))
    mixture = step.artifacts.folder(step.key("tuning_mixture")) / TABLE
    drawn = drawn_sets(scan_table(mixture))
    card = model_card(step.model, step.experiment, provenance, step.inputs(), drawn, log)
    write_text(folder / "README.md", card)
    return _described(log, sets, summary) | {"settings": dg.MetadataValue.json(settings)}


def _job(step: Step) -> JobConfig:
    packed = step.artifacts.folder(step.key("packed_mixture"), step.partition)
    return job_config(
        step.model,
        step.experiment,
        model_folder=step.artifacts.folder(tuned_from(step.experiment), step.partition),
        blocks=packed / TABLE,
        held_out=packed / PACKED_HELD_OUT.file,
        output_folder=step.work_folder,
        checkpoint_url=step.resource.checkpoint_url(step.key(MADE_BY), step.partition),
        # The code counts too: no job goes on from the checkpoint of another program.
        inputs=step.inputs() | {"code": code_version(CODE, None)},
    )


def _described(log: pl.DataFrame, sets: pl.DataFrame, summary: dict[str, float]) -> Metadata:
    image = base64.b64encode(curves(log, sets)).decode()
    kept = sets.filter(step=log.filter("kept")["step"].item())
    numbers = {
        "seconds": summary["seconds"],
        "tokens per second": log["tokens"][-1] / summary["seconds"],
        "peak memory, GiB": log["memory_gib"][-1],
        **final_metrics(log),
    }
    return {
        "curves": dg.MetadataValue.md(f"![curves](data:image/png;base64,{image})"),
        "precision": dg.MetadataValue.text(str(summary["precision"])),
        "symbol accuracy by dataset": dg.MetadataValue.json(
            {row["dataset"]: round(row["symbol_accuracy"], 3) for row in kept.to_dicts()}
        ),
        "attention": dg.MetadataValue.text(str(summary["attention"])),
        **{name: dg.MetadataValue.float(round(float(n), 3)) for name, n in numbers.items()},
    }
