"""`symtune collect`: the result of a job that ran on a machine which no launcher reaches."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from symtune_pipeline.commands.common import store_named
from symtune_pipeline.environment import home_folder
from symtune_pipeline.jobs import collecting
from symtune_pipeline.store.claim import owner_of


def collect(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="What `bash run.sh` said to bring back."),
    ],
) -> None:
    """Check the result of a job that ran elsewhere, and keep it for the next materialisation.

    Example: symtune collect /media/stick/result
    """
    for folder in folders:
        for work in collecting.collect(folder, home_folder()):
            name, _, asset, model = work.parts[-4:]
            options = {"experiment": experiment_of(name), "select": asset, "model": model}
            written = " ".join(f"--{option} {quote(value)}" for option, value in options.items())
            typer.echo(f"{folder}: collected; go on with `symtune run {written}`")


def experiment_of(name: str) -> str:
    """What `--experiment` takes for the experiment whose results have a name: its file, or a shipped one."""
    owner = owner_of(store_named(name))
    if owner is None:
        return name
    file = Path(owner.file)
    shipped = file.relative_to(file.parts[0]).with_suffix("").as_posix()
    return owner.file if file.is_absolute() else shipped
