"""The model before and after tuning."""

import base64
import json
import shutil
from pathlib import Path

import dagster as dg
import polars as pl

from assets.common import GPU, MODELS, code_version, user_errors
from resources.launcher import Launcher
from resources.store import Metadata, StoreResource
from resources.tracker import WandbTracker
from symtune_pipeline import catalog
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.report.curves import curves
from symtune_pipeline.storage import TABLE, write_text
from symtune_pipeline.tuning.card import final_metrics, model_card
from symtune_pipeline.tuning.config import job_config
from symtune_pipeline.tuning.metrics import LOG
from symtune_pipeline.weights import prepare_base_model, prepare_pretrained_model

GROUP = "model"


def model_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The assets `base_model` and `symbol_tuned_model`, and `pretrained_model` where it is asked."""

    @dg.asset(
        description="The instruction-tuned model before tuning: safetensors, tokenizer, provenance.",
        partitions_def=MODELS,
        group_name=GROUP,
        kinds={"huggingface"},
        code_version=code_version(experiment, (), "weights.py", "micro.py", "catalog/models.yaml"),
    )
    def base_model(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        def build(folder: Path) -> Metadata:
            model = catalog.model(context.partition_key)
            provenance = prepare_base_model(model, folder, context.log.info)
            return {"provenance": dg.MetadataValue.json(provenance)}

        with user_errors():
            return store.make(context, build)

    @dg.asset(
        description="The model's pretrained-only parent; empty where the catalogue has none.",
        partitions_def=MODELS,
        group_name=GROUP,
        kinds={"huggingface"},
        code_version=code_version(experiment, (), "weights.py", "catalog/models.yaml"),
    )
    def pretrained_model(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> dg.MaterializeResult:
        def build(folder: Path) -> Metadata:
            model = catalog.model(context.partition_key)
            if model.pretrained is None:
                context.log.warning(f"The catalogue names no pretrained parent of '{model.key}'.")
                return {}
            provenance = prepare_pretrained_model(model, folder)
            return {"provenance": dg.MetadataValue.json(provenance)}

        with user_errors():
            return store.make(context, build)

    files = (
        "attention.py",
        *(
            f"tuning/{name}.py"
            for name in ("job", "order", "step", "trainable", "parallel", "adafactor")
        ),
    )
    code = code_version(experiment, (), *files)

    @dg.asset(
        description="The output of the fine-tune job: a folder that transformers loads.",
        deps=["base_model", "packed_mixture"],
        partitions_def=MODELS,
        group_name=GROUP,
        kinds={"pytorch", "huggingface"},
        code_version=code_version(experiment, ("tuning",), "catalog/models.yaml", *files),
        pool=GPU,
        check_specs=[
            dg.AssetCheckSpec(
                "finite_loss",
                asset="symbol_tuned_model",
                description="The loss of every step is a finite number.",
                blocking=True,
            )
        ],
    )
    def symbol_tuned_model(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        launcher: dg.ResourceParam[Launcher],
        tracker: WandbTracker,
    ) -> dg.MaterializeResult:
        partition = context.partition_key

        def build(folder: Path) -> Metadata:
            model = catalog.model(partition)
            versions = store.inputs(context, context.asset_key)
            base = store.store.folder("base_model", partition)
            job = job_config(
                model,
                experiment,
                model_folder=base,
                blocks=store.store.folder("packed_mixture", partition) / TABLE,
                output_folder=store.work_folder("symbol_tuned_model", partition),
                checkpoint_url=store.checkpoint_url("symbol_tuned_model", partition),
                # The code counts too: no job goes on from the checkpoint of another program.
                inputs=versions | {"code": code},
            )
            result = launcher.run(context, job)
            summary = json.loads((result / "log.json").read_text(encoding="utf-8"))
            log = pl.DataFrame(summary["log"], schema=LOG)
            settings = job.model_dump(
                mode="json", exclude={"model_folder", "blocks", "output_folder", "checkpoint_url"}
            )
            tracker.log_job(f"{experiment.name}-{partition}", log, settings, context.log.warning)
            # The log holds times, so it would make the version of equal models differ.
            with store.store.writing("tuning_log", partition) as beside:
                log.write_parquet(beside / TABLE)
                write_text(beside / "settings.json", json.dumps(settings, indent=1))
            without_log = shutil.ignore_patterns("log.json")
            shutil.copytree(result, folder, dirs_exist_ok=True, ignore=without_log)
            # Code versions leave the card's wording out: a fine-tune is not repeated for it.
            provenance = json.loads((base / "provenance.json").read_text(encoding="utf-8"))
            write_text(
                folder / "README.md", model_card(model, experiment, provenance, versions, log)
            )
            image = base64.b64encode(curves(log)).decode()
            last = log.tail(1)
            return {
                "curves": dg.MetadataValue.md(f"![curves](data:image/png;base64,{image})"),
                "precision": dg.MetadataValue.text(summary["precision"]),
                **{
                    name: dg.MetadataValue.float(round(float(number), 3))
                    for name, number in {
                        "seconds": summary["seconds"],
                        "tokens per second": log["tokens"][-1] / summary["seconds"],
                        "most memory, GiB": last["memory_gib"].item(),
                        **final_metrics(log),
                    }.items()
                },
                "settings": dg.MetadataValue.json(settings),
            }

        with user_errors():
            made = store.make(context, build)
        # Only now: a run killed before finds the finished job's result and need not tune again.
        shutil.rmtree(store.work_folder("symbol_tuned_model", partition), ignore_errors=True)
        log = store.store.read_table("tuning_log", partition)
        broken = log.filter(~pl.col("loss").is_finite())["step"].to_list()
        finite = dg.AssetCheckResult(
            check_name="finite_loss",
            passed=not broken,
            description=f"Steps of {log.height:,} whose loss is no finite number: {broken[:5] or 'none'}.",
            metadata={"steps": len(broken)},
        )
        return made._replace(check_results=[finite])

    parent = [pretrained_model] if experiment.evaluation.pretrained else []
    return [base_model, *parent, symbol_tuned_model]
