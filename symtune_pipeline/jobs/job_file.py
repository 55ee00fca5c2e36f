"""The file that describes a job: on this machine, or on s3 with the job's inputs beside it.

On s3, for a machine that shares no folder with the launcher:

    <url>/job.json    inputs/<number>/…    checkpoints/    <the result's name>/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from pydantic import ValidationError

from symtune_pipeline.errors import UserError
from symtune_pipeline.jobs.job import Job
from symtune_pipeline.store.bucket import Bucket

NAME, INPUTS, CHECKPOINTS = "job.json", "inputs", "checkpoints"

AnyJob = TypeVar("AnyJob", bound=Job)


def put_job(job: Job, bucket: Bucket) -> str:
    """Copy a job and what it reads to a bucket; returns the address of its file."""
    if bucket.read_text(NAME) is None:
        there, names = with_inputs_beside(job, ".")
        staged = there.model_copy(update={"checkpoint_url": bucket.url(CHECKPOINTS)})
        for path, name in names.items():
            if path.is_dir():
                bucket.upload_folder(path, name)
            else:
                bucket.upload_file(path, name)
        # Last: where the file is, everything that it names is.
        bucket.write_text(NAME, staged.model_dump_json(indent=1))
    return bucket.url(NAME)


def with_inputs_beside(job: AnyJob, output: str) -> tuple[AnyJob, dict[Path, str]]:
    """A job as its file has it where all that it reads lies beside, and what is called what there.

    `output` is its output folder there.
    """
    names: dict[Path, str] = {}

    def there(path: Path) -> Path:
        if path == job.output_folder:
            return Path(output)
        own = "" if path.is_dir() else f"/{path.name}"
        return Path(names.setdefault(path, f"{INPUTS}/{len(names)}{own}"))

    return job.moved(there), names


@contextmanager
def opened_job(address: str, kind: type[AnyJob]) -> Iterator[AnyJob]:
    """The job of a file. One on s3 runs in a temporary folder, and its result is put beside it.

    Raises UserError where the file cannot be used.
    """
    if not address.startswith("s3://"):
        yield _read(Path(address), kind)
        return
    bucket = Bucket(address.removesuffix(f"/{NAME}"))
    with TemporaryDirectory(prefix="symtune-") as name:
        folder = Path(name)
        bucket.download_file(NAME, folder / NAME)
        bucket.download_folder(INPUTS, folder / INPUTS)
        job = _read(folder / NAME, kind)
        yield job
        bucket.upload_folder(job.result_folder, kind.result)


def _read(file: Path, kind: type[AnyJob]) -> AnyJob:
    """The job of a file; relative paths in it are meant from the file's folder."""
    try:
        job = kind.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Job file {file} cannot be used ({reason}); write it again.") from error
    return job.moved(lambda path: file.parent / path)
