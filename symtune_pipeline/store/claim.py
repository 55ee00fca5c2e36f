"""Whose results a store has: the experiment file that made the first of them.

    <root>/experiment.json    {"file": …, "sha256": …}

A store has the name of its experiment. Two files of one name would overwrite each other's results, and
one would be shown those of the other, so the store knows its file: by its path, and a shipped one by its
name. A file that is gone from this machine gives way to one of the same content, because it was moved,
or is that of another machine.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from symtune_pipeline.errors import UserError
from symtune_pipeline.store.folder import Store

CLAIM = "experiment.json"


@dataclass(frozen=True)
class Owner:
    """An experiment file: its resolved path, or the name of a shipped one, and the hash of its text."""

    file: str
    sha256: str


def check_owner(store: Store, owner: Owner) -> None:
    """Raises UserError where the results of the store are those of another experiment file."""
    known = owner_of(store)
    if known is None or known.file == owner.file:
        return
    gone = Path(known.file).is_absolute() and not Path(known.file).exists()
    if gone and known.sha256 == owner.sha256:
        return
    state = "which is not there any more, " if gone else ""
    raise UserError(
        f"The results in {store.address} are those of experiment {known.file}, {state}and {owner.file} has"
        f" the same name; set `name:` in {owner.file} to another one, or remove {store.address}/{CLAIM} if"
        " it may overwrite them."
    )


def claim(store: Store, owner: Owner) -> None:
    """Note the experiment file before something is written; raises UserError as `check_owner` does."""
    check_owner(store, owner)
    if owner_of(store) != owner:
        store.write_text(CLAIM, json.dumps(asdict(owner), indent=1))


def owner_of(store: Store) -> Owner | None:
    """Whom the store belongs to; None where nobody has written there, or where it cannot be told."""
    text = store.read_text(CLAIM)
    try:
        return None if text is None else Owner(**{k: str(v) for k, v in json.loads(text).items()})
    except (ValueError, TypeError, AttributeError):
        return None
