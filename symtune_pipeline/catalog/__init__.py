"""Facts about datasets, models, GPUs and prompt formats: YAML files and their typed loader.

A dataset or a model is data, never code. This package knows nothing about how either is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from symtune_pipeline.errors import UserError
from symtune_pipeline.sources.generated import generated_sets

FOLDER = Path(__file__).parent


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubLocation(_Fact):
    """Where a public dataset lies: a repository, a configuration, and file names by split."""

    repository: str
    config: str = "default"
    splits: dict[str, str]  # our split ('train' or 'test') to the hub's
    revision: str | None = None
    # The revision is on the hub's own Parquet branch, where a configuration is a folder.
    parquet_branch: bool = False


class Dataset(_Fact):
    """A classification dataset."""

    key: str
    role: Literal["tuning", "evaluation"]
    task_type: str
    instruction: str
    labels: dict[int, str] | dict[str, str]  # number or text in the data to the natural label
    # Stands for a label that is held back; such rows are left out. None: no label is.
    hidden_label: int | str | None = -1
    columns: tuple[str, ...]
    label_column: str = "label"
    id_column: str | None = None  # what tells the rows of a split apart; none: their numbers
    input: str  # the input of a prompt, as a Python format string of the columns
    licence: str
    citation: str
    hub: HubLocation | None = None
    files: dict[str, Path] | None = None  # the user's own, by split; no hub and no files: generated


class PromptFormat(_Fact):
    """The text before an input and the text before a label."""

    name: str
    before_input: str
    before_label: str


class TuningDefaults(_Fact):
    """What a model is tuned with unless the experiment says otherwise."""

    optimizer: Literal["adamw", "adafactor"]
    learning_rate: float
    warmup_steps: int
    tokens_per_step: int
    steps: int | None = None  # at most; none: as many as the mixture has
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    max_grad_norm: float = 1.0


class ParallelPlan(_Fact):
    """On what a model is meant to be tuned."""

    gpu: str
    gpus: int = 1
    lora_rank: int | None = None  # none: all weights are tuned
    activation_checkpointing: bool = False


class Model(_Fact):
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
    tuning: TuningDefaults = Field(default=...)
    plan: ParallelPlan


class PackagedWeights(_Fact):
    """Weights inside an installed Python package: a GGUF file and its SHA-256."""

    name: str
    version: str
    file: str
    sha256: str


class Gpu(_Fact):
    """An accelerator. A CPU's memory and speed are those of the machine, so they are left out."""

    key: str
    memory_gb: float | None = None
    tflops: float | None = None  # dense bf16
    dollars_per_hour: tuple[float, float] | None = None  # cheapest and dearest
    runtime_gb: float = 2.0  # of a process before it has a model
    fragmentation: float = 0.0  # free memory between activations, in proportion to them
    utilisation: tuple[float, float] = (0.2, 0.45)  # of the peak: assumed


T = TypeVar("T", bound=_Fact)


@cache
def prompt_formats() -> tuple[PromptFormat, ...]:
    """The ten formats of the method; a format's number is its place here."""
    return tuple(PromptFormat(**entry) for entry in _read("formats.yaml"))


@cache
def models() -> Mapping[str, Model]:
    """The models by key, small to large; the keys are the partitions of the graph."""
    return {key: Model(key=key, **entry) for key, entry in _read("models.yaml").items()}


@cache
def gpus() -> Mapping[str, Gpu]:
    """The accelerators by key, small to large, and `cpu`."""
    return {key: Gpu(key=key, **entry) for key, entry in _read("gpus.yaml").items()}


@cache
def datasets() -> Mapping[str, Dataset]:
    """The public datasets, then the generated ones, by key."""
    public = {key: Dataset(key=key, **entry) for key, entry in _read("datasets.yaml").items()}
    generated = {
        key: Dataset(
            key=key,
            role=entry.role,
            task_type=entry.task_type,
            instruction=entry.instruction,
            labels=dict(enumerate(entry.labels)),
            columns=entry.columns,
            input=" | ".join(f"{{{column}}}" for column in entry.columns),
            licence="Apache-2.0",
            citation="Generated by symtune-pipeline.",
        )
        for key, entry in generated_sets().items()
    }
    return public | generated


def model(key: str) -> Model:
    """The model called `key`; raises UserError with the known keys for any other."""
    return _named(models(), key, "model")


def gpu(key: str) -> Gpu:
    """The accelerator called `key`; raises UserError with the known keys for any other."""
    return _named(gpus(), key, "GPU")


def dataset(key: str) -> Dataset:
    """The dataset called `key`; raises UserError with the known keys for any other."""
    return _named(datasets(), key, "dataset")


def _named(facts: Mapping[str, T], key: str, kind: str) -> T:
    if key not in facts:
        raise UserError(
            f"There is no {kind} '{key}' in the catalogue; choose one of {', '.join(facts)}."
        )
    return facts[key]


def _read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


Model.model_rebuild()
