"""The report: one self-contained page, PNGs and summary.json."""

import importlib.metadata
import json
from pathlib import Path

import dagster as dg

from assets.common import code_version, user_errors
from resources.store import Metadata, StoreResource
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.report.page import write_report

MARTS = ("summary", "icl", "flipped", "algorithmic")
PACKAGES = ("dagster", "torch", "transformers", "polars", "duckdb")


def report_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The asset `eval_report`."""

    @dg.asset(
        description="The evaluation as one page to open in a browser, PNGs, and summary.json.",
        deps=[*(f"mart_{name}" for name in MARTS), "base_model", "symbol_tuned_model"],
        group_name="report",
        kinds={"html"},
        code_version=code_version(
            experiment, ("data", "mixture", "tuning", "evaluation"),
            *(f"report/{name}" for name in ("page.py", "page.html", "plots.py", "tables.py", "paper.yaml")),
        ),
    )  # fmt: skip
    def eval_report(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> dg.MaterializeResult:
        def build(folder: Path) -> Metadata:
            marts = {name: store.store.read_table(f"mart_{name}") for name in MARTS}
            shown = sorted(set(marts["summary"]["partition"]))
            logs = {
                partition: store.store.read_table("tuning_log", partition) for partition in shown
            }
            write_report(
                folder, **marts, training_log=logs, provenance=_provenance(experiment, store, shown)
            )
            return {}

        with user_errors():
            result = store.make(context, build)
        version = store.store.manifest("eval_report").version
        page = f"{store.store.place('eval_report')}/{version}/index.html"
        return result._replace(
            metadata={**(result.metadata or {}), "page": dg.MetadataValue.path(page)}
        )

    return [eval_report]


def _provenance(
    experiment: Experiment, store: StoreResource, partitions: list[str]
) -> dict[str, object]:
    """What made the numbers; no time, so that the same run gives the same page."""
    models = {}
    for partition in partitions:
        base = store.store.folder("base_model", partition)
        settings = store.store.folder("tuning_log", partition) / "settings.json"
        models[partition] = {
            "base model": json.loads((base / "provenance.json").read_text(encoding="utf-8")),
            "tuning": json.loads(settings.read_text(encoding="utf-8")),
            "tuned model version": store.store.manifest("symbol_tuned_model", partition).version,
        }
    return {
        "experiment": experiment.model_dump(mode="json"),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "models": models,
    }
