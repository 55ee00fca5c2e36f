"""Whether a folder holds a whole model: configuration, tokenizer, and every file of its weights."""

from __future__ import annotations

import json
from pathlib import Path

from symtune_pipeline.errors import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def lacking(folder: Path) -> str | None:
    """What keeps a folder from being loaded, as the end of a sentence; None where it is complete."""
    for name in ("config.json", "tokenizer.json"):
        if not _is_json(folder / name):
            return f"{name} is missing or incomplete"
    weights = [folder / WEIGHTS]
    if (folder / INDEX).exists():
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            weights = [folder / name for name in sorted(set(index["weight_map"].values()))]
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
    reason = lacking(folder)
    if reason:
        raise UserError(
            f"Folder {folder} is no complete model: {reason}; put a model there as transformers'"
            " save_pretrained writes it, with its tokenizer."
        )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _is_safetensors(path: Path) -> bool:
    """Whether the file is there in full: its header says how long it is."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except (OSError, SafetensorError):
        return False
