"""A job on a machine that no launcher reaches: the last line of the `run.sh` that travels with it.

Runs the job of this folder, on all GPUs of the machine, and puts the result into `result/`, which is a
parcel too. Python's own library has to do until it is known that the other packages are there.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from symtune_pipeline.errors import UserError, brief
from symtune_pipeline.errors.interrupts import run_command

if TYPE_CHECKING:
    from symtune_pipeline.jobs.job import Program

OUTPUT, RESULT, FILES = "work", "result", "files"
INTERRUPTED = "The job was interrupted; `bash run.sh` goes on where it was."


def main() -> int:
    """Run the job and say what to bring back; returns the exit status."""
    folder = Path.cwd()
    told = json.loads((folder / "parcel.json").read_text(encoding="utf-8"))
    try:
        expect(told["expects"])
        from symtune_pipeline.jobs.job import RANK_DIED, Program

        program = Program(told["package"])
        check_job(folder, program)
        if status := _run(folder / "job.json", program):
            if status == RANK_DIED:
                print(f"`bash run.sh` {program.config.goes_on}.", flush=True)
            return status
        print(bring_back(folder, program), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def expect(packages: Mapping[str, str]) -> None:
    """Raises UserError where this machine lacks a package that the folder does not bring.

    Says where it has another version than the machine that the job comes from. Needs nothing but
    Python's own library.
    """
    for name, there in packages.items():
        try:
            here = version(name)
        except PackageNotFoundError:
            raise UserError(
                f"{sys.executable} lacks {name}, which this folder does not bring; name another Python"
                " (PYTHON=... bash run.sh), or have it brought: see wheels and has in the launcher file."
            ) from None
        if here.partition("+")[0] != there:  # what follows it names a build
            print(f"{name} is {here} here, and {there} where the job comes from", flush=True)


def _run(file: Path, program: Program) -> int:
    """Run the job as one process, or as one for each of several GPUs; returns the exit status."""
    try:
        import torch
    except (ImportError, OSError) as error:  # also of a library that it needs
        raise UserError(
            f"torch of {sys.executable} does not start ({brief(error)}); name another Python:"
            " PYTHON=... bash run.sh."
        ) from error
    gpus = torch.cuda.device_count()
    print(
        f"running on {gpus} GPUs" if gpus else "torch sees no GPU: running on the CPU", flush=True
    )
    if gpus > 1:
        from symtune_pipeline.jobs.on_torchrun import run_ranks

        job = ("-m", program.package, "--config", str(file))
        return run_ranks(["--nproc-per-node", str(gpus), *job])
    from symtune_pipeline.jobs.launched import run_launched

    return run_launched(str(file), program, program.run)


def check_job(folder: Path, program: Program) -> None:
    """Raises UserError where the job's file is not that of the job whose result is waited for."""
    from symtune_pipeline.jobs.job_file import opened_job
    from symtune_pipeline.jobs.parcel import read_facts

    with opened_job(str(folder / "job.json"), program.config) as job:
        if job.fingerprint() != read_facts(folder).fingerprint:
            raise UserError(
                f"The job in {folder} is not the one that was sent; copy the folder here again."
            )


def bring_back(folder: Path, program: Program) -> str:
    """Put the result of the job into a parcel; returns the sentence that says what to do with it."""
    from symtune_pipeline.jobs.job_file import opened_job
    from symtune_pipeline.jobs.parcel import Facts, put, read_facts, replace_folder, seal, size_of

    sent, result, beside = read_facts(folder), folder / RESULT, folder / f".{RESULT}"
    shutil.rmtree(beside, ignore_errors=True)  # of a try that was killed
    with opened_job(str(folder / "job.json"), program.config) as job:
        sums = put(job.result_folder, beside, FILES, sent.part_bytes)
    facts = Facts(package=sent.package, fingerprint=sent.fingerprint, part_bytes=sent.part_bytes)
    seal(beside, facts, sums)
    replace_folder(beside, result)
    return (
        f"The job is done: bring back the folder {result} ({size_of(result)}), and run `symtune collect"
        " FOLDER` with it where it comes from."
    )


if __name__ == "__main__":
    sys.exit(run_command(main, INTERRUPTED))
