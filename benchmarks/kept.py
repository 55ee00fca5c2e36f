"""What docs/results.md is made from: an experiment's outcomes, a row a query, kept in the repository.

    python -m benchmarks.kept generated-to-real

copies the latest outcomes of the experiment to `benchmarks/results/<experiment>/`. `make results` writes
the tables and charts from there, so that every figure can be computed again without a model.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.common import RESULTS
from symtune_pipeline.environment import home_folder
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import CATALOG_VARIANTS

OUTCOMES, LANGUAGE, FACTS = "outcomes.parquet", "language.parquet", "facts.json"


@dataclass(frozen=True)
class Kept:
    """An experiment's outcomes (`int_outcomes`), losses of plain language (`eval_language`), and facts.

    `facts` has, of every tuned variant, the recipe (the variant it differs from in its seed alone); and by
    model and variant the sets, tokens, steps and seconds of tuning.
    """

    outcomes: pl.DataFrame
    language: pl.DataFrame
    facts: dict[str, Any]

    @property
    def variants(self) -> pl.DataFrame:
        """The table `catalog_variants`."""
        return CATALOG_VARIANTS.frame(list(self.facts["recipes"].items()), orient="row")


def read(name: str) -> Kept:
    """What is kept of an experiment."""
    folder = RESULTS / name
    return Kept(
        pl.read_parquet(folder / OUTCOMES),
        pl.read_parquet(folder / LANGUAGE),
        json.loads((folder / FACTS).read_text(encoding="utf-8")),
    )


def keep(experiment: Experiment) -> Path:
    """Copy the experiment's latest outcomes; returns their folder."""
    store, folder = Store(home_folder() / experiment.name), RESULTS / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    # A confidence of four digits takes a tenth of the space, and no table here shows more.
    outcomes = store.read_table("int_outcomes").with_columns(
        pl.col("confidence").cast(pl.Float32).round(4)
    )
    outcomes.write_parquet(folder / OUTCOMES, compression="zstd", compression_level=19)
    language = pl.concat(
        store.read_table("eval_language", model) for model in experiment.models
    ).with_columns(pl.col("nats").cast(pl.Float32).cast(pl.Float64))
    language.write_parquet(folder / LANGUAGE, compression="zstd", compression_level=19)
    recipes = experiment.recipes()
    cost = {
        model: {variant: _cost(store, model, variant) for variant in recipes}
        for model in experiment.models
    }
    facts = {"recipes": recipes, "cost": cost}
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return folder


def _cost(store: Store, model: str, variant: str) -> dict[str, int]:
    """What a variant was tuned on, and what that took."""
    end = "" if variant == "tuned" else f"_{variant}"
    log = store.read_table(f"tuning_log{end}", model)
    # A variant that draws the same prompts has no mixture of its own.
    own = f"tuning_mixture{end}"
    mixture = store.read_table(own if store.find(own) else "tuning_mixture")
    return {
        "sets": mixture["dataset"].n_unique(),
        "tokens": log["tokens"].max(),
        "steps": log["step"].max(),
        "seconds": round(log["seconds"].drop_nulls()[-1]),
    }


if __name__ == "__main__":
    try:
        for name in sys.argv[1:]:
            print(keep(load_experiment(name)))
    except UserError as error:
        sys.exit(f"error: {error}")
