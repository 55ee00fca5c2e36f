"""The file that describes a job: on this machine, or on s3 with the job's inputs beside it.

On s3, for a machine that shares no folder with the launcher:

    <url>/job.json    base/    blocks/    checkpoints/    model/ (the result)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from symtune_pipeline.errors import UserError
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.tuning.config import JobConfig

NAME = "job.json"


def put_job(config: JobConfig, bucket: Bucket) -> str:
    """Copy a job and its inputs to a bucket; returns the address of its file."""
    if bucket.read_text(NAME) is None:
        bucket.upload_folder(config.model_folder, "base")
        bucket.upload_folder(config.blocks.parent, "blocks")  # and the held-out prompts
        there = {
            "model_folder": Path("base"),
            "blocks": Path("blocks", config.blocks.name),
            "held_out": config.held_out and Path("blocks", config.held_out.name),
            "output_folder": Path("."),
            "checkpoint_url": bucket.url("checkpoints"),
        }
        # Last: where the file is, everything that it names is.
        bucket.write_text(NAME, config.model_copy(update=there).model_dump_json(indent=1))
    return bucket.url(NAME)


@contextmanager
def opened_job(address: str) -> Iterator[JobConfig]:
    """The job of a file. One on s3 runs in a temporary folder, and its result is put beside it.

    Raises UserError where the file cannot be used.
    """
    if not address.startswith("s3://"):
        yield _read(Path(address), Path(address).parent)
        return
    bucket = Bucket(address.removesuffix(f"/{NAME}"))
    with TemporaryDirectory(prefix="symtune-") as name:
        folder = Path(name)
        bucket.download_file(NAME, folder / NAME)
        bucket.download_folder("base", folder / "base")
        bucket.download_folder("blocks", folder / "blocks")
        yield _read(folder / NAME, folder)
        bucket.upload_folder(folder / "model", "model")


def _read(file: Path, folder: Path) -> JobConfig:
    """The job of a file; relative paths in it are meant from `folder`."""
    try:
        config = JobConfig.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Job file {file} cannot be used ({reason}); write it again.") from error
    names = ("model_folder", "blocks", "held_out", "output_folder")
    paths = {name: path for name in names if (path := getattr(config, name))}
    return config.model_copy(update={name: folder / path for name, path in paths.items()})
