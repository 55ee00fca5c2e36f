"""The assets `eval_icl`, `eval_flipped` and `eval_algorithmic`: what every variant of a model predicts."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import dagster as dg
import polars as pl

from assets.step import (
    EXAMPLES,
    GPU,
    Check,
    KeptAsset,
    Step,
    Verdict,
    as_metadata,
    asset,
    clear_work,
)
from assets.variants import keys_of
from assets.versions import code_version
from resources.store import Metadata
from symtune_pipeline.contract import Table
from symtune_pipeline.evaluation.asked import keep_questions, questions
from symtune_pipeline.evaluation.checks import below_chance, not_predicted_once
from symtune_pipeline.evaluation.config import Endpoint, JobConfig, Weights
from symtune_pipeline.evaluation.predictions import of_model, paths, ran_otherwise
from symtune_pipeline.evaluation.server import in_clear
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE, content_hash, read_table
from symtune_pipeline.report.numbers import of_predictions
from symtune_pipeline.sections import EndpointConfig
from symtune_pipeline.tables import (
    ALGORITHMIC_PREDICTIONS,
    ALGORITHMIC_SUITE,
    CLASSIFICATION_PREDICTIONS,
    CLASSIFICATION_SUITE,
    Suite,
    benchmarks_of,
)

JOB = "symtune_pipeline.evaluation.job"  # which names those below, and imports none
SCORING = "symtune_pipeline.evaluation.classification"
GENERATING = "symtune_pipeline.evaluation.generation"
SERVED = "symtune_pipeline.evaluation.served"
QUESTIONS = "symtune_pipeline.evaluation.asked"


def weights(experiment: Experiment) -> dict[str, str]:
    """The asset that holds the weights of each variant."""
    parent = {"pretrained": "pretrained_model"} if experiment.evaluation.pretrained else {}
    return parent | {"untuned": "base_model"} | keys_of(experiment, "symbol_tuned_model")


Answering = str | EndpointConfig  # the asset of a variant's weights, or the server that has them


def held_as(experiment: Experiment) -> tuple[object, ...]:
    """The settings of how a model is held, on which the last bits of its predictions depend."""
    return experiment.evaluation.precision, experiment.evaluation.ranks_per_model


@dataclass(frozen=True)
class Asked:
    """Some benchmarks of a suite, and the table of the predictions."""

    asset: str
    benchmarks: Sequence[str]
    suite: Suite
    queried: Table
    predictions: Table
    code: str  # the module that asks a model in a folder
    form: Callable[[Experiment], object]  # the settings that change its answers

    def settings(self, experiment: Experiment) -> object:
        """The settings that change the table: those of the answers, and who is served."""
        served = experiment.evaluation.endpoints
        asked_so = {name: (each.model, each.serves) for name, each in served.items()}
        return (self.form(experiment), asked_so, code_version([SERVED], None) if served else None)

    def queries(self, step: Step) -> pl.DataFrame:
        """The rows of the suite that are asked."""
        suite = step.artifacts.read_table(self.queried.asset, name=self.queried.file)
        return (
            suite.filter(pl.col("benchmark").is_in(self.benchmarks)) if self.benchmarks else suite
        )

    def variants(self, step: Step) -> dict[str, Answering]:
        """The variants that this model has, each with the asset of its weights, or its server."""
        every, has_parent = weights(step.experiment), step.model.parent is not None
        own = {name: key for name, key in every.items() if has_parent or name != "pretrained"}
        return {**own, **step.experiment.endpoints_of(str(step.partition))}

    def build(self, step: Step, folder: Path) -> Metadata:
        """Predict with each variant, and write the predictions as one table."""
        table = pl.concat(self.predicted(step))
        self.predictions.write(table, folder)
        _warn_of_dropped(step, table)
        return {"path": dg.MetadataValue.json(paths(table))}

    def build_with_questions(self, step: Step, folder: Path) -> Metadata:
        """The predictions, and beside them what they are to."""
        asked = questions(step.artifacts, self.queried, EXAMPLES)  # before others make them anew
        made = self.build(step, folder)
        keep_questions(asked, folder)
        return made

    def finish(self, step: Step) -> Metadata:
        """Accuracy and gain of each setting, also of what was recognised: a history has no gaps."""
        clear_work(step)
        table = step.artifacts.read_table(self.asset, step.partition)
        if "benchmark" not in table.columns:
            table = table.with_columns(benchmark=pl.lit(self.benchmarks[0]))
        return as_metadata(of_predictions(table))

    def predicted(self, step: Step) -> Iterator[pl.DataFrame]:
        """Each variant's, kept by variant: none is asked twice, unless others are asked otherwise."""
        kept, key, variants = step.artifacts, f"predictions_{self.asset}", self.variants(step)
        made_from = {variant: self._all_of(step, variant, who) for variant, who in variants.items()}
        names = {variant: f"{step.partition}-{variant}" for variant in variants}
        known = [v for v in variants if kept.up_to_date(key, names[v], made_from[v])]
        tables = {variant: kept.read_table(key, names[variant]) for variant in known}

        def keep(variant: str, all_of: str) -> None:
            with kept.writing(key, names[variant], all_of) as folder:
                tables[variant].write_parquet(folder / TABLE)

        asked = [variant for variant in variants if variant not in tables]
        while asked:
            tables |= self._answers(step, {variant: variants[variant] for variant in asked})
            for variant in asked:
                keep(variant, made_from[variant])
            if asked := ran_otherwise(tables, asked):
                step.say(
                    f"{', '.join(asked)}: asked again, as other hardware or packages answered before"
                )
            for variant in asked:  # which a run that waits for a machine elsewhere would forget
                keep(variant, "answers of other hardware or packages")
        for variant in variants:
            yield of_model(tables[variant], str(step.partition), variant)

    def _answers(self, step: Step, variants: Mapping[str, Answering]) -> dict[str, pl.DataFrame]:
        """What the job finds of some variants."""
        result = step.context.resources.launcher.run(step.context, self._job(step, variants))
        return {variant: read_table(result / f"{variant}.parquet") for variant in variants}

    def _all_of(self, step: Step, variant: str, who: Answering) -> str:
        """The hash of all that a variant's answers depend on, but the hardware."""
        code = self._made_from(step, self._code(step, who))
        return content_hash([code, _version(step, variant, who)])

    def _job(self, step: Step, variants: Mapping[str, Answering]) -> JobConfig:
        settings = step.experiment.evaluation
        _warn_of_readable(step, variants)
        examples = step.artifacts.folder(EXAMPLES) / TABLE
        if self.suite != "algorithmic":
            step.artifacts.input_of(self.queried.asset, EXAMPLES)
        return JobConfig(
            output_folder=step.work_folder,
            checkpoint_url=step.resource.checkpoint_url(self.asset, step.partition),
            suite=self.suite,
            queries=step.artifacts.folder(self.queried.asset) / self.queried.file,
            benchmarks=tuple(self.benchmarks),
            inputs=None if self.suite == "algorithmic" else examples,
            variants={variant: _model(step, variant, who) for variant, who in variants.items()},
            made_from=self._made_from(step, step.code_version),
            precision=settings.precision,
            chat_template=settings.chat_template,
            channel=self._channel(step),
            ranks_per_model=settings.ranks_per_model,
        )

    def _channel(self, step: Step) -> bool:
        return step.experiment.evaluation.channel and self.suite == "classification"

    def _code(self, step: Step, who: Answering) -> str:
        """The version of the code and settings that ask a model: a folder's has none of a server's."""
        if isinstance(who, EndpointConfig):
            asked = step.experiment.evaluation
            return code_version([JOB, SERVED], [asked.chat_template, self._channel(step)])
        return code_version([JOB, self.code], self.form(step.experiment))

    def _made_from(self, step: Step, code: str) -> dict[str, str]:
        """What predictions depend on beside the model: of the suites the queries that are asked."""
        queries = BytesIO()
        self.queries(step).write_ipc(queries)
        digest = hashlib.sha256(queries.getbuffer()).hexdigest()
        return {"code": code, "queries": digest, EXAMPLES: step.inputs()[EXAMPLES]}

    def predicted_once(self, step: Step) -> Verdict:
        """Whether every query has one prediction of every variant."""
        table = step.artifacts.read_table(self.asset, step.partition)
        wrong = not_predicted_once(self.queries(step), table, list(self.variants(step)))
        return Verdict(
            wrong == 0,
            f"Queries without exactly one prediction of each variant: {wrong or 'none'}.",
            {"queries": dg.MetadataValue.int(wrong)},
        )

    def not_below_chance(self, step: Step) -> Verdict:
        """Whether no variant is worse than guessing."""
        low = below_chance(step.artifacts.read_table(self.asset, step.partition))
        return Verdict(not low, "; ".join(low) or "No setting is below chance.")


def _version(step: Step, variant: str, who: Answering) -> str:
    """What a variant's answers depend on in its model; where that is served is no part of it."""
    if isinstance(who, str):
        return step.inputs()[f"{who}/{step.partition}"]
    tokenizer = _version(step, variant, "base_model")
    return content_hash([variant, who.model, tokenizer])[:16]


def _model(step: Step, variant: str, who: Answering) -> Weights | Endpoint:
    version = _version(step, variant, who)
    if isinstance(who, str):
        return Weights(folder=step.artifacts.folder(who, step.partition), version=version)
    return Endpoint(
        url=who.url,
        model=who.model,
        protocol=who.protocol,
        tokenizer=step.artifacts.folder("base_model", step.partition),
        version=version,
    )


def _warn_of_readable(step: Step, variants: Mapping[str, Answering]) -> None:
    for who in variants.values():
        if isinstance(who, EndpointConfig) and in_clear(who.url):
            step.warn(
                f"Requests to {who.url} are not encrypted, so others on the network can read the"
                " prompts; use https, or a tunnel to 127.0.0.1."
            )


def _warn_of_dropped(step: Step, table: pl.DataFrame) -> None:
    shortened = int((table["dropped"] > 0).sum()) if "dropped" in table.columns else 0
    if shortened:
        step.warn(
            f"{shortened:,} of {len(table):,} prompts were longer than the model's context and lost"
            " exemplars; see the column dropped."
        )


def _predictions(asked: Asked, description: str, *, chance: bool = False) -> KeptAsset:
    """An asset with the predictions of every variant of a model."""
    every = "Every query has one prediction of every variant."
    present = Check("all_predictions_present", every, asked.predicted_once)
    not_below = Check(
        "accuracy_not_below_chance",
        "In no setting is a variant significantly below chance.",
        asked.not_below_chance,
        warns=True,
    )
    return asset(
        name=asked.asset,
        description=description,
        group="predictions",
        kinds={"pytorch", "parquet"},
        deps=lambda e: ["eval", EXAMPLES, *weights(e).values()],
        code=[JOB, asked.code, QUESTIONS],
        settings=asked.settings,
        tables=[asked.predictions],
        checks=[present, *([not_below] if chance else [])],
        partitioned=True,
        pool=GPU,
        resources=["launcher"],
        after=asked.finish,
    )(asked.build_with_questions)


def _form(experiment: Experiment) -> object:
    return experiment.evaluation.chat_template, *held_as(experiment)


def _ranked_so(experiment: Experiment) -> object:
    return _form(experiment), experiment.evaluation.channel


def _classified(name: str, benchmark: str) -> Asked:
    tables = CLASSIFICATION_SUITE, CLASSIFICATION_PREDICTIONS
    return Asked(name, [benchmark], "classification", *tables, SCORING, _ranked_so)


eval_icl = _predictions(
    _classified("eval_icl", "icl"),
    "In-context learning on held-out datasets: relevant labels or symbols, with or without instruction.",
    chance=True,
)
# Flipped labels pull a model below chance that follows what it knows.
eval_flipped = _predictions(
    _classified("eval_flipped", "flipped"),
    "Natural labels swapped among the classes: does the model follow the exemplars or its prior?",
)
eval_algorithmic = _predictions(
    Asked(
        "eval_algorithmic",
        benchmarks_of("algorithmic"),
        "algorithmic",
        ALGORITHMIC_SUITE,
        ALGORITHMIC_PREDICTIONS,
        GENERATING,
        _form,
    ),
    "List functions, Turing concepts and other algorithmic benchmarks: greedy completions, matched exactly.",
)
