"""Whether a folder holds a whole model: configuration, tokenizer, and every file of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import leads_out, parse_json, read_bounded

MOST_JSON = 1 << 28  # bytes: the largest tokenizers have 40 MB
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def lacking(folder: Path) -> str | None:
    """What keeps a folder from being loaded, as the end of a sentence; None where it is complete.

    Raises OSError where the folder cannot be read.
    """
    for path in sorted(folder.iterdir()):
        if not (path.is_file() or path.is_dir()):  # a pipe would let its reader wait
            return f"{path.name} is no ordinary file"
    for name in ("config.json", "tokenizer.json"):
        if not _is_json(folder / name):
            return f"{name} is missing or incomplete"
    weights = [folder / WEIGHTS]
    if (folder / INDEX).exists():
        try:
            index = _read_json(folder / INDEX)
            names = sorted(set(index["weight_map"].values()))
            weights = [] if any(map(leads_out, names)) else [folder / name for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            weights = []
        if not weights:
            return f"{INDEX} is incomplete"
    for path in weights:
        if not _is_safetensors(path):
            return f"{path.name} is missing or incomplete"
    return None


def check_complete(folder: Path) -> None:
    """Raises UserError where `lacking` names something."""
    try:
        reason = lacking(folder)
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    if reason:
        raise UserError(
            f"Folder {folder} is no complete model: {reason}; put a model there as transformers'"
            " save_pretrained writes it, with its tokenizer."
        )


def _is_json(path: Path) -> bool:
    try:
        return isinstance(_read_json(path), dict)
    except (OSError, ValueError):
        return False


def _read_json(path: Path) -> Any:
    return parse_json(read_bounded(path, MOST_JSON))


def _is_safetensors(path: Path) -> bool:
    """Whether the file is there in full: its header says how long it is."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except (OSError, SafetensorError):
        return False
