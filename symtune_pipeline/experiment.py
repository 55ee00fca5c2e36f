"""One experiment: everything that a run depends on, read from one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from symtune_pipeline.catalog.datasets import Dataset, all_datasets, find_dataset
from symtune_pipeline.catalog.models import Model, find_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.tables import benchmarks_of

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
Positive = Annotated[int, Gt(0)]
OWN_SUFFIXES = (".csv", ".jsonl", ".parquet")
LossName = Literal["all_labels", "final_label"]
OptimizerName = Literal["adamw", "adafactor"]
Category = Literal["integer", "combination", "word"]  # of symbols
TUNING_PER_CATEGORY = 10_000


class Section(BaseModel):
    """A part of an experiment; an unknown setting is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OwnDataset(Section):
    """A set of the user's own: its files, and what the catalogue says about the public ones."""

    role: Literal["tuning", "evaluation"]
    files: Annotated[dict[Literal["train", "test"], Path], MinLen(1)]
    columns: Annotated[tuple[str, ...], MinLen(1)]
    label_column: str
    # What stands in the data to the natural label. Both sides are compared as text, so that 5 in
    # this file is 5 in JSONL and "5" in CSV.
    labels: Annotated[dict[str, str], MinLen(2)]
    instruction: str
    id_column: str | None = None
    input: str | None = None  # none: the columns with ' | ' between them
    task_type: str = "own"
    licence: str = "own data"
    citation: str = "own data"

    @field_validator("files")
    @classmethod
    def _readable(cls, files: dict[str, Path], info: ValidationInfo) -> dict[str, Path]:
        for path in files.values():
            if path.suffix not in OWN_SUFFIXES:
                raise ValueError(f"{path} must end with one of {', '.join(OWN_SUFFIXES)}")
        if info.data.get("role") == "tuning" and "train" not in files:
            raise ValueError("a set for tuning needs a file called train")
        # Relative to the experiment file, wherever the pipeline is started.
        folder = (info.context or {}).get("folder", Path())
        return {split: folder / path for split, path in files.items()}

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, labels: Any) -> Any:
        if isinstance(labels, list):
            labels = {label: label for label in labels if isinstance(label, str)}
        if not isinstance(labels, dict):
            return labels  # pydantic says what is wrong
        return {
            str(label).lower() if isinstance(label, bool) else str(label): natural
            for label, natural in labels.items()
        }

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: dict[str, str]) -> dict[str, str]:
        if len(set(labels.values())) < len(labels):
            raise ValueError("every label needs a natural label of its own")
        return labels

    @model_validator(mode="after")
    def _input_shows_every_column(self) -> OwnDataset:
        for column in self.columns:
            if self.template.count(f"{{{column}}}") != 1:
                raise ValueError(f"input must show {{{column}}} once")
        return self

    @property
    def template(self) -> str:
        """How the columns become one text."""
        return self.input or " | ".join(f"{{{column}}}" for column in self.columns)

    def entry(self, key: str) -> Dataset:
        """The set as the catalogue would describe it."""
        facts = self.model_dump(exclude={"input"})
        return Dataset(key=key, input=self.template, hidden_label=None, **facts)


class DataConfig(Section):
    """Which datasets, and where they come from."""

    source: Literal["generated", "hub"] | None = None  # none: only the sets in `own`
    own: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], OwnDataset] = {}
    datasets: tuple[str, ...] = ()  # empty: every dataset that the source has
    missing: Literal["error", "leave_out"] = "error"  # when a public set cannot be had
    train_rows: Positive = 400  # generated sets only
    test_rows: Positive = 200  # generated sets only
    cap: Positive = 25_000  # examples of a tuning set at most (Wei et al. 2023)

    @field_validator("own")
    @classmethod
    def _not_in_catalogue(cls, own: dict[str, OwnDataset]) -> dict[str, OwnDataset]:
        taken = [key for key in own if key in all_datasets()]
        if taken:
            raise ValueError(f"the catalogue has a set called '{taken[0]}'; choose another name")
        return own

    @field_validator("datasets")
    @classmethod
    def _in_catalogue(cls, keys: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        public = [key for key in _known(keys, find_dataset) if find_dataset(key).hub]
        if public and info.data.get("source") == "generated":
            raise ValueError(f"'{public[0]}' is a public set; set data.source to hub")
        return keys

    @model_validator(mode="after")
    def _has_data(self) -> DataConfig:
        if self.source is None and (self.datasets or not self.own):
            raise ValueError(
                "set source to generated or hub; without it there are only sets in own"
            )
        return self


class SymbolsConfig(Section):
    """Which symbols the tuning prompts may use; those for evaluation are always the same."""

    categories: Annotated[tuple[Category, ...], MinLen(1)] = get_args(Category)
    tuning_size: Positive | None = None  # in all, spread evenly; none: 10,000 of each category
    leave_out_offensive: bool = False

    @field_validator("categories")
    @classmethod
    def _named_once(cls, names: tuple[Category, ...]) -> tuple[Category, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a category is named twice")
        return names

    @field_validator("tuning_size")
    @classmethod
    def _available(cls, size: int | None, info: ValidationInfo) -> int | None:
        most = TUNING_PER_CATEGORY * len(info.data.get("categories", get_args(Category)))
        if size is not None and size > most:
            raise ValueError(f"{size} is above {most}, which these categories have for tuning")
        return size


class MixtureConfig(Section):
    """How the symbol-tuning prompts are drawn."""

    prompts: Positive
    exemplars_per_class: tuple[Positive, Positive] = (2, 10)
    max_characters: Positive = 6_000  # of the inputs of one prompt
    # A dataset is drawn in proportion to its size^(1/temperature); none: each equally often.
    temperature: Annotated[float, Gt(0)] | None = None
    # What stands for the classes. Two controls on the same examples: the datasets' own labels, and
    # symbols dealt out to the examples at random, so that there is nothing to learn from them.
    labels: Literal["symbols", "natural", "shuffled"] = "symbols"
    # Share of prompts with the dataset's instruction and its own labels.
    instructed_share: Annotated[float, Ge(0), Le(1)] = 0.0
    # The symbols of a prompt differ in their first token too, for every model of the experiment.
    distinct_first_token: bool = False

    @field_validator("exemplars_per_class")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError(f"the smallest number, {value[0]}, is above the largest, {value[1]}")
        return value


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021) beside every linear layer but the LM head."""

    rank: Annotated[int, Ge(0)] = 16  # 0: none, all weights are tuned
    alpha: Annotated[float, Gt(0)] = 32  # what the adapters add is scaled by alpha / rank
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0


class TuningConfig(Section):
    """How the model is tuned; what is left out comes from the model's catalogue entry."""

    loss: LossName = "all_labels"
    block_tokens: Positive = 1_024
    epochs: Positive = 1
    precision: Literal["auto", "fp32", "bf16"] | None = None
    optimizer: OptimizerName | None = None
    # Adapters usually want about ten times the rate of full fine-tuning.
    learning_rate: Annotated[float, Gt(0)] | None = None
    tokens_per_step: Positive | None = None
    held_out_blocks: Annotated[int, Ge(0)] = 2  # kept out of tuning, to measure its progress on
    lora: Lora | None = None
    activation_checkpointing: bool | None = None  # less memory, about a third more time
    compile: bool = False
    checkpoint_seconds: Annotated[float, Gt(0)] = 60
    keep_checkpoints: Positive = 2

    def block_tokens_for(self, model: Model) -> int:
        """The tokens of a block; raises UserError where they exceed the model's context."""
        if self.block_tokens > model.context_tokens:
            raise UserError(
                f"tuning.block_tokens is {self.block_tokens:,}, above the context of '{model.key}';"
                f" lower it to {model.context_tokens:,} or less."
            )
        return self.block_tokens


class EvaluationConfig(Section):
    """How large the evaluation suites are; a set with fewer queries is asked those it has."""

    # Exemplars are drawn once for all queries of a context, or anew for every query, which is then
    # a context of its own (Wei et al. 2023, as we read them).
    protocol: Literal["shared", "per_query"] = "shared"
    exemplars_per_class: Positive = 4
    contexts: Positive = 2  # exemplar draws per dataset; shared only
    queries: Positive = 20  # per context; with per_query, per dataset
    flipped_percents: tuple[Annotated[int, Ge(0), Le(100)], ...] = (100,)
    algorithmic_shots: Annotated[int, Gt(0), Le(16)] = 8
    list_functions: Annotated[int, Ge(0)] = 40
    turing_programs: Annotated[int, Ge(0)] = 40
    # How many concepts of the other algorithmic benchmarks are asked, by benchmark.
    concepts: dict[str, Annotated[int, Ge(0)]] = {}
    algorithmic_queries: Annotated[int, Gt(0), Le(16)] = 2  # per concept
    # The pretrained-only parent answers too, where the catalogue has one.
    pretrained: bool = False
    # A folder with BIG-bench's own prompts (docs/evaluation.md), asked beside the fresh ones; its
    # path is relative to the experiment file.
    published: Path | None = None

    @field_validator("flipped_percents")
    @classmethod
    def _named_once(cls, percents: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(percents)) < len(percents):
            raise ValueError("a percentage is named twice")
        return percents

    @field_validator("concepts")
    @classmethod
    def _other_benchmarks(cls, concepts: dict[str, int]) -> dict[str, int]:
        own = {"list_functions": "list_functions", "turing_concepts": "turing_programs"}
        for key in concepts:
            if key in own:
                raise ValueError(f"'{key}' has a setting of its own; use evaluation.{own[key]}")
            if key not in benchmarks_of("algorithmic"):
                raise ValueError(
                    f"there is no algorithmic benchmark called '{key}'; add it or leave it out"
                )
        return concepts

    @field_validator("published")
    @classmethod
    def _beside_the_file(cls, folder: Path | None, info: ValidationInfo) -> Path | None:
        return folder and (info.context or {}).get("folder", Path()) / folder


class Experiment(Section):
    """A whole experiment."""

    name: str
    seed: Annotated[int, Ge(0)] = 0
    models: Annotated[tuple[str, ...], MinLen(1)]
    data: DataConfig
    symbols: SymbolsConfig = SymbolsConfig()
    mixture: MixtureConfig
    tuning: TuningConfig = TuningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("models")
    @classmethod
    def _in_catalogue(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        return _known(keys, find_model)

    @field_validator("tuning")
    @classmethod
    def _blocks_fit_every_context(cls, tuning: TuningConfig, info: ValidationInfo) -> TuningConfig:
        _known(info.data.get("models", ()), lambda key: tuning.block_tokens_for(find_model(key)))
        return tuning

    def datasets(self) -> list[Dataset]:
        """The datasets of this experiment: the catalogue's in its order, then the user's own."""
        data = self.data
        generated = data.source == "generated"
        chosen = [
            entry
            for key, entry in all_datasets().items()
            if (key in data.datasets if data.datasets else (entry.hub is None) == generated)
        ]
        own = [described.entry(key) for key, described in data.own.items()]
        return (chosen if data.source else []) + own

    def dataset(self, key: str) -> Dataset:
        """The dataset called `key`; raises UserError where this experiment has none."""
        datasets = {entry.key: entry for entry in self.datasets()}
        if key not in datasets:
            raise UserError(
                f"Experiment '{self.name}' has no dataset '{key}'; choose one of"
                f" {', '.join(datasets)}."
            )
        return datasets[key]

    def instructions(self) -> dict[str, str]:
        """The instruction of each dataset."""
        return {entry.key: entry.instruction for entry in self.datasets()}


def _known(keys: tuple[str, ...], find: Callable[[str], object]) -> tuple[str, ...]:
    try:
        for key in keys:
            find(key)
    except UserError as error:
        raise ValueError(str(error)) from error  # pydantic adds which setting it is
    return keys


def load_experiment(name: str) -> Experiment:
    """Read an experiment by its name in experiments/ or by the path of its file.

    Raises UserError for a file that is missing or no YAML, and for a setting that is unknown, of
    the wrong kind or out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else EXPERIMENTS / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(p.stem for p in EXPERIMENTS.glob("*.yaml")))
        raise UserError(
            f"Experiment file {path} cannot be read ({error}); set SYMTUNE_EXPERIMENT to one of"
            f" {known} or to the path of your own file."
        ) from error
    try:
        settings = yaml.safe_load(text)
        return Experiment.model_validate(
            {"name": path.stem} | settings, context={"folder": path.parent}
        )
    except yaml.YAMLError as error:
        raise UserError(
            f"Experiment file {path} is not valid YAML: {' '.join(str(error).split())}."
        ) from error
    except TypeError as error:
        raise UserError(
            f"Experiment file {path} must hold settings by name, such as 'seed: 0'."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise UserError(
            f"Experiment file {path}, setting '{where}': {reason}; see experiments/quickstart.yaml"
            " for every setting."
        ) from error
