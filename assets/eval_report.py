"""The asset `eval_report`: one self-contained page, PNGs and summary.json."""

import base64
import importlib.metadata
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import polars as pl

from assets.starts import needs_parent
from assets.step import EXAMPLES, Step, asset
from assets.tuning_log import LOG, read_log
from resources.store import Metadata
from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.contract import Table
from symtune_pipeline.evaluation.asked import are_to, questions
from symtune_pipeline.evaluation.predictions import paths
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.report.answers import Answers, chat
from symtune_pipeline.report.page import write_report
from symtune_pipeline.report.settings import keep_settings
from symtune_pipeline.tables import (
    ALGORITHMIC_PREDICTIONS,
    ALGORITHMIC_SUITE,
    CLASSIFICATION_PREDICTIONS,
    CLASSIFICATION_SUITE,
)

MARTS = (
    *("summary", "icl", "flipped", "algorithmic", "scaling"),
    *("calibrated", "alignment", "language", "variants", "seeds", "exemplars", "finetuned"),
    *("reliability", "choices", "confusion"),
)
DATA = ("symbol_pool", "tuning_mixture", "eval")  # data whose versions the page names
ANSWERS = {"scoring": "eval_icl", "generation": "eval_algorithmic"}  # where each variant's path is
CLASSIFIED = {"eval_icl": "icl", "eval_flipped": "flipped"}  # the benchmark of each
ASKED = dict.fromkeys(CLASSIFIED, CLASSIFICATION_SUITE) | {ANSWERS["generation"]: ALGORITHMIC_SUITE}
WINDOW = (720, 560)  # pixels of Dagster's window for an image, on a screen of 1,280 by 800
PACKAGES = ("dagster", "torch", "transformers", "polars", "duckdb")


def _inputs(experiment: Experiment) -> Sequence[str]:
    parent = ["pretrained_model"] if needs_parent(experiment) else []
    marts = [f"mart_{name}" for name in MARTS]
    asked = [*CLASSIFIED, ANSWERS["generation"], EXAMPLES]
    return [*marts, *DATA, *asked, "base_model", "symbol_tuned_model", *parent]


def _page_and_charts(step: Step) -> Metadata:
    version = step.artifacts.manifest("eval_report").version
    page = f"{step.artifacts.address_of('eval_report')}/{version}/index.html"
    charts = _accuracy_charts(step.artifacts.folder("eval_report"))
    return {"page": dg.MetadataValue.path(page), **charts}


@asset(
    group="report",
    kinds={"html"},
    deps=_inputs,
    settings=lambda e: e,
    after=_page_and_charts,
)
def eval_report(step: Step, folder: Path) -> Metadata:
    """The evaluation report: an HTML page to open in a browser, the charts as PNG, and summary.json."""
    keep_settings(step.experiment, folder)
    marts = {name: step.artifacts.read_table(f"mart_{name}") for name in MARTS}
    models = sorted(set(marts["summary"]["model"]))
    logs = {model: read_log(step, model) for model in models}
    answers, provenance = _answers(step, models), _provenance(step, models)
    write_report(folder, **marts, answers=answers, training_log=logs, provenance=provenance)
    return {}


def _answers(step: Step, models: Sequence[str]) -> Answers:
    """What the models were asked, and what those answered that were asked it."""
    kept, generated = step.artifacts, ANSWERS["generation"]
    current = [model for model in models if _were_asked(step, model)]
    classification = kept.read_table(CLASSIFICATION_SUITE.asset, name=CLASSIFICATION_SUITE.file)
    algorithmic = kept.read_table(ALGORITHMIC_SUITE.asset, name=ALGORITHMIC_SUITE.file)
    classified = [
        _answered(step, key, current, CLASSIFICATION_PREDICTIONS).with_columns(
            benchmark=pl.lit(name)
        )
        for key, name in CLASSIFIED.items()
    ]
    inputs = kept.read_input(CLASSIFICATION_SUITE.asset, EXAMPLES)
    in_chat = current if step.experiment.evaluation.chat_template else []
    return Answers(
        classification,
        algorithmic,
        predictions=pl.concat(classified),
        completions=_answered(step, generated, current, ALGORITHMIC_PREDICTIONS),
        inputs=inputs.sort("example")["input"].to_list(),
        frames={model: chat(kept.folder("base_model", model)) for model in in_chat},
        seed=step.experiment.seed,
        earlier=[model for model in models if model not in current],
    )


def _were_asked(step: Step, model: str) -> bool:
    """Whether all that a model has answered are the questions of the suites as they are now."""
    kept = step.artifacts
    return all(
        are_to(kept.folder(key, model), questions(kept, suite, EXAMPLES))
        for key, suite in ASKED.items()
        if kept.find(key, model)
    )


def _answered(step: Step, key: str, models: Sequence[str], table: Table) -> pl.DataFrame:
    """The answers of all models that have some."""
    found = [model for model in models if step.artifacts.find(key, model)]
    own = [step.artifacts.read_table(key, model) for model in found]
    # Those of a model that an earlier version has asked may lack a column.
    return pl.concat([table.frame([]), *own], how="diagonal")


def _accuracy_charts(folder: Path) -> Metadata:
    """The charts of accuracy by setting; Dagster shows an image as Markdown with its bytes."""
    images = {path.stem: path.read_bytes() for path in sorted(folder.glob("settings*.png"))}
    return {
        name: dg.MetadataValue.md(f"![Accuracy by setting]({_address('svg+xml', _fitting(image))})")
        for name, image in images.items()
    }


def _fitting(png: bytes) -> bytes:
    """A PNG in an SVG that fits Dagster's window, which cuts what is larger instead of scaling it."""
    width, height = struct.unpack(">II", png[16:24])  # of the header
    scale = min(WINDOW[0] / width, WINDOW[1] / height)
    size = f'width="{width * scale:.0f}" height="{height * scale:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}">'
        f'<image width="{width}" height="{height}" href="{_address("png", png)}"/></svg>'
    ).encode()


def _address(kind: str, image: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _provenance(step: Step, models: Sequence[str]) -> dict[str, object]:
    """What made the numbers; no time, so that the same run gives the same page."""
    return {
        "experiment": step.experiment.model_dump(mode="json"),
        "datasets": {entry.key: _origin(entry) for entry in step.experiment.datasets()},
        "data versions": {name: step.artifacts.manifest(name).version for name in DATA},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "models": {model: _of_model(step, model) for model in models},
    }


def _of_model(step: Step, model: str) -> dict[str, object]:
    found: dict[str, object] = {
        "base model": _read(step, "base_model", model, "provenance.json"),
        "tuning": _read(step, LOG, model, "settings.json"),
        "tuned model version": step.artifacts.manifest("symbol_tuned_model", model).version,
    }
    for name, key in ANSWERS.items():
        if step.artifacts.find(key, model):
            found[name] = paths(step.artifacts.read_table(key, model))
    if needs_parent(step.experiment) and find_model(model).parent:
        found["pretrained model"] = _read(step, "pretrained_model", model, "provenance.json")
    return found


def _read(step: Step, key: str, model: str, name: str) -> dict[str, object]:
    text = (step.artifacts.folder(key, model) / name).read_text(encoding="utf-8")
    values: dict[str, object] = json.loads(text)
    return values


def _origin(dataset: Dataset) -> str:
    """Where a dataset is from and under which licence, in a line."""
    source = "own files" if dataset.files else "generated"
    if dataset.hub:
        source = f"{dataset.hub.repository} at {dataset.hub.revision or 'its newest revision'}"
    return f"{source}; {dataset.licence}"
