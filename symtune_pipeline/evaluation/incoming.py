"""Models that someone else has put into a folder: whether one is complete, and how it does.

A folder may be found while it is being copied. What a model needs is checked file by file, so that
no time has to pass before a folder is taken for complete.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.accuracy import by_setting
from symtune_pipeline.evaluation.suites import ALGORITHMIC, CLASSIFICATION
from symtune_pipeline.model_folder import lacking
from symtune_pipeline.progress import Progress
from symtune_pipeline.schemas import checked
from symtune_pipeline.storage import Store, content_hash, sha256


def fingerprint(folder: Path) -> str:
    """Changes when a file of the folder is replaced; reads no weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return content_hash(facts)[:12]


def score_folder(store: Store, folder: Path, say: Callable[[str], None]) -> pl.DataFrame:
    """Accuracy of the model in `folder` on the evaluation suites, with 95% Wilson intervals.

    A row per setting of every benchmark, as `by_setting` gives them, by name. The predictions are kept in
    the store as `incoming_classification` and `incoming_algorithmic`, by the folder's name; where
    they were made from the same files and suites they are read from there. Raises UserError where
    the folder holds no complete model that transformers loads, or the suites were never made.
    """
    reason = lacking(folder)
    if reason:
        raise UserError(
            f"Folder {folder} is no complete model: {reason}; put a model there as transformers'"
            " save_pretrained writes it, with its tokenizer."
        )
    _check_config(folder)
    from symtune_pipeline.evaluation.predictions import classify, generate

    suites = {name: store.read_table("eval", name=name) for name in (CLASSIFICATION, ALGORITHMIC)}
    examples = store.read_table("int_evaluation_examples").sort("example")
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    versions = [store.manifest(name).version for name in ("eval", "int_evaluation_examples")]
    made_from = content_hash([files, versions])

    def progress(suite: pl.DataFrame) -> Progress:
        return Progress(folder.name, len(suite), "queries", say)

    def classification() -> pl.DataFrame:
        suite = suites[CLASSIFICATION]
        table = classify(folder, suite, examples["input"].to_list(), progress(suite))
        return _named(table, folder, "classification_predictions")

    def algorithmic() -> pl.DataFrame:
        suite = suites[ALGORITHMIC]
        return _named(generate(folder, suite, progress(suite)), folder, "algorithmic_predictions")

    return by_setting(
        store.table_once("incoming_classification", folder.name, made_from, classification),
        store.table_once("incoming_algorithmic", folder.name, made_from, algorithmic),
    ).sort("setting")


def _named(table: pl.DataFrame, folder: Path, schema: str) -> pl.DataFrame:
    """The predictions as those of the folder's model."""
    named = table.with_columns(partition=pl.lit(folder.name), model=pl.lit("incoming"))
    return checked(named, schema)


def _check_config(folder: Path) -> None:
    """Whether transformers knows the model, without running code that the folder brings."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"File {folder / 'config.json'} describes no model that transformers loads without code of"
            f" its own ({reason}); take another model."
        ) from error
