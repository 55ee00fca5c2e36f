"""The symbol-tuning mixture, and the same as token blocks of a model."""

import json
from pathlib import Path

import dagster as dg
import polars as pl

from assets.common import MODELS, code_version, schema_check, schema_result, user_errors
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import TABLE, read_frames, write_frames, write_text
from symtune_pipeline.progress import Progress
from symtune_pipeline.prompts.blocks import packed_blocks
from symtune_pipeline.prompts.mixture import mixture_chunks, short_prompts
from symtune_pipeline.prompts.symbols import first_tokens, shared_token_sequences
from symtune_pipeline.prompts.text import render, tuning_prompt
from symtune_pipeline.tables import checked

GROUP = "mixture"
SHARED_SYMBOLS = "shared_symbols.json"  # beside the table: what the check found when it was made


def mixture_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The assets `tuning_mixture` and `packed_mixture`."""
    instructions = {entry.key: entry.instruction for entry in experiment.datasets()}
    distinct = experiment.mixture.distinct_first_token
    tokenizers = dg.AssetDep(
        "base_model",
        partition_mapping=dg.SpecificPartitionsPartitionMapping(list(experiment.models)),
    )

    @dg.asset(
        description="The symbol-tuning prompts as rows of references: exemplars, symbols, format, query.",
        deps=["int_tuning_examples", "symbol_pool", *([tokenizers] if distinct else [])],
        group_name=GROUP,
        kinds={"polars", "parquet"},
        code_version=code_version(
            experiment, ("data", "mixture"), "mixture.py", "symbols.py", "catalog/formats.yaml"
        ),
        check_specs=[schema_check("tuning_mixture")],
    )
    def tuning_mixture(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> dg.MaterializeResult:
        def build(folder: Path) -> Metadata:
            config, table = experiment.mixture, folder / TABLE
            examples = store.store.read_table("int_tuning_examples")
            pool = store.store.read_table("symbol_pool")
            first_ids = None
            if distinct:
                from transformers import AutoTokenizer

                models = [store.store.folder("base_model", key) for key in experiment.models]
                first_ids = first_tokens(pool, [AutoTokenizer.from_pretrained(m) for m in models])
            chunks = mixture_chunks(examples, pool, config, experiment.seed, first_ids)
            write_frames(table, (checked(chunk, "mixture") for chunk in chunks))
            short = short_prompts(pl.scan_parquet(table), config)
            for dataset, prompts in short.items():
                context.log.warning(
                    f"{dataset}: {prompts:,} prompts have fewer than {config.exemplars_per_class[0]}"
                    " exemplars per class, for lack of examples or mixture.max_characters"
                )
            [first] = pl.read_parquet(table, n_rows=1).to_dicts()
            sample = render(tuning_prompt(first, examples.sort("example")["input"], instructions))
            return {
                "sample prompt": dg.MetadataValue.md(f"```\n{sample}\n```"),
                "prompts with too few exemplars": dg.MetadataValue.json(short),
            }

        with user_errors():
            result = store.make(context, build)
        return result._replace(check_results=[schema_result(store, "tuning_mixture", "mixture")])

    @dg.asset(
        description="The tuning mixture as token blocks for this model's tokenizer.",
        # int_contamination is here so that nothing is tuned on a mixture that the guard refuses.
        deps=[
            *("base_model", "int_contamination", "int_tuning_examples"),
            *("symbol_pool", "tuning_mixture"),
        ],
        partitions_def=MODELS,
        group_name=GROUP,
        kinds={"polars", "parquet"},
        code_version=code_version(
            experiment,
            ("data", "tuning"),  # the user's own sets bring instructions
            "packing.py",
            "pieces.py",
            "prompts.py",
            "symbols.py",
            "catalog/formats.yaml",
        ),
        check_specs=[
            schema_check("packed_mixture"),
            dg.AssetCheckSpec(
                "symbols_disjoint_in_tokens",
                asset="packed_mixture",
                description="No evaluation symbol has the token ids of a tuning symbol.",
                blocking=True,
            ),
        ],
    )
    def packed_mixture(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> dg.MaterializeResult:
        def build(folder: Path) -> Metadata:
            from transformers import AutoTokenizer

            mixture = store.store.folder("tuning_mixture") / TABLE
            examples = store.store.read_table("int_tuning_examples").sort("example")
            tokenizer = AutoTokenizer.from_pretrained(
                store.store.folder("base_model", context.partition_key)
            )
            prompts = store.store.manifest("tuning_mixture").rows[TABLE]
            progress = Progress("packing", prompts, "prompts", context.log.info)
            size = experiment.tuning.block_tokens_for(find_model(context.partition_key))
            blocks = packed_blocks(
                read_frames(mixture), examples["input"], instructions, tokenizer, size, progress
            )
            write_frames(folder / TABLE, (checked(some, "packed_mixture") for some in blocks))
            lengths = pl.scan_parquet(folder / TABLE).select(
                pl.col("tokens", "target_places").list.len().cast(pl.Int64).sum(), blocks=pl.len()
            )
            tokens, targets, count = lengths.collect().row(0)
            shared = shared_token_sequences(store.store.read_table("symbol_pool"), tokenizer)
            write_text(folder / SHARED_SYMBOLS, json.dumps(shared))
            return {
                "tokens": dg.MetadataValue.int(tokens),
                "filled": dg.MetadataValue.float(tokens / (count * size)),
                "label tokens": dg.MetadataValue.int(targets),
            }

        with user_errors():
            result = store.make(context, build)
            folder = store.store.folder("packed_mixture", context.partition_key)
        shared = json.loads((folder / SHARED_SYMBOLS).read_text(encoding="utf-8"))
        found = f"{len(shared):,}, such as {shared[0]!r}" if shared else "none"
        disjoint = dg.AssetCheckResult(
            check_name="symbols_disjoint_in_tokens",
            passed=not shared,
            description=f"Evaluation symbols with the token ids of a tuning symbol: {found};"
            " a model whose tokenizer merges any must be left out.",
            metadata={"evaluation symbols": len(shared)},
        )
        schema = schema_result(store, "packed_mixture", "packed_mixture", context.partition_key)
        return result._replace(check_results=[schema, disjoint])

    return [tuning_mixture, packed_mixture]
