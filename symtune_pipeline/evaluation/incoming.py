"""Models that someone else has put into a folder: whether one is complete, and how it does.

A folder may be looked at while it is being copied. What a model needs is checked file by file, so that
no time has to pass before a folder is taken for complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from symtune_pipeline.evaluation.accuracy import by_setting
from symtune_pipeline.evaluation.predictions import of_model
from symtune_pipeline.files import content_hash, name_fault, sha256
from symtune_pipeline.models.folder import check_complete, lacking
from symtune_pipeline.progress import Progress
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import ALGORITHMIC_PREDICTIONS, CLASSIFICATION_PREDICTIONS


def fingerprint(folder: Path) -> str:
    """Changes when a file of the folder is replaced; reads no weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return content_hash(facts)[:12]


def unready(folder: Path) -> str | None:
    """Why a dropped folder is not evaluated yet, as the end of a sentence; None where it can be.

    Whatever is odd about a folder is a reason of its own: the others beside it do not wait for it.
    """
    if fault := name_fault(folder.name):
        return f"its name cannot be used: {fault}"
    try:
        return lacking(folder)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def score_folder(
    store: Store,
    folder: Path,
    classification: pl.DataFrame,
    algorithmic: pl.DataFrame,
    inputs: Sequence[str],
    versions: Sequence[str],
    config: EvaluationConfig,
    say: Callable[[str], None],
) -> pl.DataFrame:
    """Accuracy of the model in `folder` on the two suites, with 95% Wilson intervals.

    A row per setting of every benchmark, as `by_setting` gives them, by name. `inputs` are those of
    the classification suite by example number, `versions` those of the suites, the inputs and the code
    that asks. The predictions are kept in the store as `incoming_classification` and
    `incoming_algorithmic`, by the folder's name; where they were made from the same files and versions
    on a device of the same kind, they are read from there.
    Raises UserError where the folder holds no complete model that transformers loads, and where
    `SegmentTokenizer` does.
    """
    check_complete(folder)
    from symtune_pipeline.evaluation.classification import classify
    from symtune_pipeline.evaluation.generation import generate
    from symtune_pipeline.models.device import device_and_precision
    from symtune_pipeline.models.opening import open_tokenizer, read_config
    from symtune_pipeline.prompts.tokens import SegmentTokenizer

    read_config(folder)
    SegmentTokenizer(
        open_tokenizer(folder), config.chat_template
    )  # says at once what it cannot take

    name = folder.name
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    held = list(map(str, device_and_precision(config.precision)))
    form = config.chat_template, held, list(CLASSIFICATION_PREDICTIONS.columns)
    made_from = content_hash([files, list(versions), form])
    by_channel = content_hash([made_from, config.channel])

    def ranked() -> pl.DataFrame:
        progress = Progress(name, len(classification), "queries", say)
        predictions = classify(folder, classification, inputs, config, progress)
        return CLASSIFICATION_PREDICTIONS.checked(of_model(predictions, name, "incoming"))

    def generated() -> pl.DataFrame:
        progress = Progress(name, len(algorithmic), "queries", say)
        predictions = generate(folder, algorithmic, config, progress)
        return ALGORITHMIC_PREDICTIONS.checked(of_model(predictions, name, "incoming"))

    return by_setting(
        store.table_once("incoming_classification", name, by_channel, ranked),
        store.table_once("incoming_algorithmic", name, made_from, generated),
    ).sort("setting")
