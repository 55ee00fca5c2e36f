"""`symtune collect`: the result of a job that ran on a machine which no launcher reaches."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from symtune_pipeline.environment import home_folder
from symtune_pipeline.jobs import collecting


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
            asset, model = work.parts[-2:]
            typer.echo(
                f"{folder}: collected; go on with `symtune run --select {asset} --model {quote(model)}`"
                f" (experiment {work.parts[-4]})"
            )
