"""The assets `base_model` and `pretrained_model`."""

from pathlib import Path

import dagster as dg

from assets.step import Step, asset
from resources.store import Metadata
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.models.weights import prepare_base_model, prepare_pretrained_model


def tuned_from(experiment: Experiment) -> str:
    """The asset whose weights and tokenizer are tuned."""
    return "pretrained_model" if experiment.tuning.model == "pretrained" else "base_model"


def needs_parent(experiment: Experiment) -> bool:
    """Whether the pretrained parent is asked, or a variant is tuned from it."""
    variants = map(experiment.variant, experiment.variants)
    return experiment.evaluation.pretrained or "pretrained_model" in map(tuned_from, variants)


@asset(group="models", kinds={"huggingface"}, partitioned=True)
def base_model(step: Step, folder: Path) -> Metadata:
    """The model before tuning: weights as safetensors, tokenizer and provenance."""
    provenance = prepare_base_model(step.model, folder, step.say)
    return {"provenance": dg.MetadataValue.json(provenance)}


@asset(group="models", kinds={"huggingface"}, partitioned=True)
def pretrained_model(step: Step, folder: Path) -> Metadata:
    """The model's pretrained-only parent; empty if the catalogue has none."""
    if step.model.parent is None:
        step.warn(f"The catalogue names no pretrained parent of '{step.partition}'.")
        return {}
    provenance = prepare_pretrained_model(step.model, folder)
    return {"provenance": dg.MetadataValue.json(provenance)}
