"""The model card of a tuned model: what it was made from, how, and how to use it.

It holds no times and no speeds: equal runs give equal cards, and so equal versions of the model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.models import Model
from symtune_pipeline.catalog.tasksource import Tasksource, tasksource
from symtune_pipeline.experiment import Experiment

CARD = Path(__file__).with_name("model_card.md")
MEASURED = {
    "symbol_accuracy": "symbol accuracy",
    "first_token_loss": "loss of symbols' first tokens",
    "later_token_loss": "loss of their later tokens",
}
DEPENDS_ON = {"seed", "data", "symbols", "mixture", "tuning"}


def model_card(
    model: Model,
    experiment: Experiment,
    provenance: Mapping[str, Any],
    versions: Mapping[str, str],
    sets: Collection[str],
    log: pl.DataFrame,
) -> str:
    """README.md of the model's folder.

    `provenance` is the base model's, `versions` are those of the artifacts that the job read, `sets`
    are those that the mixture has prompts of, and `log` is the job's.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base = model.parent if experiment.tuning.model == "pretrained" else model.base
    data = ModelCardData(
        license=model.licence.lower(),  # the hub knows licences in lower case
        base_model=base and base.repository,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["symtune-pipeline", "symbol-tuning", "in-context-learning"],
    )
    settings = experiment.model_dump(mode="json", include=DEPENDS_ON)
    chat = experiment.evaluation.chat_template
    if chat:  # the one setting of the evaluation that changes a model
        settings["evaluation"] = {"chat_template": True}
    card = ModelCard.from_template(
        data,
        template_path=str(CARD),
        plain=plain,
        fence=fence,
        model=model,
        experiment=experiment.name,
        settings=yaml.safe_dump(settings, sort_keys=False),
        source={k: v for k, v in provenance.items() if isinstance(v, str)},
        files=provenance["sha256"],
        versions=versions,
        datasets=_tuned_on(experiment, sets),
        metrics=final_metrics(log),
        chat=chat,
    )
    return f"{card}\n"


def _tuned_on(experiment: Experiment, sets: Collection[str]) -> Sequence[Dataset | Tasksource]:
    """What the texts of the mixture come from; `sets` are datasets, or tasksource's tasks."""
    if experiment.mixture.source == "tasksource":
        return [tasksource()]
    return [entry for entry in experiment.datasets() if entry.key in sets]


def plain(text: object) -> str:
    """A text on one line in which Markdown and HTML find nothing to obey, for a table's cell too."""
    line = " ".join(str(text).split())
    visible = "".join(character for character in line if character.isprintable())
    return re.sub(r"[\\`*\[\]<>|]", r"\\\g<0>", visible.replace("&", "&amp;"))


def fence(text: str) -> str:
    """The backticks between which a text stays code, whatever backticks it holds."""
    runs = [len(run) for run in re.findall("`+", text)]
    return "`" * max(3, *(length + 1 for length in [*runs, 0]))


def final_metrics(log: pl.DataFrame) -> dict[str, float]:
    """What a run has come to, by name; the same for equal runs."""
    steps = log.filter(pl.col("step") > 0)
    metrics: dict[str, float] = {
        "steps": steps.height,
        "tokens": steps["tokens"][-1],
        "loss, mean of the last ten steps": _mean(steps, "loss"),
        "accuracy, mean of the last ten steps": _mean(steps, "accuracy"),
    }
    if not log.row(-1, named=True)["kept"]:
        metrics["step whose weights are kept"] = log.filter("kept")["step"][0]
    return metrics | _held_out(log)


def _held_out(log: pl.DataFrame) -> dict[str, float]:
    """What was measured on the held-out prompts before tuning, and of the weights that are kept."""
    measured = log.drop_nulls("symbol_accuracy")
    if measured.is_empty():
        return {}
    before, after = measured.row(0, named=True), log.filter("kept").row(0, named=True)
    metrics: dict[str, float] = {}
    for column, name in MEASURED.items():
        if before[column] is not None:
            metrics |= {f"{name} before": before[column], f"{name} after": after[column]}
    return metrics | {"symbol accuracy by chance": before["symbol_chance"]}


def _mean(steps: pl.DataFrame, column: str) -> float:
    return float(steps[column].tail(10).mean())  # type: ignore[arg-type]
