"""The two losses against each other: `final_label` (Wei et al. 2023) and `all_labels`.

For each seed the pipeline runs twice on the experiment's budget, with nothing but `tuning.loss`
changed: the same prompts, blocks, steps and evaluation, so equal compute. The paired difference is
the one that the marts compute between two variants, with `final_label` standing for the untuned one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import yaml

from benchmarks.common import ROOT, SYMTUNE, Record, report
from symtune_pipeline.environment import home_folder
from symtune_pipeline.experiment import EXPERIMENTS, Experiment, load_experiment
from symtune_pipeline.report.tables import (
    OVER_DRAWS,
    Comparison,
    accuracy_text,
    comparisons,
    fraction_text,
    gain_text,
    p_text,
    setting_label,
)
from symtune_pipeline.sql.engine import run_model
from symtune_pipeline.sql.model import load_models
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import SOURCES

BUDGET = "quickstart"
SEEDS = (0, 1)
FIRST, SECOND = "final_label", "all_labels"
# The marts pair the tuned variant's predictions with the untuned one's; here they pair the losses.
STANDS_FOR = {FIRST: "untuned", SECOND: "tuned"}
UNTUNED = "pretrained"
PREDICTIONS = ("eval_icl", "eval_flipped", "eval_algorithmic")


def predictions(seed: int, loss: str) -> dict[str, pl.DataFrame]:
    """Predictions of the tuned and the untuned variant by asset, from a run if there are none yet."""
    kept = home_folder() / "benchmarks" / "losses" / f"{seed}-{loss}"
    if not kept.is_dir():
        experiment = _materialized(seed, loss)
        store = Store(home_folder() / experiment.name)
        kept.mkdir(parents=True)
        for name in PREDICTIONS:
            table = store.read_table(name, experiment.models[0])
            table.write_parquet(kept / f"{name}.parquet")
    return {name: pl.read_parquet(kept / f"{name}.parquet") for name in PREDICTIONS}


def _materialized(seed: int, loss: str) -> Experiment:
    """The experiment, after its predictions were made."""
    # One experiment for both losses: what does not depend on the loss is made once.
    path = home_folder() / "benchmarks" / f"losses-{seed}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_load((EXPERIMENTS / f"{BUDGET}.yaml").read_text(encoding="utf-8"))
    settings |= {"seed": seed, "tuning": settings["tuning"] | {"loss": loss}}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    wanted = " or ".join(f"+key:{name}" for name in PREDICTIONS)
    command = [SYMTUNE, "run", "--experiment", str(path), "--select", wanted]
    subprocess.run(command, cwd=ROOT, check=True)
    return load_experiment(str(path))


def of_both_losses(name: str, seed: int) -> pl.DataFrame:
    """An asset's predictions, untuned and of both losses, under the marts' names of variants."""
    first, second = predictions(seed, FIRST)[name], predictions(seed, SECOND)[name]
    tuned = pl.col("variant") == "tuned"
    frame = pl.concat(
        [
            first.filter(~tuned).with_columns(variant=pl.lit(UNTUNED)),
            first.filter(tuned).with_columns(variant=pl.lit(STANDS_FOR[FIRST])),
            second.filter(tuned).with_columns(variant=pl.lit(STANDS_FOR[SECOND])),
        ]
    )
    # A draw of exemplars of one seed is no draw of another.
    return frame.with_columns(context=pl.col("context") + 1_000 * seed)


def summary(folder: Path) -> pl.DataFrame:
    """The rows of mart_summary; the column model has every seed and all together."""
    for name in PREDICTIONS:
        seeds = {f"seed {seed}": of_both_losses(name, seed) for seed in SEEDS}
        together = pl.concat(seeds.values())
        frames = [
            frame.with_columns(model=pl.lit(which))
            for which, frame in {**seeds, "all seeds": together}.items()
        ]
        pl.concat(frames).write_parquet(folder / f"{name}.parquet")
    sql = load_models(ROOT / "dbt_like_sql", SOURCES)
    for name in ("int_outcomes", "int_scores", "mart_summary"):
        tables = {table: [folder / f"{table}.parquet"] for table in sql[name].depends_on}
        run_model(sql[name], tables, {}, folder / f"{name}.parquet")
    return pl.read_parquet(folder / "mart_summary.parquet")


def markdown(rows: pl.DataFrame) -> str:
    """A line per seed and setting, for docs/results.md."""
    heads = ("seeds", "setting", "n", "untuned", FIRST, SECOND, "points", "p")
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for pair in comparisons_by_seed(rows):
        first, second = pair.rows["untuned"], pair.rows["tuned"]
        cells = (
            pair.model,
            setting_label(pair.benchmark, pair.setting),
            str(first["n"]),
            fraction_text(pair.rows[UNTUNED]["accuracy"]),
            accuracy_text(first),
            accuracy_text(second),
            gain_text(second, OVER_DRAWS),
            p_text(second["p"]),
        )
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def comparisons_by_seed(rows: pl.DataFrame) -> list[Comparison]:
    """The settings of all seeds together, then of each."""
    seeds = rows["model"].unique().sort()
    return [pair for seed in seeds for pair in comparisons(rows.filter(model=seed))]


def main() -> None:
    """Run what is missing, write `benchmarks/results/losses.json`, print both tables."""
    with TemporaryDirectory() as folder:
        rows = summary(Path(folder))
    records = [
        Record(
            f"{pair.model}: {setting_label(pair.benchmark, pair.setting)}",
            pair.rows["tuned"]["accuracy"],
            pair.rows["untuned"]["accuracy"],
            "accuracy",
        )
        for pair in comparisons_by_seed(rows)
    ]
    report("losses", records)
    print(markdown(rows))


if __name__ == "__main__":
    main()
