"""The settings that made the results: kept in the report's folder, since a file may change afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.files import write_text

SETTINGS = "settings.json"
Settings = Mapping[str, Any]


def keep_settings(experiment: Experiment, folder: Path) -> None:
    """Write the settings of `tuned` and of every variant, by name."""
    tuned = {name: each.model_dump(mode="json") for name, each in experiment.tuned().items()}
    write_text(folder / SETTINGS, json.dumps(tuned, indent=1))


def kept_settings(folder: Path) -> dict[str, Settings]:
    """What `keep_settings` wrote; raises UserError where an earlier version made the report."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(
            f"The report in {folder} does not say which settings made it, as an earlier version made it;"
            " run the experiment again."
        )
    kept: dict[str, Settings] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def differences(settings: Mapping[str, Settings]) -> Iterator[tuple[str, list[str]]]:
    """The settings that differ, by their dotted names, each with its value in every experiment."""
    flat = {name: dict(_flat(of)) for name, of in settings.items()}
    for setting in dict.fromkeys(setting for of in flat.values() for setting in of):
        values = [_text(of.get(setting)) for of in flat.values()]
        if len(set(values)) > 1:
            yield setting, values


def _text(value: Any) -> str:
    return "not set" if value is None else str(value)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value
