"""The evaluation suites and the predictions of every model on them."""

from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl

from assets.common import GPU, MODELS, code_version, schema_check, schema_result, user_errors
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.evaluation.benchmarks.published import published_files, read_published
from symtune_pipeline.evaluation.checks import below_chance, not_answered_once
from symtune_pipeline.evaluation.suites import (
    ALGORITHMIC,
    CLASSIFICATION,
    algorithmic_suite,
    asked_queries,
    classification_suite,
    short_of_queries,
)
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE, content_hash, sha256
from symtune_pipeline.progress import Progress
from symtune_pipeline.tables import checked

GROUP = "evaluation"
NOT_BELOW_CHANCE = dg.AssetCheckSpec(
    "accuracy_not_below_chance",
    asset="eval_icl",
    description="No model is worse than guessing in a setting, beyond what few queries explain.",
)


def evaluation_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The assets `eval`, `eval_icl`, `eval_flipped` and `eval_algorithmic`."""
    model_assets = {"untuned": "base_model", "tuned": "symbol_tuned_model"}
    if experiment.evaluation.pretrained:
        model_assets = {"pretrained": "pretrained_model"} | model_assets

    @dg.asset(
        name="eval",
        description="Every prompt of every benchmark, as references. Root of the evaluation.",
        deps=["int_evaluation_examples", "symbol_pool"],
        group_name=GROUP,
        kinds={"polars", "parquet"},
        code_version=code_version(
            experiment,
            ("data", "evaluation"),  # the user's own sets bring instructions
            *("mixture.py", "symbols.py", "catalog/formats.yaml", "catalog/datasets.yaml"),
            *("evaluation/suites.py", "evaluation/published.py"),
            *("evaluation/list_functions.py", "evaluation/turing.py"),
        ),
    )
    def eval_suites(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> dg.MaterializeResult:
        config = experiment.evaluation

        def build(folder: Path) -> Metadata:
            examples = store.store.read_table("int_evaluation_examples")
            pool = store.store.read_table("symbol_pool")
            instructions = {entry.key: entry.instruction for entry in experiment.datasets()}
            suite = classification_suite(examples, pool, instructions, config, experiment.seed)
            published = read_published(config.published) if config.published else None
            algorithmic = algorithmic_suite(config, experiment.seed, published)
            suite.write_parquet(folder / CLASSIFICATION)
            algorithmic.write_parquet(folder / ALGORITHMIC)
            short = short_of_queries(suite, config)
            if short:
                counts = ", ".join(f"{dataset} {count}" for dataset, count in short.items())
                context.log.warning(
                    f"Of {asked_queries(config)} queries a set, these have fewer: {counts}."
                )
            return {
                "prompts": dg.MetadataValue.int(len(suite) + len(algorithmic)),
                "sets with fewer queries than asked for": dg.MetadataValue.json(short),
            }

        with user_errors():
            files = published_files(config.published) if config.published else []
            return store.make(context, build, sources=[sha256(path) for path in files])

    def variants(partition: str) -> list[str]:
        """The variants of a model that are asked."""
        no_parent = find_model(partition).pretrained is None
        return [name for name in model_assets if not (name == "pretrained" and no_parent)]

    def predictions(
        name: str, description: str, benchmarks: list[str], *files: str
    ) -> dg.AssetsDefinition:
        """An asset with the predictions of every variant of a model on some benchmarks."""
        algorithmic = "icl" not in benchmarks and "flipped" not in benchmarks
        schema = "algorithmic_predictions" if algorithmic else "classification_predictions"
        version = code_version(
            experiment,
            (),
            "prompts.py",
            "pieces.py",
            "attention.py",
            "catalog/formats.yaml",
            *files,
        )

        @dg.asset(
            name=name,
            description=description,
            deps=["eval", "int_evaluation_examples", *model_assets.values()],
            partitions_def=MODELS,
            group_name=GROUP,
            kinds={"pytorch", "parquet"},
            code_version=version,
            pool=GPU,
            check_specs=[
                schema_check(name),
                dg.AssetCheckSpec(
                    "all_predictions_present",
                    asset=name,
                    description="Every query is answered once by every model.",
                    blocking=True,
                ),
                # Flipped labels pull a model below chance that follows what it knows.
                *([NOT_BELOW_CHANCE] if "icl" in benchmarks else []),
            ],
        )
        def predicted(
            context: dg.AssetExecutionContext, store: StoreResource
        ) -> dg.MaterializeResult:
            from symtune_pipeline.evaluation.predictions import classify, generate

            partition = context.partition_key

            def predict(variant: str, suite: pl.DataFrame) -> pl.DataFrame:
                folder = store.store.folder(model_assets[variant], partition)
                progress = Progress(f"{variant} model", len(suite), "queries", context.log.info)
                if algorithmic:
                    return generate(folder, suite, progress)
                examples = store.store.read_table("int_evaluation_examples").sort("example")
                return classify(folder, suite, examples["input"].to_list(), progress)

            file = ALGORITHMIC if algorithmic else CLASSIFICATION

            def asked_of_models() -> pl.DataFrame:
                suite = store.store.read_table("eval", name=file)
                return suite.filter(pl.col("benchmark").is_in(benchmarks))

            def build(folder: Path) -> Metadata:
                suite = asked_of_models()
                versions = store.inputs(context, context.asset_key)
                asked = [version, versions["eval"], versions["int_evaluation_examples"]]
                tables = []
                for variant in variants(partition):
                    asset = model_assets[variant]
                    # Kept per model, so that no model is ever asked the same twice, also after an
                    # interrupted run.
                    table = store.store.table_once(
                        f"predictions_{name}",
                        f"{partition}-{variant}",
                        content_hash([*asked, versions[f"{asset}/{partition}"]]),
                        partial(predict, variant, suite),
                    )
                    tables.append(
                        table.with_columns(partition=pl.lit(partition), model=pl.lit(variant))
                    )
                table = pl.concat(tables)
                checked(table, schema).write_parquet(folder / TABLE)
                if not algorithmic:
                    shortened = int((table["dropped"] > 0).sum())
                    if shortened:
                        context.log.warning(
                            f"{shortened:,} of {len(table):,} prompts were longer than the model's"
                            " context and lost exemplars; see the column dropped."
                        )
                right = table.group_by("model").agg(pl.col("correct").mean()).sort("model")
                return {"accuracy": dg.MetadataValue.json(dict(right.iter_rows()))}

            with user_errors():
                result = store.make(context, build)
                table = store.store.read_table(name, partition)
                wrong = not_answered_once(asked_of_models(), table, variants(partition))
            checks = [
                schema_result(store, name, schema, partition),
                dg.AssetCheckResult(
                    check_name="all_predictions_present",
                    passed=wrong == 0,
                    description=f"Queries that a model answered never or twice: {wrong or 'none'}.",
                    metadata={"queries": wrong},
                ),
            ]
            if "icl" in benchmarks:
                low = below_chance(table)
                checks.append(
                    dg.AssetCheckResult(
                        check_name=NOT_BELOW_CHANCE.name,
                        passed=not low,
                        severity=dg.AssetCheckSeverity.WARN,
                        description="; ".join(low) or "No setting is below chance.",
                    )
                )
            return result._replace(check_results=checks)

        return predicted

    scoring = (
        "evaluation/classification.py",
        "evaluation/scorer.py",
        "evaluation/suites.py",
    )
    return [
        eval_suites,
        predictions(
            "eval_icl",
            "In-context learning on held-out sets: relevant labels or symbols, with or without instruction.",
            ["icl"],
            *scoring,
        ),
        predictions(
            "eval_flipped",
            "Natural labels swapped among the classes: does the model follow the exemplars or its prior?",
            ["flipped"],
            *scoring,
        ),
        predictions(
            "eval_algorithmic",
            "List functions and simple Turing concepts, answered by greedy generation and matched exactly.",
            ["list_functions", "turing_concepts"],
            "evaluation/algorithmic.py",
        ),
    ]
