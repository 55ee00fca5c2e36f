"""Small evaluation jobs: a suite in a folder, models that answer it, and what ranks do with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tiny_models import save_tiny_model

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.evaluation.config import JobConfig, Weights
from symtune_pipeline.evaluation.suites import algorithmic_suite, classification_suite
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import Suite, benchmarks_of

FEW = EvaluationConfig(
    contexts=2, queries=3, exemplars_per_class=2, algorithmic_shots=2, list_functions=15,
    turing_programs=8, algorithmic_queries=2,
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Both suites as files, with the inputs that the first refers to."""

    folder: Path

    @classmethod
    def written(cls, folder: Path, examples: pl.DataFrame, symbols: pl.DataFrame) -> Asked:
        instructions = {key: entry.instruction for key, entry in all_datasets().items()}
        suite = classification_suite(examples, symbols, instructions, FEW, seed=0)
        suite.write_parquet(folder / "classification.parquet")
        algorithmic_suite(FEW, seed=0).write_parquet(folder / "algorithmic.parquet")
        examples.write_parquet(folder / "examples.parquet")
        return cls(folder)

    def job(
        self, output: Path, suite: Suite, models: Mapping[str, Path], **changed: Any
    ) -> JobConfig:
        """A job that asks the models the whole suite."""
        settings: dict[str, Any] = {
            "output_folder": output,
            "suite": suite,
            "queries": self.folder / f"{suite}.parquet",
            "benchmarks": benchmarks_of(suite),
            "inputs": self.folder / "examples.parquet" if suite == "classification" else None,
            "variants": {
                name: Weights(folder=folder, version=name) for name, folder in models.items()
            },
            "made_from": {"code": "1"},
            "precision": "fp32",
            "chat_template": False,
        }
        return JobConfig(**settings | changed)


def save_model_that_reads(folder: Path, architecture: str, tokenizer: Any, **settings: Any) -> Path:
    """A tiny random model of a family, with a tokenizer of 600 tokens."""
    tokenizer = deepcopy(tokenizer)
    known = {"vocab_size": len(tokenizer), "max_position_embeddings": 4_096}
    save_tiny_model(folder, architecture, **known | settings)
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder)
    return folder


def tables(config: JobConfig) -> dict[str, bytes]:
    """The bytes of the tables that a job has made, by variant."""
    return {path.stem: path.read_bytes() for path in sorted(config.result_folder.glob("*.parquet"))}


def kept(config: JobConfig) -> list[tuple[str, int]]:
    """The passes whose answers a job has kept: of which table, and their numbers."""
    found = []
    for path in config.output_folder.glob("answers/*/*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            with suppress(ValueError, TypeError):  # a test has damaged it
                found.append((path.parent.name, json.loads(line)[0]))
    return found
