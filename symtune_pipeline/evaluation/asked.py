"""What answers are to, kept beside them: the questions, and the examples whose texts these show.

A suite that is made anew has other questions under the same numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

from symtune_pipeline.contract import Table
from symtune_pipeline.files import write_text
from symtune_pipeline.store.folder import Store

QUESTIONS = "questions.json"


def questions(store: Store, suite: Table, examples: str) -> dict[str, str]:
    """The hash of a suite's table as it is now, and the version of the asset `examples`."""
    table = store.manifest(suite.asset).files[suite.file]
    return {suite.name: table, examples: store.manifest(examples).version}


def keep_questions(asked: dict[str, str], folder: Path) -> None:
    """Note beside the answers in a folder what they are to."""
    write_text(folder / QUESTIONS, json.dumps(asked, indent=1))


def are_to(folder: Path, asked: dict[str, str]) -> bool:
    """Whether the answers in a folder are to these questions; those of an earlier version do not tell."""
    path = folder / QUESTIONS
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == asked
