"""The result of a job that came back from another machine: known, checked, and put where its run looks.

<home>/<experiment>/work/<what is made>/<of which model>/
    awaited.json      which job's result a run waits for
    collected/        the result
    collected.json    of which job it is, and the SHA-256 of its files
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import (
    checksums,
    parse_json,
    read_settings,
    sealed,
    unsealed,
    write_text,
)
from symtune_pipeline.jobs.in_folder import FILES, RESULT
from symtune_pipeline.jobs.job import Job
from symtune_pipeline.jobs.parcel import LIST, read_facts, replace_folder, unpack
from symtune_pipeline.store.folder import WORK

AWAITED, COLLECTED = "awaited.json", "collected"
SEAL = f"{COLLECTED}.json"


def awaited(job: Job) -> str:
    """The text of the file by which a job is known when its result comes."""
    return json.dumps({"package": job.package, "fingerprint": job.fingerprint()})


def collected(job: Job) -> Path | None:
    """The folder of the job's result where it was collected, whole; None where it was not.

    Raises UserError where it was changed since.
    """
    try:
        kept = unsealed(read_settings(job.output_folder / SEAL))
    except (OSError, ValueError):
        return None
    folder = job.output_folder / COLLECTED
    if kept["fingerprint"] != job.fingerprint() or not folder.is_dir():
        return None
    if checksums(folder) != kept["files"]:
        raise UserError(
            f"The result in {folder} was changed since; run `symtune collect` again, or remove that folder."
        )
    return folder


def collect(folder: Path, home: Path) -> Iterator[Path]:
    """Take the result that came back in a folder; yields the work folders of those who wait for it.

    `folder` is the one that `run.sh` has named, or that in which it ran. Raises UserError, which
    names the file where one is at fault, and takes nothing then.
    """
    result = _result_in(folder)
    facts = read_facts(result)
    if (
        result != folder
        and (folder / LIST).exists()
        and read_facts(folder).fingerprint != facts.fingerprint
    ):
        raise UserError(
            f"The result in {result} is of another job than {folder}; bring back the one that belongs"
            " to it."
        )
    waiting = list(_waiting(home, facts.package, facts.fingerprint))
    if not waiting:
        raise UserError(
            f"Nothing in {home} waits for the result in {folder} (job {facts.fingerprint}): its data,"
            " settings or code have changed since, or SYMTUNE_HOME names another place; it was not taken."
        )
    for work in waiting:
        beside = work / f".{COLLECTED}-{uuid4().hex[:8]}"
        try:
            unpack(result, beside)
            files = checksums(beside / FILES)
            if not files:
                raise UserError(f"{result} holds no result; give what `bash run.sh` has named.")
            (work / SEAL).unlink(missing_ok=True)
            replace_folder(beside / FILES, work / COLLECTED)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        write_text(work / SEAL, sealed({"fingerprint": facts.fingerprint, "files": files}))
        yield work


def _result_in(folder: Path) -> Path:
    """The parcel with the result: the folder itself, or `result` in the one where the job ran."""
    inside = folder / RESULT
    if inside.is_symlink():
        raise UserError(f"{inside} is a symbolic link; put the folder itself there.")
    result = inside if inside.is_dir() else folder
    if not (result / LIST).exists():
        raise UserError(
            f"{result} has no {LIST}; copy all of it again, or give the folder that `bash run.sh` has named"
            " at its end."
        )
    if (result / "run.sh").exists():
        raise UserError(
            f"{result} has no result yet; run `bash run.sh` in it on the machine with the GPUs, and bring"
            f" back its folder {RESULT}."
        )
    return result


def _waiting(home: Path, package: str, fingerprint: str) -> Iterator[Path]:
    """The work folders of all experiments whose runs wait for the result of a job."""
    for path in sorted(home.glob(f"*/{WORK}/*/*/{AWAITED}")):
        try:
            known = parse_json(read_settings(path))
        except (OSError, ValueError):
            continue
        if known == {"package": package, "fingerprint": fingerprint}:
            yield path.parent
