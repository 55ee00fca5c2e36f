"""The assets `base_model` and `pretrained_model`."""

from pathlib import Path

import dagster as dg

from assets.step import Step, asset
from resources.store import Metadata
from symtune_pipeline.models.weights import prepare_base_model, prepare_pretrained_model


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
