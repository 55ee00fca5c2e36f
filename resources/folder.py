"""A job as a folder, for a machine that no launcher reaches: it is carried there, and its result back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
from packaging.utils import canonicalize_name

from resources.wheels import build_code, download, needed
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import sha256, write_text
from symtune_pipeline.jobs.collecting import AWAITED, awaited, collected
from symtune_pipeline.jobs.in_folder import OUTPUT
from symtune_pipeline.jobs.job import Job
from symtune_pipeline.jobs.job_file import NAME, with_inputs_beside
from symtune_pipeline.jobs.parcel import LIST, Facts, put, seal, size_of

SCRIPT = Path(__file__).with_name("run.sh")


@dataclass(frozen=True)
class Elsewhere:
    """The machine that will run a job: what it has, and how large a file may be on the way to it."""

    part_bytes: int
    wheels: bool  # whether packages travel along, besides this library
    python: str
    machine: str
    has: tuple[str, ...]


def run_in_folder(
    context: dg.AssetExecutionContext, job: Job, parent: Path, elsewhere: Elsewhere
) -> Path:
    """The result of a job that was collected; where there is none, its folder is written into `parent`.

    Raises UserError that says what to do with it: the step cannot go on before somebody has.
    """
    if result := collected(job):
        context.log.info(f"The {job.name} was done elsewhere; its result was collected.")
        return result
    folder = parent / _name(context, job)
    if folder.exists():
        if not (folder / LIST).is_file():
            raise UserError(f"{folder} is no folder of a job; remove it or rename it.")
        written = "was written before (remove it to have it written again)"
    else:
        parent.mkdir(parents=True, exist_ok=True)
        _write(job, folder, elsewhere)
        written = f"has all that it needs, {size_of(folder)}"
    job.output_folder.mkdir(parents=True, exist_ok=True)
    write_text(job.output_folder / AWAITED, awaited(job))
    raise UserError(
        f"The {job.name} waits to be run elsewhere: {folder} {written}; copy it to the machine with the"
        " GPUs, run `bash run.sh` in it there, bring back what it names at its end, run `symtune collect"
        " FOLDER` with that here, and materialise this asset again."
    )


def _name(context: dg.AssetExecutionContext, job: Job) -> str:
    """The folder's name: what is made, of which model, and of which job it is the result."""
    partition = [context.partition_key] if context.has_partition_key else []
    return "-".join([context.asset_key.to_user_string(), *partition, job.fingerprint()])


def _write(job: Job, folder: Path, elsewhere: Elsewhere) -> None:
    """Write a job's folder beside, then rename it."""
    beside = folder.with_name(f".{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    beside.mkdir()
    try:
        travelling, expected = _packages(job, elsewhere)
        there, names = with_inputs_beside(job.model_copy(update={"checkpoint_url": None}), OUTPUT)
        write_text(beside / NAME, there.model_dump_json(indent=1))
        shutil.copyfile(SCRIPT, beside / SCRIPT.name)
        sums = {name: sha256(beside / name) for name in (NAME, SCRIPT.name)}
        for source, name in names.items():
            sums |= put(source, beside, name, elsewhere.part_bytes)
        sums |= _wheels(travelling, beside, elsewhere)
        facts = Facts(
            package=job.package,
            fingerprint=job.fingerprint(),
            part_bytes=elsewhere.part_bytes,
            python=elsewhere.python if travelling else None,
            machine=elsewhere.machine if travelling else None,
            expects=expected,
        )
        seal(beside, facts, sums)
        os.rename(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _packages(job: Job, elsewhere: Elsewhere) -> tuple[dict[str, str], dict[str, str]]:
    """What a job needs, with versions: the packages that travel, and those that the machine has."""
    has = {canonicalize_name(name) for name in elsewhere.has}
    packages = needed(job.package, elsewhere.python, elsewhere.machine, has)
    stay = has if elsewhere.wheels else set(packages)
    return (
        {name: number for name, number in packages.items() if name not in stay},
        {name: number for name, number in packages.items() if name in stay},
    )


def _wheels(travelling: Mapping[str, str], folder: Path, elsewhere: Elsewhere) -> dict[str, str]:
    """Put this library and the packages that travel into a folder, as wheels; returns their SHA-256."""
    with TemporaryDirectory(prefix="symtune-wheels-") as name:
        build_code(Path(name))
        if travelling:
            download(travelling, Path(name), elsewhere.python, elsewhere.machine)
        return put(Path(name), folder, "wheels", elsewhere.part_bytes)
