"""The language models: where their weights come from, and how each is tuned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from symtune_pipeline.catalog.facts import Fact, named, read_beside
from symtune_pipeline.errors import UserError


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


class PackagedFile(Fact):
    """A file inside an installed Python package, and its SHA-256."""

    name: str  # of the package
    file: str
    sha256: str


class PackagedWeights(PackagedFile):
    """The weights of a model, quantised, as a GGUF file in a Python package or split over several.

    Where there are parts, `file` and `sha256` are those of what they make up, and the package `name`
    need not hold it. All packages have one version.
    """

    version: str
    parts: tuple[PackagedFile, ...] = ()  # in their order

    @property
    def requirements(self) -> list[str]:
        """The packages to install, as pip takes them."""
        names = dict.fromkeys([self.name, *(part.name for part in self.parts)])
        return [f"{name}=={self.version}" for name in names]

    def __str__(self) -> str:
        """For people: the package, its version, and in how many parts the weights are."""
        parts = f" in {len(self.parts)} parts" if self.parts else ""
        return f"{self.name} {self.version}{parts}"


class HubModel(NamedTuple):
    """A model on the hub; a revision that is not known has to be pinned before it is loaded."""

    repository: str
    revision: str | None


class Model(Fact):
    """A partition of the graph: a model size and where its weights come from."""

    key: str
    parameters: int
    context_tokens: int
    licence: str
    terms: str | None = None  # where they stand, for a licence that asks to be pointed to
    architecture: dict[str, Any]  # arguments of transformers' configuration, `model_type` first
    instruct: str | None = None  # hub repository of the instruction-tuned model
    revision: str | None = None
    pretrained: str | None = None  # hub repository of the pretrained-only model
    pretrained_revision: str | None = None
    package: PackagedWeights | None = None  # those of `base`, in Python packages
    tuning: TuningDefaults
    plan: ParallelPlan

    @property
    def base(self) -> HubModel | None:
        """What is tuned: the instruction-tuned model, or the pretrained one where that is all there is.

        None for a model that is made here.
        """
        if self.instruct:
            return HubModel(self.instruct, self.revision)
        return HubModel(self.pretrained, self.pretrained_revision) if self.pretrained else None

    @property
    def parent(self) -> HubModel | None:
        """The pretrained-only model that `base` was made of; none where `base` is that itself."""
        if self.instruct and self.pretrained:
            return HubModel(self.pretrained, self.pretrained_revision)
        return None

    def learning_rate_of(self, optimizer: str | None, rate: float | None) -> float:
        """The chosen rate, or else the model's own; raises UserError where that is another optimizer's."""
        own = self.tuning.optimizer
        if rate is None and optimizer not in (None, own):
            raise UserError(
                f"tuning.optimizer is {optimizer}, and the catalogue's learning rate of '{self.key}' is for"
                f" {own}, while Adafactor's is relative to the weights' size; set tuning.learning_rate too."
            )
        return self.tuning.learning_rate if rate is None else rate


@cache
def all_models() -> Mapping[str, Model]:
    """The models by key, small to large; the keys are the partitions of the graph."""
    return {key: Model(key=key, **entry) for key, entry in read_beside(__file__).items()}


def find_model(key: str) -> Model:
    """The model called `key`; raises UserError with the known keys for any other."""
    return named(all_models(), key, "model")
