"""Facts about datasets, models and prompt formats: YAML files and their typed loader.

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


class Dataset(_Fact):
    """A classification dataset."""

    key: str
    role: Literal["tuning", "evaluation"]
    task_type: str
    instruction: str
    labels: dict[int, str]  # number in the data to the natural label
    columns: tuple[str, ...]
    label_column: str = "label"
    input: str  # the input of a prompt, as a Python format string of the columns
    licence: str
    hub: HubLocation | None = None  # none: the set is generated


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
    max_grad_norm: float = 1.0


class Model(_Fact):
    """A partition of the graph: a model size and where its weights come from."""

    key: str
    parameters: int
    context_tokens: int
    licence: str
    instruct: str | None = None  # hub repository of the instruction-tuned model
    revision: str | None = None
    pretrained: str | None = None  # hub repository of its pretrained-only parent
    pretrained_revision: str | None = None
    package: PackagedWeights | None = None  # the same weights in a Python package
    tuning: TuningDefaults = Field(default=...)


class PackagedWeights(_Fact):
    """Weights inside an installed Python package: a GGUF file and its SHA-256."""

    name: str
    version: str
    file: str
    sha256: str


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
        )
        for key, entry in generated_sets().items()
    }
    return public | generated


def model(key: str) -> Model:
    """The model called `key`; raises UserError with the known keys for any other."""
    return _named(models(), key, "model")


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
