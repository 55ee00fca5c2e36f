"""`symtune show model`: shows a model's catalogue entry, the artifacts made from it, and how it runs.

For a folder, it loads the model in it and tries how it runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from symtune_pipeline.catalog.models import HubModel, Model, all_models, find_model
from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.evaluation.predictions import paths
from symtune_pipeline.files import sha256
from symtune_pipeline.models.folder import check_complete
from symtune_pipeline.models.origin import in_words
from symtune_pipeline.store.folder import Store

PROVENANCE = "provenance.json"
MADE_OF_A_MODEL = ("base_model", "packed_mixture")
TUNED = "symbol_tuned_model"  # a variant's has its name behind
ANSWERS = {"eval_icl": "scored", "eval_algorithmic": "generated"}


def model(
    key: Annotated[str, typer.Argument(help="A model of the catalogue, or a folder with a model.")],
) -> None:
    """Show a model: its catalogue entry, the folders of its artifacts, and how it runs.

    Example: symtune show model smollm2-135m
    """
    if key not in all_models() and Path(key).is_dir():
        facts = _of_folder(Path(key))
    else:
        model = find_model(key)
        tuned = [TUNED, *(f"{TUNED}_{variant}" for variant in current_experiment().variants)]
        facts = [*_model_facts(model), *_made(current_store(), model, tuned)]
    grid = Table.grid(padding=(0, 2))
    for name, text in facts:
        grid.add_row(Text(name, style="bold"), Text(text, overflow="fold"))
    Console().print(grid)


def _of_folder(folder: Path) -> list[tuple[str, str]]:
    """How the model in a folder runs; raises UserError where it cannot."""
    from symtune_pipeline.models.device import device_and_precision
    from symtune_pipeline.models.generating import choose_generating
    from symtune_pipeline.models.loading import load_model
    from symtune_pipeline.models.opening import open_model
    from symtune_pipeline.models.proof import attention_of

    check_complete(folder)
    device, precision = device_and_precision()
    model = load_model(folder, precision, device)
    own = open_model(folder, precision, device, attention=None).eval()
    return [
        ("model", f"{type(model).__name__}: {model.num_parameters():,} parameters"),
        ("scoring and tuning", attention_of(model)),
        ("generation", str(choose_generating(own))),
    ]


def _model_facts(model: Model) -> list[tuple[str, str]]:
    tuning = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in model.tuning.model_dump(exclude_none=True).items()
    )
    licence = ", ".join(filter(None, [model.licence, model.terms]))
    return [
        ("model", f"{model.key}: {model.parameters:,} parameters"),
        ("context", f"{model.context_tokens:,} tokens"),
        ("licence", licence),
        *_on_the_hub(model),
        *([("weights also in", f"package {model.package}, quantised")] if model.package else []),
        ("tuned with", tuning),
    ]


def _on_the_hub(model: Model) -> list[tuple[str, str]]:
    if model.base and not model.instruct:
        return [
            ("pretrained only", f"{_at(model.base)}; this model itself is tuned, and has no parent")
        ]
    return [
        ("instruction-tuned", _at(model.base) if model.base else "made here"),
        ("pretrained parent", _at(model.parent) if model.parent else "none"),
    ]


def _at(model: HubModel) -> str:
    return f"{model.repository} at {model.revision or 'no pinned revision'}"


def _made(store: Store, model: Model, tuned: Sequence[str]) -> Iterator[tuple[str, str]]:
    for asset in (*MADE_OF_A_MODEL, *tuned):
        manifest = store.find(asset, model.key)
        command = f"symtune run --select {asset} --model {model.key}"
        if manifest is None:
            yield asset, f"not made yet; `{command}` makes it"
            continue
        folder = store.location(asset, model.key, manifest)
        yield asset, str(folder)
        provenance = folder / PROVENANCE
        # Of a store on s3 it may not have been fetched.
        if provenance.is_file() and sha256(provenance) == manifest.files.get(PROVENANCE):
            found = json.loads(provenance.read_text(encoding="utf-8"))
            yield "its weights", in_words(found)
    for asset, how in ANSWERS.items():
        if store.find(asset, model.key):
            for variant, path in paths(store.read_table(asset, model.key)).items():
                yield f"{how}, {variant}", path
    if store.find("mart_summary"):
        from symtune_pipeline.report.tables import accuracy_text, comparisons, setting_label

        for pair in comparisons(store.read_table("mart_summary").filter(model=model.key)):
            accuracies = " → ".join(accuracy_text(row) for row in pair.rows.values())
            yield setting_label(pair.benchmark, pair.setting), accuracies
