"""The report: one self-contained page, PNGs and summary.json."""

import base64
import importlib.metadata
import json
from pathlib import Path

import dagster as dg

from assets.common import code_version, user_errors
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.report.page import write_report

MARTS = ("summary", "icl", "flipped", "algorithmic", "scaling")
MADE = ("symbol_pool", "tuning_mixture", "eval")  # data whose versions the page names
PACKAGES = ("dagster", "torch", "transformers", "polars", "duckdb")


def report_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The asset `eval_report`."""

    @dg.asset(
        description="The evaluation as one page to open in a browser, PNGs, and summary.json.",
        deps=[
            *(f"mart_{name}" for name in MARTS),
            *MADE,
            *("base_model", "symbol_tuned_model"),
            *(["pretrained_model"] if experiment.evaluation.pretrained else []),
        ],
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
            page = f"{store.store.address_of('eval_report')}/{version}/index.html"
            charts = _accuracy_charts(store.store.folder("eval_report"))
        shown = {"page": dg.MetadataValue.path(page), **charts}
        return result._replace(metadata={**(result.metadata or {}), **shown})

    return [eval_report]


def _accuracy_charts(folder: Path) -> Metadata:
    """The charts of accuracy by setting; Dagster shows an image as Markdown with its bytes."""
    images = {path.stem: path.read_bytes() for path in sorted(folder.glob("settings*.png"))}
    return {
        name: dg.MetadataValue.md(
            f"![Accuracy by setting](data:image/png;base64,{base64.b64encode(image).decode()})"
        )
        for name, image in images.items()
    }


def _provenance(
    experiment: Experiment, store: StoreResource, partitions: list[str]
) -> dict[str, object]:
    """What made the numbers; no time, so that the same run gives the same page."""
    models = {}
    for partition in partitions:
        models[partition] = {
            "base model": _read(store, "base_model", partition, "provenance.json"),
            "tuning": _read(store, "tuning_log", partition, "settings.json"),
            "tuned model version": store.store.manifest("symbol_tuned_model", partition).version,
        }
        if experiment.evaluation.pretrained and find_model(partition).pretrained:
            parent = _read(store, "pretrained_model", partition, "provenance.json")
            models[partition]["pretrained model"] = parent
    return {
        "experiment": experiment.model_dump(mode="json"),
        "datasets": {entry.key: _origin(entry) for entry in experiment.datasets()},
        "data versions": {name: store.store.manifest(name).version for name in MADE},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "models": models,
    }


def _read(store: StoreResource, key: str, partition: str, name: str) -> dict[str, object]:
    text = (store.store.folder(key, partition) / name).read_text(encoding="utf-8")
    values: dict[str, object] = json.loads(text)
    return values


def _origin(dataset: Dataset) -> str:
    """Where a dataset is from and under which licence, in a line."""
    place = "own files" if dataset.files else "generated"
    if dataset.hub:
        place = f"{dataset.hub.repository} at {dataset.hub.revision or 'its newest revision'}"
    return f"{place}; {dataset.licence}"
