"""`symtune mirror`: copies the experiment's public datasets to a folder or an s3:// prefix."""

from __future__ import annotations

from typing import Annotated

import typer

from symtune_pipeline.catalog.tasksource import tasksource
from symtune_pipeline.commands.common import current_experiment
from symtune_pipeline.environment import mirror_folder
from symtune_pipeline.errors import UserError
from symtune_pipeline.sources.load import public_source
from symtune_pipeline.sources.mirror import Mirror, fill_mirror


def mirror(
    to: Annotated[str, typer.Argument(help="A folder, or an s3://<bucket>/<prefix>.")],
) -> None:
    """Copy the experiment's public datasets to a mirror, from the hub or from SYMTUNE_MIRROR.

    Tasksource's prompts are copied where the experiment or a variant tunes on them.

    Files that the mirror already has are not copied again, so you can resume an interrupted copy.

    Example: symtune mirror /data/hub_mirror
    """
    experiment = current_experiment()
    public = {entry.key: entry.hub for entry in experiment.datasets() if entry.hub}
    if any(each.mixture.source == "tasksource" for each in experiment.tuned().values()):
        public[tasksource().key] = tasksource().hub
    if not public:
        raise UserError(
            f"Experiment '{experiment.name}' has no public datasets to mirror; choose one with `source: hub`,"
            " such as paper."
        )
    fill_mirror(public, public_source(mirror_folder()), Mirror(to), print)
