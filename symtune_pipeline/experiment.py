"""One experiment: everything that a run depends on, read from one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt, MinLen
from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from symtune_pipeline.catalog.datasets import Dataset, all_datasets
from symtune_pipeline.catalog.generated import generated_sets
from symtune_pipeline.catalog.models import Model, find_model
from symtune_pipeline.catalog.splits import as_split, evaluated
from symtune_pipeline.errors import UserError, first_fault, known
from symtune_pipeline.errors.settings import nearest
from symtune_pipeline.files import name_fault, parse_yaml, read_settings
from symtune_pipeline.sections import (
    DataConfig,
    EndpointConfig,
    EvaluationConfig,
    Lora,
    MixtureConfig,
    Section,
    SymbolsConfig,
    TuningConfig,
    Variant,
)
from symtune_pipeline.store.claim import Owner
from symtune_pipeline.tables import OUTSIDE, VARIANTS

LIBRARY = Path(__file__).resolve().parent
# A wheel carries the experiments inside the library (setup.py), a checkout has them beside it.
INSTALLED = (LIBRARY / "experiments").is_dir()
RESERVED = ("incoming", "benchmarks")  # folders beside those of experiments
CHANGED = ("symbols", "mixture", "tuning")  # the sections that a variant may change
RATED = {"optimizer", "learning_rate"}  # a rate is that of an optimizer
EXPERIMENTS = (LIBRARY if INSTALLED else LIBRARY.parent) / "experiments"


class Experiment(Section):
    """A whole experiment."""

    name: str
    """What the experiment is called, also its folder in the store; the file's name unless given."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Where all randomness starts: with the same seed come the same bytes."""
    models: Annotated[tuple[str, ...], MinLen(1)]
    """The catalogue's models by key, each a partition of the graph."""
    data: DataConfig
    symbols: SymbolsConfig = SymbolsConfig()
    mixture: MixtureConfig
    tuning: TuningConfig = TuningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    variants: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Variant] = Field(default={})
    """Further tuned models by name, each with some settings of its own, compared in the same report."""

    _owner: Owner | None = PrivateAttr(default=None)

    @property
    def owner(self) -> Owner | None:
        """The file that the experiment was read from; None where it was not, as for a variant."""
        return self._owner

    @field_validator("name")
    @classmethod
    def _a_folder(cls, name: str) -> str:
        if fault := name_fault(name):
            raise ValueError(f"{name!r} cannot name a folder in the store: {fault}")
        if name in RESERVED:
            raise ValueError(f"a folder '{name}' in the store has another use; choose another name")
        return name

    @field_validator("models")
    @classmethod
    def _in_catalogue(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        return known(keys, find_model)

    @field_validator("mixture")
    @classmethod
    def _sets_are_there(cls, mixture: MixtureConfig, info: ValidationInfo) -> MixtureConfig:
        data = info.data.get("data")
        if data is None or not (mixture.sets or mixture.leave_out):
            return mixture
        if mixture.source == "tasksource":
            return mixture  # whose tasks are known once its prompts are there
        tuning = [entry for entry in _datasets(data) if entry.role == "tuning"]
        names = list(dict.fromkeys(name for entry in tuning for name in _names(entry)))
        for name in mixture.leave_out:
            if name not in names:
                near = nearest(name, names)
                hint = f" (did you mean '{near}'?)" if near else ""
                raise ValueError(f"leave_out names '{name}', which no tuning set has{hint}")
        left = [entry for entry in tuning if not _names(entry) & set(mixture.leave_out)]
        if not left:
            raise ValueError("leave_out leaves no tuning set; name fewer")
        if (mixture.sets or 0) > len(left):
            raise ValueError(f"sets is {mixture.sets}, above the {len(left)} tuning sets there are")
        return mixture

    @field_validator("mixture")
    @classmethod
    def _symbols_are_drawn(cls, mixture: MixtureConfig, info: ValidationInfo) -> MixtureConfig:
        symbols = info.data.get("symbols", SymbolsConfig())
        unused = symbols.model_dump(exclude={"leave_out_offensive"}, exclude_defaults=True)
        if mixture.source == "tasksource" and unused:
            raise ValueError(
                f"the prompts of tasksource have symbols of their own, so that symbols.{next(iter(unused))}"
                " changes nothing; leave it at its default or set source to datasets"
            )
        return mixture

    @field_validator("tuning")
    @classmethod
    def _suits_every_model(cls, tuning: TuningConfig, info: ValidationInfo) -> TuningConfig:
        keys = info.data.get("models", ())
        known(keys, lambda key: tuning.block_tokens_for(find_model(key)))
        known(keys, lambda key: lora_of(tuning, find_model(key)))
        rate = tuning.optimizer, tuning.learning_rate
        known(keys, lambda key: find_model(key).learning_rate_of(*rate))
        return tuning

    @field_validator("tuning")
    @classmethod
    def _has_a_parent(cls, tuning: TuningConfig, info: ValidationInfo) -> TuningConfig:
        models = map(find_model, info.data.get("models", ()))
        orphans = [model.key for model in models if model.parent is None]
        if tuning.model == "pretrained" and orphans:
            raise ValueError(
                f"the catalogue names no pretrained-only parent of '{orphans[0]}'; set tuning.model to"
                " untuned or take another model"
            )
        return tuning

    @field_validator("tuning")
    @classmethod
    def _best_is_measured(cls, tuning: TuningConfig, info: ValidationInfo) -> TuningConfig:
        mixture = info.data.get("mixture")
        if tuning.keep == "best" and mixture and not mixture.held_out_prompts:
            raise ValueError(
                "keep is best, and without held-out prompts nothing is measured; raise"
                " mixture.held_out_prompts above 0 or set keep to last"
            )
        return tuning

    @field_validator("evaluation")
    @classmethod
    def _suits_a_chat(cls, evaluation: EvaluationConfig, info: ValidationInfo) -> EvaluationConfig:
        if not evaluation.chat_template:
            return evaluation
        models, tuning = map(find_model, info.data.get("models", ())), info.data.get("tuning")
        others = [model.key for model in models if model.instruct is None]
        if others:
            raise ValueError(
                f"'{others[0]}' is no instruction-tuned model and has no chat template; set chat_template"
                " to false or take another model"
            )
        if tuning and tuning.model == "pretrained":
            raise ValueError(
                "a pretrained parent has no chat template; set chat_template to false or tuning.model to"
                " untuned"
            )
        if tuning and tuning.label_smoothing:
            raise ValueError(
                "in a chat the query's label has no space before it and so other tokens than the symbols of"
                " the exemplars; set chat_template to false or tuning.label_smoothing to 0"
            )
        return evaluation

    @field_validator("evaluation")
    @classmethod
    def _endpoints_serve_models(
        cls, evaluation: EvaluationConfig, info: ValidationInfo
    ) -> EvaluationConfig:
        models = info.data.get("models", ())
        for name, endpoint in evaluation.endpoints.items():
            if endpoint.serves is None and len(models) > 1:
                raise ValueError(
                    f"endpoint '{name}' does not say which of {', '.join(models)} it serves; set"
                    f" endpoints.{name}.serves"
                )
            if endpoint.serves is not None and models and endpoint.serves not in models:
                raise ValueError(
                    f"endpoint '{name}' serves '{endpoint.serves}', which is none of the experiment's"
                    f" models; name one of {', '.join(models)}"
                )
        return evaluation

    @field_validator("variants")
    @classmethod
    def _differ(cls, variants: dict[str, Variant], info: ValidationInfo) -> dict[str, Variant]:
        if any(name not in info.data for name in cls.model_fields if name != "variants"):
            return variants  # another setting is wrong, and named
        of_recipe = {_recipe(info.data): "tuned"}
        for name, variant in variants.items():
            if name in (*VARIANTS, *OUTSIDE, *info.data["evaluation"].endpoints):
                raise ValueError(f"there is a variant '{name}' already; choose another name")
            same = of_recipe.setdefault(_recipe(dict(_changed(info.data, name, variant))), name)
            if same != name:
                raise ValueError(
                    f"'{name}' has the same settings as '{same}'; change one or leave it out"
                )
        return variants

    def endpoints_of(self, model: str) -> dict[str, EndpointConfig]:
        """The served variants of a model, by name."""
        every = self.evaluation.endpoints
        return {name: each for name, each in every.items() if each.serves in (None, model)}

    def variant(self, name: str) -> Experiment:
        """The experiment that a variant is tuned with: its own settings in place of the others.

        Its name is the experiment's with the variant's.
        """
        return _changed(dict(self), name, self.variants[name])

    def tuned(self) -> dict[str, Experiment]:
        """The experiment as `tuned`, and every variant, by name."""
        return {"tuned": self, **{name: self.variant(name) for name in self.variants}}

    def recipes(self) -> dict[str, str]:
        """For `tuned` and every variant the first of those that differ from it in the seed alone."""
        first: dict[str, str] = {}
        return {
            name: first.setdefault(_recipe(dict(experiment) | {"seed": None}), name)
            for name, experiment in self.tuned().items()
        }

    def datasets(self) -> list[Dataset]:
        """The datasets of this experiment: the catalogue's in its order, then the user's own."""
        return _datasets(self.data)

    def left_out(self) -> list[str]:
        """The tuning sets that no prompt is drawn from, by `mixture.leave_out`."""
        named = set(self.mixture.leave_out)
        return [e.key for e in self.datasets() if e.role == "tuning" and _names(e) & named]

    def dataset(self, key: str) -> Dataset:
        """The dataset called `key`; raises UserError where this experiment has none."""
        datasets = {entry.key: entry for entry in self.datasets()}
        if key not in datasets:
            raise UserError(
                f"Experiment '{self.name}' has no dataset '{key}'; choose one of"
                f" {', '.join(datasets)}."
            )
        return datasets[key]

    def model(self, key: str) -> Model:
        """The model called `key`; raises UserError where this experiment has none."""
        if find_model(key).key not in self.models:
            raise UserError(
                f"Experiment '{self.name}' has no model '{key}'; choose one of {', '.join(self.models)},"
                " or add it to 'models' in the experiment's file."
            )
        return find_model(key)

    def instructions(self) -> dict[str, str]:
        """The instruction of each dataset."""
        return {entry.key: entry.instruction for entry in self.datasets()}


def lora_of(tuning: TuningConfig, model: Model) -> Lora | None:
    """The adapters that a model is tuned with; none where its own weights are.

    Raises UserError where only some projections are tuned too: adapters stand beside all linear layers.
    """
    lora = tuning.lora or Lora(rank=model.plan.lora_rank or 0)
    if lora.rank and tuning.trainable != "all":
        raise UserError(
            f"tuning.trainable is {tuning.trainable}, and '{model.key}' is tuned with adapters, which"
            " stand beside all linear layers; set tuning.lora.rank to 0 or tuning.trainable to all."
        )
    return lora if lora.rank else None


def _datasets(data: DataConfig) -> list[Dataset]:
    """The catalogue's sets that are chosen, in its order, then the user's own."""
    held_out, every = evaluated(data.split), all_datasets()
    of_source = (
        generated_sets() if data.source == "generated" else [k for k, e in every.items() if e.hub]
    )
    keys = set(data.datasets or of_source)
    chosen = [as_split(entry, held_out) for key, entry in every.items() if key in keys]
    own = [described.entry(key) for key, described in data.own.items()]
    return (chosen if data.source else []) + own


def _names(entry: Dataset) -> set[str]:
    """What a set is named by: its key, its task type and its family."""
    return {entry.key, entry.task_type, entry.family or entry.key}


def _recipe(settings: Mapping[str, Any]) -> str:
    """All settings that what is tuned depends on."""
    return repr([settings[name] for name in ("seed", *CHANGED)])


def _changed(settings: Mapping[str, Any], name: str, variant: Variant) -> Experiment:
    """An experiment with a variant's settings in place of its own; raises ValueError where one is wrong."""
    seed = settings["seed"] if variant.seed is None else variant.seed
    own: dict[str, Any] = {"name": f"{settings['name']}-{name}", "seed": seed, "variants": {}}
    within: tuple[str, type[Section]] = ("", Experiment)
    if settings["tuning"].learning_rate and {"optimizer"} == variant.tuning.keys() & RATED:
        raise ValueError(
            f"in '{name}', tuning.optimizer: the learning rate of the experiment is another optimizer's; set"
            " tuning.learning_rate here too"
        )
    try:
        for part in CHANGED:
            within = (f"{part}.", type(settings[part]))
            given = {
                name: getattr(settings[part], name) for name in settings[part].model_fields_set
            }
            own[part] = within[1].model_validate(given | getattr(variant, part))
        within = ("", Experiment)
        return Experiment.model_validate({**settings, **own})
    except ValidationError as error:
        where, reason = first_fault(error, within[1].model_json_schema())
        raise ValueError(f"in '{name}', {within[0]}{'.'.join(where)}: {reason}") from error


def load_experiment(name: str, changes: Sequence[str] = ()) -> Experiment:
    """Read an experiment by its name in experiments/ or by the path of its file.

    `changes` come in place of the file's settings, each as `tuning.learning_rate=1e-4` with a value in
    YAML. Raises UserError for a file that is missing or no YAML, and for a setting that comes twice, is
    unknown, of the wrong kind or out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else EXPERIMENTS / f"{name}.yaml"
    try:
        text = read_settings(path)
    except (OSError, UnicodeError) as error:
        known = ", ".join(sorted(p.stem for p in EXPERIMENTS.glob("*.yaml")))
        raise UserError(
            f"Experiment file {path} cannot be read ({error}); set SYMTUNE_EXPERIMENT to one of"
            f" {known} or to the path of your own file."
        ) from error
    where = f"Experiment file {path}"
    settings = parse_yaml(text, where)
    if not isinstance(settings, dict):
        raise UserError(f"{where} must hold settings by name, such as 'seed: 0'.")
    for change in changes:
        settings = _set(settings, change)
    try:
        experiment = Experiment.model_validate(
            {"name": path.stem} | settings, context={"folder": path.parent}
        )
    except ValidationError as error:
        names, reason = first_fault(error, Experiment.model_json_schema())
        where += "".join(f" with --set {change}" for change in changes)
        raise UserError(
            f"{where}, setting '{'.'.join(names)}': {reason}; docs/settings.md describes every setting."
        ) from error
    # A gain is over the untuned model, and says nothing about the tuning of another one.
    if experiment.tuning.model != "untuned":
        raise UserError(
            f"{where}, setting 'tuning.model': only a variant can be tuned from the pretrained parent, so set"
            " it within 'variants'; docs/settings.md describes every setting."
        )
    experiment._owner = _owner(path, text)
    return experiment


def _owner(path: Path, text: str) -> Owner:
    """The experiment file, as a store knows it: a shipped one by its name, wherever the checkout is."""
    resolved, shipped = path.resolve(), EXPERIMENTS.resolve()
    if resolved.is_relative_to(shipped):
        resolved = Path(shipped.name, resolved.relative_to(shipped))
    return Owner(resolved.as_posix(), sha256(text.encode()).hexdigest())


def _set(settings: Mapping[Any, Any], change: str) -> dict[Any, Any]:
    """Settings with one of them changed; raises UserError where the change is no setting and value."""
    setting, equals, value = change.partition("=")
    names = setting.strip().split(".")
    if not equals or not all(names):
        raise UserError(
            f"Option --set takes a setting and its value, such as tuning.learning_rate=1e-4, not '{change}'."
        )
    if names == ["name"]:  # the history of runs, and every other command, know the file's
        raise UserError(
            "Option --set cannot change the name, which only the experiment's file gives; copy the file under"
            " another name, and run that."
        )
    changed = section = dict(settings)  # copies: an alias in YAML is one mapping in two places
    for name in names[:-1]:
        inner = section.get(name)
        section[name] = dict(inner) if isinstance(inner, dict) else {}
        section = section[name]
    section[names[-1]] = parse_yaml(value, f"Option --set {setting}")
    return changed
