"""The result of a job: a model's folder, and beside its files a summary that guards them all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symtune_pipeline.errors import JobLost
from symtune_pipeline.files import checksums, sealed, unsealed

SUMMARY = "log.json"


def seal_result(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary, with the SHA-256 of every other file of the folder."""
    text = sealed({**summary, "files": checksums(folder)})
    (folder / SUMMARY).write_text(text, encoding="utf-8")


def read_result(folder: Path) -> dict[str, Any]:
    """The summary of a result whose files are all as they were written; raises JobLost for another."""
    try:
        summary = unsealed((folder / SUMMARY).read_bytes())
        found = checksums(folder)
        del found[SUMMARY]
    except (OSError, ValueError) as error:
        raise JobLost(f"The result in {folder} is not whole; start the job again.") from error
    if summary.get("files") != found:
        raise JobLost(f"The result in {folder} was changed since; start the job again.")
    return summary
