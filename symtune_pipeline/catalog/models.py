"""The language models: where their weights come from, and how each is tuned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from symtune_pipeline.catalog.facts import Fact, named, read_beside


class TuningDefaults(Fact):
    """What a model is tuned with unless the experiment says otherwise."""

    optimizer: Literal["adamw", "adafactor"]
    learning_rate: float
    warmup_steps: int
    tokens_per_step: int
    steps: int | None = None  # at most; none: as many as the mixture has
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    max_grad_norm: float = 1.0


class ParallelPlan(Fact):
    """On what a model is meant to be tuned."""

    gpu: str
    gpus: int = 1
    lora_rank: int | None = None  # none: all weights are tuned
    activation_checkpointing: bool = False


class PackagedWeights(Fact):
    """Weights inside an installed Python package: a GGUF file and its SHA-256."""

    name: str
    version: str
    file: str
    sha256: str


class Model(Fact):
    """A partition of the graph: a model size and where its weights come from."""

    key: str
    parameters: int
    context_tokens: int
    licence: str
    architecture: dict[str, Any]  # arguments of transformers' configuration, `model_type` first
    instruct: str | None = None  # hub repository of the instruction-tuned model
    revision: str | None = None
    pretrained: str | None = None  # hub repository of its pretrained-only parent
    pretrained_revision: str | None = None
    package: PackagedWeights | None = None  # the same weights in a Python package
    tuning: TuningDefaults
    plan: ParallelPlan


@cache
def all_models() -> Mapping[str, Model]:
    """The models by key, small to large; the keys are the partitions of the graph."""
    return {key: Model(key=key, **entry) for key, entry in read_beside(__file__).items()}


def find_model(key: str) -> Model:
    """The model called `key`; raises UserError with the known keys for any other."""
    return named(all_models(), key, "model")
