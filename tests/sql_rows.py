"""Rows of the tables that SQL reads, and running SQL models over them, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from conftest import ROOT

from symtune_pipeline.sql import engine
from symtune_pipeline.sql.model import load_models
from symtune_pipeline.tables import SOURCES, flipped_setting

MODELS = load_models(ROOT / "dbt_like_sql", SOURCES)
VARIABLES: dict[str, int | float | str] = {"cap": 100, "seed": 1, "labels": "symbols"}

Row = dict[str, Any]
Run = Callable[..., list[Row]]


def running(folder: Path) -> Run:
    """Runs SQL models and all they depend on over rows of the sources; gives the last one's rows."""

    def run(
        *names: str, cap: int = 100, seed: int = 1, labels: str = "symbols", **sources: list[Row]
    ) -> list[Row]:
        variables: dict[str, int | float | str] = {"cap": cap, "seed": seed, "labels": labels}
        upstream = set().union(*map(_upstream, names))
        tables: dict[str, list[Path] | pl.DataFrame] = {}
        for source in SOURCES.keys() & upstream:
            path = folder / f"{source}.parquet"
            SOURCES[source].frame(sources.get(source, [])).write_parquet(path)
            tables[source] = [path]
        for model in (MODELS[key] for key in MODELS if key in upstream):
            out = folder / f"{model.name}.parquet"
            rows = engine.run_model(model, tables, variables, out)
            tables[model.name] = [out]
            assert rows == pl.read_parquet(out).height
            assert tuple(pl.read_parquet_schema(out)) == tuple(model.columns)
        return pl.read_parquet(folder / f"{names[-1]}.parquet").to_dicts()

    return run


def _upstream(name: str) -> set[str]:
    """The table and every table that it is made from."""
    inputs = MODELS[name].depends_on if name in MODELS else ()
    return {name}.union(*map(_upstream, inputs))


def raw(example: str, text: str | None, label_id: int = 0) -> Row:
    """A raw row from its name `<dataset>/<split>/<row>`."""
    dataset, split, _ = example.split("/")
    return {
        "example_id": example,
        "dataset": dataset,
        "task_type": "topic",
        "split": split,
        "input": text,
        "label": "abc"[label_id],
        "label_id": label_id,
    }


def catalog(**roles: str) -> list[Row]:
    return [
        {
            "dataset": dataset,
            "role": role,
            "task_type": "topic",
            "labels": ["a", "b", "c"],
            "instruction": "Which?",
        }
        for dataset, role in roles.items()
    ]


def ids(rows: list[Row]) -> list[str]:
    return [row["example_id"] for row in rows]


def prompt(dataset: str, *labels: str, instructed: bool = False) -> Row:
    """A prompt of the mixture with these labels."""
    row: Row = {"prompt": 0, "dataset": dataset, "format": 0, "examples": [0], "targets": [0]}
    return row | {"labels": list(labels), "instructed": instructed}


def predictions(variant: str, correct: str, **fields: Any) -> list[Row]:
    """One prediction a character of `correct`: '1' right, '0' wrong."""
    row: Row = {
        "model": "micro",
        "variant": variant,
        "setting": "symbols, no instruction",
        "flipped_percent": 0,
        "dataset": "held",
        "context": 0,
        "labels": ["x", "y"],
        "target": 0,
        "logprobs": [-1.0, -2.0],
        "chance": 0.5,
    }
    return [
        row | {"query": i, "prediction": int(c == "0"), "correct": c == "1"} | fields
        for i, c in enumerate(correct)
    ]


def flips(variant: str, correct: str, percent: int, **fields: Any) -> list[Row]:
    """Predictions where so many percent of the exemplars have another class's label."""
    flipped = {"setting": flipped_setting(percent), "flipped_percent": percent}
    return predictions(variant, correct, **flipped, **fields)


def completions(variant: str, correct: str, **fields: Any) -> list[Row]:
    row: Row = {
        "model": "micro",
        "variant": variant,
        "benchmark": "list_functions",
        "setting": "fresh",
        "concept": "c001",
        "category": "slicing",
        "context": 0,
        "target": "[1]",
    }
    return [
        row | {"query": i, "completion": "[1]" if c == "1" else "", "correct": c == "1"} | fields
        for i, c in enumerate(correct)
    ]
