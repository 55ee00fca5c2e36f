"""The sections of an experiment: its settings, with their ranges, defaults and sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from symtune_pipeline import tables
from symtune_pipeline.catalog.datasets import all_datasets, find_dataset, keys_named
from symtune_pipeline.catalog.facts import LocalPath
from symtune_pipeline.catalog.models import Model
from symtune_pipeline.catalog.own import OwnDataset
from symtune_pipeline.catalog.splits import PAPER, Split, evaluated
from symtune_pipeline.errors import UserError, known
from symtune_pipeline.tables import CATEGORIES, OUTSIDE, VARIANTS, Category, Protocol, benchmarks_of

# The most of anything that is counted: beyond lies no experiment, but a slip of the finger.
Positive = Annotated[int, Gt(0), Le(1_000_000_000)]
Few = Annotated[int, Gt(0), Le(1_000_000)]  # of what is made or asked one by one
Concepts = Annotated[int, Ge(0), Le(100_000)]
LossName = Literal["all_labels", "final_label"]
OptimizerName = Literal["adamw", "adafactor"]
SymbolSpread = Literal["random", "near", "far"]
Trainable = Literal["all", "attention", "value"]
PACE = Field(exclude=True, repr=False)  # changes no model: is kept with none, and makes no variant


class Section(BaseModel):
    """A part of an experiment; an unknown setting is an error.

    A field's sentence is its docstring: docs/settings.md is made from them.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """Which datasets, and where they come from. Set `source`, `own` or both."""

    source: Literal["generated", "hub"] | None = None
    """Where the catalogue's datasets come from. Not set: only the datasets in `own` are used."""
    own: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], OwnDataset] = {}
    """Your own datasets by name, in small letters, digits and underscores."""
    datasets: tuple[str, ...] = ()
    """The catalogue's datasets by key or family, or `families` for all families. Not set: the main 33."""
    split: str | tuple[str, ...] = PAPER
    """Which datasets are evaluated; all others are for tuning: a split, or a list of keys and families."""
    missing: Literal["error", "leave_out"] = "error"
    """What happens if a public dataset is not available."""
    train_rows: Few = 400
    """Rows of a generated dataset for training."""
    test_rows: Few = 200
    """Rows of a generated dataset for testing."""
    cap: Positive = 25_000
    """Maximum number of examples of a tuning dataset (25,000 in Wei et al. 2023)."""

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
        named = [key for name in known(keys, keys_named) for key in keys_named(name)]
        public = [key for key in named if find_dataset(key).hub]
        if public and info.data.get("source") == "generated":
            raise ValueError(f"'{public[0]}' is a public set; set data.source to hub")
        return tuple(dict.fromkeys(named))

    @field_validator("split")
    @classmethod
    def _divides(cls, split: Split, info: ValidationInfo) -> Split:
        try:
            held_out = evaluated(split)
        except UserError as error:
            raise ValueError(str(error)) from error
        chosen = info.data.get("datasets")
        left_out = sorted(held_out.difference(chosen)) if held_out and chosen else []
        if left_out and isinstance(split, tuple):
            raise ValueError(f"'{left_out[0]}' is not among data.datasets; name it there too")
        return split

    @model_validator(mode="after")
    def _has_data(self) -> DataConfig:
        if self.source is None and (self.datasets or not self.own):
            raise ValueError("set source to generated or hub; otherwise there are only sets in own")
        return self


class SymbolsConfig(Section):
    """Which symbols the tuning prompts may use; those for evaluation are always the same."""

    categories: Annotated[tuple[Category, ...], MinLen(1)] = CATEGORIES
    """The kinds of symbols, each named once."""
    tuning_size: Positive | None = None
    """Number of symbols, spread evenly over the kinds. Not set: 10,000 of each, which is the maximum."""
    leave_out_offensive: bool = False
    """Takes offensive words out of the pool."""
    spread: SymbolSpread = "random"
    """The symbols of a tuning prompt: by chance, or near to or far from each other for the models."""

    @field_validator("categories")
    @classmethod
    def _named_once(cls, names: tuple[Category, ...]) -> tuple[Category, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a category is named twice")
        return names

    @field_validator("tuning_size")
    @classmethod
    def _available(cls, size: int | None, info: ValidationInfo) -> int | None:
        most = tables.TUNING_PER_CATEGORY * len(info.data.get("categories", CATEGORIES))
        if size is not None and size > most:
            raise ValueError(f"{size} is above {most}, which these categories have for tuning")
        return size


class MixtureConfig(Section):
    """How the symbol-tuning prompts are drawn."""

    source: Literal["datasets", "tasksource"] = "datasets"
    """Prompts made of the tuning datasets, or those that tasksource published, with their own symbols."""
    prompts: Positive
    """How many prompts are drawn."""
    exemplars_per_class: tuple[Few, Few] = (2, 10)
    """The smallest and the largest number of exemplars of a class in a prompt; tasksource has four."""
    max_characters: Positive = 6_000
    """Maximum number of characters of a prompt's inputs; for tasksource, of the whole prompt."""
    temperature: Annotated[float, Gt(0), Le(1_000_000_000)] | None = None
    """A dataset is drawn in proportion to its size^(1/temperature). Not set: each equally often."""
    labels: Literal["symbols", "natural", "shuffled"] = "symbols"
    """What stands for the classes. Two controls: the datasets' own labels, and symbols dealt at random."""
    instructed_share: Annotated[float, Ge(0), Le(1)] = 0.0
    """The share of prompts with the dataset's instruction and its own labels."""
    distinct_first_token: bool = False
    """The symbols of a prompt differ in their first token too, for every model of the experiment."""
    label_noise: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The chance that an exemplar shows a wrong symbol of its prompt; not in instructed prompts."""
    sets: Positive | None = None
    """Number of tuning datasets used; the seed chooses. Fewer are a subset of more. Not set: all."""
    leave_out: tuple[str, ...] = ()
    """Tuning datasets that are not used: by key, family or task type; tasks of tasksource by name."""
    held_out_prompts: Annotated[int, Ge(0)] = 24
    """Prompts with symbols beside the mixture, from its datasets in turn, on which progress is measured."""

    @field_validator("label_noise")
    @classmethod
    def _of_a_mapping(cls, share: float, info: ValidationInfo) -> float:
        if share and info.data.get("labels") == "shuffled":
            raise ValueError(
                "shuffled labels have no wrong ones; set this to 0 or labels to symbols"
            )
        return share

    @field_validator("exemplars_per_class")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError(f"the smallest number, {value[0]}, is above the largest, {value[1]}")
        return value

    @model_validator(mode="after")
    def _suits_its_source(self) -> MixtureConfig:
        if self.source == "tasksource":
            for name in ("labels", "instructed_share", "label_noise", "distinct_first_token"):
                only = type(self).model_fields[name].default
                if getattr(self, name) != only:
                    raise ValueError(
                        f"{name} is for prompts that are made here, and those of tasksource are written;"
                        f" set it to {str(only).lower()} or source to datasets"
                    )
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021) beside every linear layer but the LM head."""

    rank: Annotated[int, Ge(0), Le(100_000)] = 16
    """The rank of the adapters. 0: no adapters; all weights are tuned."""
    alpha: Annotated[float, Gt(0), Le(1_000_000_000)] = 32
    """What the adapters add is scaled by alpha / rank."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The share of an adapter's inputs that is left out at random while tuning."""


class TuningConfig(Section):
    """How the model is tuned; what is left out comes from the model's catalogue entry."""

    model: Literal["untuned", "pretrained"] = "untuned"
    """What is tuned. `pretrained`, in a variant only: the pretrained-only parent that the catalogue names."""
    loss: LossName = "all_labels"
    """The tokens that are learnt: every label whose class was seen before, or the last (the paper's)."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The probability that is spread over a prompt's symbols, at the first token where they differ."""
    block_tokens: Positive = 1_024
    """Tokens of a block of prompts, at most the model's context."""
    epochs: Few = 1
    """How many times the mixture is tuned on."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Number format of the computation. `auto`: bf16 if the hardware has it. Not set: the model's own."""
    optimizer: OptimizerName | None = None
    """The optimizer. Not set: the model's own. Another one needs a learning rate of its own."""
    learning_rate: Annotated[float, Gt(0), Le(1_000)] | None = None
    """The highest rate; adapters need about ten times as much. Not set: the model's own."""
    tokens_per_step: Positive | None = None
    """Tokens of one step of the optimizer. Not set: the model's own."""
    steps: Positive | None = None
    """Maximum number of steps. Not set: the model's own, or as many as the prompts fill, times `epochs`."""
    keep: Literal["last", "best"] = "last"
    """The weights that are the result: after the last step, or where symbol accuracy was best."""
    trainable: Trainable = "all"
    """The weights that are tuned: all, the projections of attention (q, k, v, o), or those of values."""
    lora: Lora | None = None
    """Adapters, merged at the end. Not set: as the catalogue plans the model."""
    activation_checkpointing: bool | None = None
    """Less memory for about a third more time. Not set: as the catalogue plans the model."""
    compile: bool = False
    """Compiled layers: more than twice as fast for a small model on a GPU, after some seconds."""
    checkpoint_seconds: Annotated[float, Gt(0), Le(1_000_000_000), PACE] = 60
    """Seconds from one checkpoint to the next."""
    keep_checkpoints: Annotated[Positive, PACE] = 2
    """How many of the last checkpoints are kept."""

    def block_tokens_for(self, model: Model) -> int:
        """The tokens of a block; raises UserError where they exceed the model's context."""
        if self.block_tokens > model.context_tokens:
            raise UserError(
                f"tuning.block_tokens is {self.block_tokens:,}, above the context of '{model.key}';"
                f" lower it to {model.context_tokens:,} or less."
            )
        return self.block_tokens


class Finetuned(Section):
    """Adapters tuned for a few steps on the exemplars of a context, beside showing them in the prompt."""

    steps: Annotated[int, Ge(0), Le(10_000)] = 0
    """Steps on the exemplars of every context before its queries are asked. 0: off."""
    learning_rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    """The constant rate of AdamW."""


class EndpointConfig(Section):
    """A served model: a variant of a model of the experiment. Its key is read from `OPENAI_API_KEY`."""

    # Where a model is served changes none of its answers, and so is kept with none of them.
    url: Annotated[str, Field(exclude=True)]
    """The server's address: up to and with `/v1`; for `sglang` without a path."""
    model: Annotated[str, MinLen(1)]
    """The model's name on the server, which stands for its weights: other weights have another name."""
    serves: str | None = None
    """The experiment's model whose weights, tuned or not, it serves. Not set: the only model."""
    protocol: Protocol = "completions"
    """OpenAI's completions with echoed log-probabilities, as of vLLM, or SGLang's own `/generate`."""

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            fault = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            fault = True
        if fault or not url.isascii() or any(c.isspace() or not c.isprintable() for c in url):
            raise ValueError("is no address such as http://127.0.0.1:8000/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "holds a user, a password or a query; a key is read from OPENAI_API_KEY alone"
            )
        return url


class EvaluationConfig(Section):
    """How large the evaluation suites are. A dataset with fewer queries uses all it has."""

    protocol: Literal["shared", "per_query"] = "shared"
    """Exemplars drawn once for all queries of a context, or anew for every query (as in the paper)."""
    exemplars_per_class: Few | Annotated[tuple[Few, ...], MinLen(1)] = 4
    """Exemplars of each class in a prompt. With a list, each number is evaluated, on the same queries."""
    contexts: Few = 2
    """Draws of exemplars per dataset; with `shared` only. Ten or more give bootstrap intervals."""
    queries: Few = 20
    """Queries per context; with `per_query`, per dataset."""
    flipped_percents: tuple[Annotated[int, Ge(0), Le(100)], ...] = (100,)
    """The shares of exemplars with a flipped label, each asked once."""
    flipped_sets: Literal["all", "two_labels"] = "all"
    """The datasets whose labels are flipped: all, or those with two labels (as in the paper)."""
    label_noise: tuple[Annotated[float, Ge(0), Lt(1)], ...] = ()
    """Shares of exemplars with a wrong symbol of their prompt, each asked beside the settings of symbols."""
    algorithmic_shots: Annotated[int, Gt(0), Le(16)] = 8
    """Exemplars of an algorithmic concept in a prompt."""
    list_functions: Concepts = 40
    """How many functions of lists are asked."""
    turing_programs: Concepts = 40
    """How many Turing concepts are asked; all, if there are fewer."""
    turing_instructions: Annotated[int, Gt(0), Le(9)] | None = None
    """Most instructions of a Turing program (the paper: 3). Not set: 3 to 9, and all published ones."""
    concepts: dict[str, Concepts] = {}
    """How many concepts of the other algorithmic benchmarks are asked, by benchmark."""
    algorithmic_queries: Annotated[int, Gt(0), Le(16)] = 2
    """Queries of an algorithmic concept."""
    language_texts: Annotated[int, Ge(0)] = 50
    """Maximum number of texts per held-out dataset on which the loss of plain language is measured."""
    pretrained: bool = False
    """The pretrained-only parent answers too, where the catalogue has one."""
    chat_template: bool = False
    """Prompts stand in the chat template of the model, which must be instruction-tuned; in tuning too."""
    channel: bool = False
    """Also choose by channel: the label after which the query is most probable (Min et al. 2022)."""
    finetuned: Finetuned = Finetuned()
    """In-context answers beside those of adapters tuned on the same exemplars (Dai et al. 2023)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the computation. `auto`: bf16 on a GPU, fp32 on a CPU."""
    ranks_per_model: Annotated[int, Gt(0), Le(1_024)] | Literal["auto"] = "auto"
    """Ranks, one a GPU, that hold a model together; `auto` is the fewest of the job that have the memory."""
    published: LocalPath | None = None
    """A folder with BIG-bench's own prompts, relative to the experiment file, asked beside the fresh ones."""
    endpoints: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], EndpointConfig] = {}
    """Served models by name, in small letters, digits and underscores: each is a variant of its own."""

    @property
    def exemplar_counts(self) -> tuple[int, ...]:
        """The numbers of exemplars of each class that are asked, the smallest first."""
        asked = self.exemplars_per_class
        return asked if isinstance(asked, tuple) else (asked,)

    @field_validator("exemplars_per_class")
    @classmethod
    def _in_one_form(cls, asked: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(asked, int):
            return asked
        if len(set(asked)) < len(asked):
            raise ValueError("a number is named twice")
        return tuple(sorted(asked)) if len(asked) > 1 else asked[0]

    @field_validator("endpoints")
    @classmethod
    def _names_of_their_own(cls, endpoints: dict[str, EndpointConfig]) -> dict[str, EndpointConfig]:
        for name in endpoints:
            if name in (*VARIANTS, *OUTSIDE):
                raise ValueError(f"there is a variant '{name}' already; choose another name")
        return endpoints

    @field_validator("flipped_percents", "label_noise")
    @classmethod
    def _named_once(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(shares)) < len(shares):
            raise ValueError("a share is named twice")
        return shares

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

    @field_validator("chat_template")
    @classmethod
    def _without_the_parent(cls, chat: bool, info: ValidationInfo) -> bool:
        if chat and info.data.get("pretrained"):
            raise ValueError(
                "a pretrained parent has no chat template; set this or evaluation.pretrained to false"
            )
        return chat

    @field_validator("published")
    @classmethod
    def _beside_the_file(cls, folder: Path | None, info: ValidationInfo) -> Path | None:
        return folder and (info.context or {}).get("folder", Path()) / folder


class Variant(Section):
    """What one variant changes: it is tuned by itself, and asked the same as the others."""

    seed: Annotated[int, Ge(0), Lt(2**32)] | None = None
    """Another seed of the mixture and of tuning; the suites keep the experiment's."""
    symbols: dict[str, Any] = {}
    """Settings of `symbols` that differ; those for evaluation stay."""
    mixture: dict[str, Any] = {}
    """Settings of `mixture` that differ."""
    tuning: dict[str, Any] = {}
    """Settings of `tuning` that differ."""
