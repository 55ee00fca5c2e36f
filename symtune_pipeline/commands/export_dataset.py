"""`symtune export dataset`: writes the mixture and the suites to a folder for `datasets.load_dataset`.

    <folder>/README.md
    <folder>/mixture/train-00000-of-00003.parquet     and so on
    <folder>/icl/test-…    flipped/test-…    algorithmic/test-…

Prompts are text here, not references. They are rendered by chunks, so that memory does not grow
with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer
import yaml

from symtune_pipeline.catalog.formats import prompt_formats
from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.commands.export_folder import README, TAG, replacing
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import scan_table
from symtune_pipeline.progress import Progress
from symtune_pipeline.prompts.mixture import drawn_sets
from symtune_pipeline.prompts.text import (
    algorithmic_prompt,
    classification_prompt,
    render,
    tuning_prompt,
)
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import (
    ALGORITHMIC_SUITE,
    CLASSIFICATION_SUITE,
    TUNING_MIXTURE,
    benchmarks_of,
)
from symtune_pipeline.tuning.card import fence, plain

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

PROMPTS_PER_FILE = 50_000
CHUNK = 1_000  # prompts rendered at a time
SPLITS = (
    {"mixture": "train"}
    | dict.fromkeys(benchmarks_of("classification"), "test")
    | {"algorithmic": "test"}
)
CARD = Path(__file__).with_name("dataset_card.md")

Row = dict[str, Any]


def dataset(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one with an earlier export.")],
) -> None:
    """Export the mixture and the evaluation suites as a Hugging Face dataset with a card.

    Example: symtune export dataset /tmp/symbol-tuning
    """
    rows = export_dataset(current_store(), current_experiment(), folder)
    typer.echo(f"{folder}: {', '.join(f'{count:,} {name}' for name, count in rows.items())}")


def export_dataset(store: Store, experiment: Experiment, folder: Path) -> dict[str, int]:
    """Write the dataset into `folder`, in place of an earlier export; returns rows by configuration.

    Raises UserError where a table was not made, where the mixture holds evaluation data or is
    tasksource's, and where `folder` cannot be written or holds anything else.
    """
    from pyarrow import dataset as tables

    if experiment.mixture.source == "tasksource":
        raise UserError(
            f"The prompts of experiment '{experiment.name}' are published already, by tasksource; export an"
            " experiment whose mixture.source is datasets."
        )
    store.input_of("int_contamination", "tuning_mixture")
    if len(store.read_table("int_contamination")):
        raise UserError(
            "The mixture holds evaluation data, which `symtune show table int_contamination` lists;"
            " make the mixture again before exporting it."
        )
    tuning = store.read_input("tuning_mixture", "int_tuning_examples").sort("example")
    evaluation = store.read_input("eval", "int_evaluation_examples").sort("example")
    mixture = tables.dataset(store.folder("tuning_mixture") / TUNING_MIXTURE.file)
    suites = tables.dataset(store.folder("eval") / CLASSIFICATION_SUITE.file)
    instructions = {entry.key: entry.instruction for entry in experiment.datasets()}
    sources: dict[str, tuple[Dataset, Callable[[Row], Row]]] = {
        "mixture": (mixture, partial(_tuning_row, *_texts(tuning), instructions)),
        **{
            name: (
                suites.filter(tables.field("benchmark") == name),
                partial(_classification_row, *_texts(evaluation)),
            )
            for name in benchmarks_of("classification")
        },
        "algorithmic": (
            tables.dataset(store.folder("eval") / ALGORITHMIC_SUITE.file),
            _algorithmic_row,
        ),
    }
    with replacing(folder, {README, *SPLITS}) as beside:
        rows = {
            name: _write(beside / name, name, source, to_row)
            for name, (source, to_row) in sources.items()
        }
        text = _card(store, experiment, {name: count for name, count in rows.items() if count})
        (beside / README).write_text(text, encoding="utf-8")
    return rows


def _schemas() -> dict[str, pa.Schema]:
    """The columns of each configuration, as the card describes them."""
    import pyarrow as pa

    text, texts, index = pa.string(), pa.list_(pa.string()), pa.uint16()
    classification = {
        "prompt": text,
        "target": text,
        "labels": texts,
        "target_index": index,
        "dataset": text,
        "setting": text,
        "flipped_percent": pa.int32(),
        "context": pa.uint32(),
        "format": text,
        "examples": texts,
    }
    columns = {
        "mixture": {
            "prompt": text,
            "completion": text,
            "labels": texts,
            "targets": pa.list_(index),
            "instructed": pa.bool_(),
            "dataset": text,
            "format": text,
            "examples": texts,
        },
        **dict.fromkeys(benchmarks_of("classification"), classification),
        "algorithmic": {
            "prompt": text,
            "target": text,
            "dataset": text,
            "setting": text,
            "concept": text,
            "category": text,
        },
    }
    return {name: pa.schema(list(fields.items())) for name, fields in columns.items()}


def _tuning_row(
    inputs: Sequence[str], ids: Sequence[str], instructions: Mapping[str, str], row: Row
) -> Row:
    *before, query_label = tuning_prompt(row, inputs, instructions)
    return {
        "prompt": render(before),
        "completion": query_label.text,
        "labels": row["labels"],
        "targets": row["targets"],
        "instructed": row["instructed"],
        "dataset": row["dataset"],
        "format": prompt_formats()[row["format"]].name,
        "examples": [ids[example] for example in row["examples"]],
    }


def _classification_row(inputs: Sequence[str], ids: Sequence[str], row: Row) -> Row:
    return {
        "prompt": render(classification_prompt(row, inputs)),
        "target": row["labels"][row["target"]],
        "labels": row["labels"],
        "target_index": row["target"],
        "dataset": row["dataset"],
        "setting": row["setting"],
        "flipped_percent": row["flipped_percent"],
        "context": row["context"],
        "format": prompt_formats()[row["format"]].name,
        "examples": [ids[example] for example in (*row["exemplars"], row["query"])],
    }


def _algorithmic_row(row: Row) -> Row:
    return {
        "prompt": render(algorithmic_prompt(row)),
        "target": row["target"],
        "dataset": row["benchmark"],
        "setting": row["setting"],
        "concept": row["concept"],
        "category": row["category"],
    }


def _texts(examples: pl.DataFrame) -> tuple[list[str], list[str]]:
    """Inputs and names by example number."""
    return examples["input"].to_list(), examples["example_id"].to_list()


def _write(folder: Path, name: str, source: Dataset, to_row: Callable[[Row], Row]) -> int:
    """Render every row of the source into files of at most `PROMPTS_PER_FILE`; returns their number."""
    import pyarrow as pa
    from pyarrow import parquet

    total = int(source.count_rows())
    files = -(-total // PROMPTS_PER_FILE)
    schema = _schemas()[name]
    progress = Progress(name, total, "prompts")
    rows = (
        to_row(row)
        for batch in source.to_batches(batch_size=CHUNK, batch_readahead=1)
        for row in batch.to_pylist()
    )
    done = 0
    for number in range(files):
        folder.mkdir(exist_ok=True)
        path = folder / f"{SPLITS[name]}-{number:05d}-of-{files:05d}.parquet"
        of_file = islice(rows, PROMPTS_PER_FILE)
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            while chunk := list(islice(of_file, CHUNK)):
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                done += len(chunk)
                progress(done)
    return total


def _card(store: Store, experiment: Experiment, rows: dict[str, int]) -> str:
    from huggingface_hub import DatasetCard, DatasetCardData

    drawn = drawn_sets(scan_table(store.folder("tuning_mixture") / TUNING_MIXTURE.file))
    datasets = [
        entry for entry in experiment.datasets() if entry.role == "evaluation" or entry.key in drawn
    ]
    licences = {dataset.licence for dataset in datasets}
    data = DatasetCardData(
        language="en",
        # The hub knows licences in lower case, and no name for a mix of them.
        license=licences.pop().lower() if licences == {"Apache-2.0"} else "other",
        pretty_name=f"Symbol tuning, experiment {experiment.name}",
        task_categories=["text-classification", "text-generation"],
        tags=[TAG, "in-context-learning", "symbol-tuning"],
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": SPLITS[name], "path": f"{name}/{SPLITS[name]}-*.parquet"}],
            }
            for name in rows
        ],
    )
    assets = ("tuning_mixture", "eval", "symbol_pool")
    card = DatasetCard.from_template(
        data,
        template_path=str(CARD),
        plain=plain,
        fence=fence,
        experiment=experiment.name,
        seed=experiment.seed,
        chat=experiment.evaluation.chat_template,
        rows=rows,
        settings=yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False),
        versions={name: store.manifest(name).version for name in assets},
        datasets=[(entry, store.manifest(f"raw_{entry.key}").version) for entry in datasets],
    )
    return f"{card}\n"
